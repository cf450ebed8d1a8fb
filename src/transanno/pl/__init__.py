"""Plots of predictions."""

from __future__ import annotations

from transanno.pl._confusion_matrix import confusion_matrix
from transanno.pl._umap import umap

__all__ = ["confusion_matrix", "umap"]
