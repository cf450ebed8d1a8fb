"""Predictions and the query's labels -> what is stored of one cell of the table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import precision_recall_fscore_support
from torchmetrics.functional.classification import binary_calibration_error

from benchmarks.accuracy._calls import pack
from benchmarks.accuracy._methods import UNLABELED


def score(
    truth: np.ndarray, labels: np.ndarray, confidence: np.ndarray | None, reference_labels: np.ndarray
) -> dict[str, Any]:
    """Macro-F1 over the types that both sides have, and accuracy, of the query's cells of these types.

    A prediction of any other type is an error. ``per_type`` holds for each of these types the labeled reference cells,
    the query cells, recall and F1; ``calls`` what :func:`~benchmarks.accuracy._calls.unpack` reads.
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


def _codes(labels: np.ndarray, types: list[str]) -> np.ndarray:
    """Labels -> position among the types, and the number of types for any other label."""
    codes = pd.Index(types, dtype=object).get_indexer(pd.Index(labels.astype(str), dtype=object))
    return np.where(codes < 0, len(types), codes)


def _calibration_error(confidence: np.ndarray, is_right: np.ndarray) -> float:
    """-> expected calibration error in [0, 1], 15 bins of equal width."""
    # A softmax in float32 can end above 1 by a rounding.
    probability = torch.from_numpy(np.clip(confidence, 0.0, 1.0))
    return float(binary_calibration_error(probability, torch.from_numpy(is_right.astype(int)), n_bins=15))


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
