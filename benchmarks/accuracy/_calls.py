"""Types and calls of single cells as text, and macro-F1 of them; without torch, which a report does not need."""

from __future__ import annotations

import base64
import zlib

import numpy as np


def pack(truth: np.ndarray, called: np.ndarray) -> str:
    """Codes of the scored cells' types and calls ``(n_scored,)``, both below 255 -> text."""
    return base64.b64encode(zlib.compress(np.stack([truth, called]).astype(np.uint8).tobytes(), 9)).decode()


def unpack(calls: str) -> np.ndarray:
    """Text -> codes of types and calls ``(2, n_scored)``; the code after the last type stands for all other calls."""
    return np.frombuffer(zlib.decompress(base64.b64decode(calls)), dtype=np.uint8).reshape(2, -1).astype(int)


def macro_f1(codes: np.ndarray, n_types: int) -> float:
    """Codes of types and calls ``(2, n_scored)`` -> macro-F1; a type without a cell, as resampling can leave it, has none.

    scikit-learn's takes a hundred times as long, and resampling calls it a hundred thousand times.
    """
    truth, called = codes
    n_true = np.bincount(truth, minlength=n_types + 1)[:n_types]
    n_called = np.bincount(called, minlength=n_types + 1)[:n_types]
    n_right = np.bincount(truth[truth == called], minlength=n_types + 1)[:n_types]
    is_there = n_true > 0
    return float((2 * n_right / np.maximum(n_true + n_called, 1))[is_there].mean())
