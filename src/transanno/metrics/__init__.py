"""How good annotations are: labels and probabilities in, tables out. No AnnData, no model."""

from __future__ import annotations

from transanno.metrics._confusion import confusion_matrix
from transanno.metrics._cross_validation import CrossValidation
from transanno.metrics._evaluate import evaluate
from transanno.metrics._evaluation import Evaluation
from transanno.metrics._roc_auc import roc_auc_per_class

__all__ = ["CrossValidation", "Evaluation", "confusion_matrix", "evaluate", "roc_auc_per_class"]
