"""Torch only: tensors in, tensors out. Nothing here knows about AnnData."""

from __future__ import annotations

from transanno.nn._attribution import CellReading, attribute
from transanno.nn._build import (
    ENCODERS,
    HEADS,
    Architecture,
    Encoder,
    build_classifier,
    build_encoder,
    build_expression_head,
    fill_architecture,
)
from transanno.nn._encoder import Context, EncoderOutput, ViewEncoder
from transanno.nn._expression import (
    bin_expression,
    commonest_bins,
    count_bins,
    distance_from,
    normalize_counts,
    perturb_genes,
    sample_expressed_mask,
    sample_gene_mask,
    sample_panel,
    sparse_rows,
    sum_over_cells,
    sum_over_genes,
    thin_counts,
)
from transanno.nn._favor import draw_projection, favor_attention
from transanno.nn._heads import CellTypeHead, ConvHead, ExpressionHead, Shares, TokenExpressionHead
from transanno.nn._performer import PerformerEncoder, PerformerLayer
from transanno.nn._transformer import TransformerBlock

__all__ = [
    "ENCODERS",
    "HEADS",
    "Architecture",
    "CellReading",
    "CellTypeHead",
    "Context",
    "ConvHead",
    "Encoder",
    "EncoderOutput",
    "ExpressionHead",
    "PerformerEncoder",
    "PerformerLayer",
    "Shares",
    "TokenExpressionHead",
    "TransformerBlock",
    "ViewEncoder",
    "attribute",
    "bin_expression",
    "build_classifier",
    "build_encoder",
    "build_expression_head",
    "commonest_bins",
    "count_bins",
    "distance_from",
    "draw_projection",
    "favor_attention",
    "fill_architecture",
    "normalize_counts",
    "perturb_genes",
    "sample_expressed_mask",
    "sample_gene_mask",
    "sample_panel",
    "sparse_rows",
    "sum_over_cells",
    "sum_over_genes",
    "thin_counts",
]
