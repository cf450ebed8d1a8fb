"""Torch only: tensors in, tensors out. Nothing here knows about AnnData."""

from __future__ import annotations

from transanno.nn._encoder import ENCODERS, EncoderOutput, SlotEncoder
from transanno.nn._expression import (
    bin_expression,
    normalize_counts,
    sample_expressed_mask,
    sample_gene_mask,
    sparse_rows,
    sum_over_genes,
    thin_counts,
)
from transanno.nn._heads import CellTypeHead, ExpressionHead
from transanno.nn._slot_attention import SlotAttention
from transanno.nn._transformer import TransformerBlock

__all__ = [
    "ENCODERS",
    "CellTypeHead",
    "EncoderOutput",
    "ExpressionHead",
    "SlotAttention",
    "SlotEncoder",
    "TransformerBlock",
    "bin_expression",
    "normalize_counts",
    "sample_expressed_mask",
    "sample_gene_mask",
    "sparse_rows",
    "sum_over_genes",
    "thin_counts",
]
