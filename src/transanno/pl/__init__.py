"""Plots of predictions and of how good they are."""

from __future__ import annotations

from transanno.pl._confusion_matrix import confusion_matrix
from transanno.pl._evidence import evidence
from transanno.pl._metrics import metrics
from transanno.pl._umap import umap

__all__ = ["confusion_matrix", "evidence", "metrics", "umap"]
