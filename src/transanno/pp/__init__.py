"""Preprocessing: from count matrices to data on one set of genes."""

from __future__ import annotations

from transanno.data._vocabulary import read_vocabulary, write_vocabulary
from transanno.pp._align import align_genes
from transanno.pp._check import CheckReport, Finding, check
from transanno.pp._merge import merge
from transanno.pp._preprocess import preprocess

__all__ = [
    "CheckReport",
    "Finding",
    "align_genes",
    "check",
    "merge",
    "preprocess",
    "read_vocabulary",
    "write_vocabulary",
]
