"""Parts of the network by the names that the models' arguments take."""

from __future__ import annotations

import inspect
from typing import Any

from transanno._constants import N_BINS
from transanno.nn._encoder import ViewEncoder
from transanno.nn._heads import CellTypeHead, ConvHead, ExpressionHead, TokenExpressionHead
from transanno.nn._performer import PerformerEncoder

Encoder = ViewEncoder | PerformerEncoder

ENCODERS: dict[str, type[ViewEncoder] | type[PerformerEncoder]] = {"views": ViewEncoder, "performer": PerformerEncoder}
"""Encoders by the name that the models' ``encoder`` argument takes."""

HEADS: dict[str, type[CellTypeHead] | type[ConvHead]] = {"experts": CellTypeHead, "conv": ConvHead}
"""Cell-type heads by the name that the models' ``head`` argument takes."""


def encoder_arguments(encoder: str, given: dict[str, Any]) -> dict[str, Any]:
    """Name of an encoder, arguments that may be None -> those of the encoder, defaults filled in.

    Raises
    ------
    ValueError
        If the encoder is unknown or does not take one of the arguments.
    """
    if encoder not in ENCODERS:
        raise ValueError(f"encoder={encoder!r} is not known. Allowed: {', '.join(map(repr, ENCODERS))}.")
    parameters = inspect.signature(ENCODERS[encoder]).parameters
    taken = {name: parameters[name].default for name in given if name in parameters}
    given = {name: value for name, value in given.items() if value is not None}
    unknown = [f"{name}={value!r}" for name, value in given.items() if name not in parameters]
    if unknown:
        raise ValueError(
            f"{', '.join(unknown)} does not apply to encoder={encoder!r}, which takes {', '.join(taken)}. Leave it out, "
            "or choose another encoder. (The cell state of the Performer is as wide as its tokens, n_hidden.)"
        )
    return {**taken, **given}


def default_head(encoder: str) -> str:
    """Name of an encoder -> name of its cell-type head, where none is asked for."""
    return "conv" if ENCODERS[encoder].has_gene_tokens else "experts"


def build_classifier(
    head: str, encoder: Encoder, *, n_vars: int, n_labels: int, dropout_rate: float
) -> CellTypeHead | ConvHead:
    """-> the cell-type head of that name; ValueError if there is none."""
    if head not in HEADS:
        raise ValueError(f"head={head!r} is not known. Allowed: {', '.join(map(repr, HEADS))}.")
    n_networks = {"n_networks": encoder.n_networks} if head == "experts" else {}
    return HEADS[head](
        n_vars=n_vars,
        n_tokens=encoder.n_tokens,
        n_hidden=encoder.n_hidden,
        n_latent=encoder.n_latent,
        n_labels=n_labels,
        dropout_rate=dropout_rate,
        **n_networks,
    )


def build_expression_head(encoder: Encoder, *, n_vars: int) -> ExpressionHead | TokenExpressionHead:
    """-> the head that reads the genes' own tokens, or the cell state where genes have none."""
    if encoder.has_gene_tokens:
        return TokenExpressionHead(n_hidden=encoder.n_hidden)
    return ExpressionHead(n_latent=encoder.n_latent, n_hidden=encoder.n_hidden, n_vars=n_vars, n_bins=N_BINS)
