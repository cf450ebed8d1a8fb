"""Predictions and the query's labels -> what is stored of one cell of the table."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
import torch
from sklearn.metrics import precision_recall_fscore_support
from torchmetrics.functional.classification import binary_calibration_error

from benchmarks.accuracy._methods import UNLABELED


def score(
    truth: np.ndarray, labels: np.ndarray, confidence: np.ndarray | None, reference_labels: np.ndarray
) -> dict[str, Any]:
    """Macro-F1 over the types that both sides have, and accuracy, of the query's cells of these types.

    A prediction of any other type is an error. ``per_type`` holds for each of these types the labeled reference cells,
    the query cells, recall and F1; ``calls`` what :func:`unpack` reads.
    """
    names, counts = np.unique(reference_labels[reference_labels != UNLABELED].astype(str), return_counts=True)
    n_reference = dict(zip(names, counts, strict=True))
    types = sorted(set(truth) & set(n_reference))
    is_scored = np.isin(truth.astype(str), types)
    is_right = (truth == labels)[is_scored]
    _, recall, f1, n_query = precision_recall_fscore_support(
        truth[is_scored].astype(str), labels[is_scored].astype(str), labels=types, zero_division=0.0
    )
    scores: dict[str, Any] = {
        "macro_f1": float(f1.mean()),
        "accuracy": float(is_right.mean()),
        "n_scored": int(is_scored.sum()),
        "n_unknown": int((~is_scored).sum()),
        "per_type": {
            name: [int(n_reference[name]), int(n_query[i]), round(float(recall[i]), 4), round(float(f1[i]), 4)]
            for i, name in enumerate(types)
        },
        "calls": pack(_codes(truth[is_scored], types), _codes(labels[is_scored], types)),
    }
    if confidence is not None:
        scores |= {
            "ece": _calibration_error(confidence[is_scored], is_right),
            "confidence_right": _mean(confidence[is_scored][is_right]),
            "confidence_wrong": _mean(confidence[is_scored][~is_right]),
            "confidence_unknown": _mean(confidence[~is_scored]),
        }
    return scores


def pack(truth: np.ndarray, called: np.ndarray) -> str:
    """Codes of the scored cells' types and calls ``(n_scored,)``, both below 255 -> text."""
    return base64.b64encode(zlib.compress(np.stack([truth, called]).astype(np.uint8).tobytes(), 9)).decode()


def unpack(calls: str) -> np.ndarray:
    """Text -> codes of types and calls ``(2, n_scored)``; the code after the last type stands for all other calls."""
    return np.frombuffer(zlib.decompress(base64.b64decode(calls)), dtype=np.uint8).reshape(2, -1).astype(int)


def macro_f1(codes: np.ndarray, n_types: int) -> float:
    """Codes of types and calls ``(2, n_scored)`` -> macro-F1; a type without a cell, as resampling can leave it, has none."""
    truth, called = codes
    n_true = np.bincount(truth, minlength=n_types + 1)[:n_types]
    n_called = np.bincount(called, minlength=n_types + 1)[:n_types]
    n_right = np.bincount(truth[truth == called], minlength=n_types + 1)[:n_types]
    is_there = n_true > 0
    return float((2 * n_right / np.maximum(n_true + n_called, 1))[is_there].mean())


def _codes(labels: np.ndarray, types: list[str]) -> np.ndarray:
    """Labels -> position among the types, and the number of types for any other label."""
    found = {name: i for i, name in enumerate(types)}
    return np.array([found.get(str(label), len(types)) for label in labels])


def _calibration_error(confidence: np.ndarray, is_right: np.ndarray) -> float:
    """-> expected calibration error in [0, 1], 15 bins of equal width."""
    # A softmax in float32 can end above 1 by a rounding.
    probability = torch.from_numpy(np.clip(confidence, 0.0, 1.0))
    return float(binary_calibration_error(probability, torch.from_numpy(is_right.astype(int)), n_bins=15))


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
