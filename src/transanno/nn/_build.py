"""Parts of the network by the names that the models' arguments take."""

from __future__ import annotations

import inspect
from typing import Any, TypedDict, cast

from transanno._constants import N_BINS
from transanno.nn._encoder import ViewEncoder
from transanno.nn._heads import CellTypeHead, ConvHead, ExpressionHead, TokenExpressionHead
from transanno.nn._performer import PerformerEncoder

Encoder = ViewEncoder | PerformerEncoder

ENCODERS: dict[str, type[ViewEncoder] | type[PerformerEncoder]] = {"views": ViewEncoder, "performer": PerformerEncoder}
"""Encoders by the name that the models' ``encoder`` argument takes."""

HEADS: dict[str, type[CellTypeHead] | type[ConvHead]] = {"experts": CellTypeHead, "conv": ConvHead}
"""Cell-type heads by the name that the models' ``head`` argument takes."""


class Architecture(TypedDict, total=False):
    """The network: arguments of the models, all of them optional."""

    encoder: str
    """``"views"``, the default: Transformer layers over three views of a cell, each a sum over all genes. ``"performer"``: that
    of the paper, a token per gene. Much slower; train it in small minibatches (``batch_size``)."""
    head: str | None
    """Cell-type head. ``"experts"``: linear in the cell state, beside a regression and mean directions of types, the default
    with views. ``"conv"``: that of the paper, a convolution and a perceptron over the tokens, the default with the Performer."""
    n_hidden: int | None
    """Width of a token. Default: 48 with views, where it is a multiple of ``n_heads``; 200 in the Performer."""
    n_latent: int | None
    """Width of the cell state. Default: 64 with views, where it is a multiple of ``n_networks``; in the Performer it is
    ``n_hidden``."""
    n_networks: int | None
    """Number of networks that are averaged, only with views. Default: 2."""
    n_layers: int | None
    """Number of Transformer layers. Default: 1 with views, 6 in the Performer."""
    n_heads: int | None
    """Number of attention heads in a layer. Default: 2 with views, 10 in the Performer."""
    head_dim: int | None
    """Width of an attention head, only in the Performer. Default: 64."""
    n_features: int | None
    """Random features of the attention, only in the Performer. Default: ``int(head_dim * log(head_dim))``."""
    dropout_rate: float
    """Dropout in the cell-type head. Default: 0.1."""


_OF_ENCODER = ("n_hidden", "n_latent", "n_networks", "n_layers", "n_heads", "head_dim", "n_features")


def fill_architecture(given: Architecture, *, has_labels: bool) -> Architecture:
    """Arguments, some of them None or left out -> all that apply, with defaults.

    Raises
    ------
    ValueError
        If the encoder is unknown or does not take one of the arguments.
    """
    encoder = given.get("encoder", "views")
    if encoder not in ENCODERS:
        raise ValueError(f"encoder={encoder!r} is not known. Allowed: {', '.join(map(repr, ENCODERS))}.")
    parameters = inspect.signature(ENCODERS[encoder]).parameters
    taken = {name: parameters[name].default for name in _OF_ENCODER if name in parameters}
    asked = {name: value for name, value in given.items() if name in _OF_ENCODER and value is not None}
    unknown = [f"{name}={value!r}" for name, value in asked.items() if name not in parameters]
    if unknown:
        raise ValueError(
            f"{', '.join(unknown)} does not apply to encoder={encoder!r}, which takes {', '.join(taken)}. Leave it out, "
            "or choose another encoder. (The cell state of the Performer is as wide as its tokens, n_hidden.)"
        )
    filled: dict[str, Any] = {"encoder": encoder, **taken, **asked, "dropout_rate": given.get("dropout_rate", 0.1)}
    if has_labels:
        filled["head"] = given.get("head") or ("conv" if ENCODERS[encoder].has_gene_tokens else "experts")
        if filled["head"] not in HEADS:
            raise ValueError(f"head={filled['head']!r} is not known. Allowed: {', '.join(map(repr, HEADS))}.")
    return cast(Architecture, filled)


def build_encoder(architecture: Architecture, *, n_vars: int) -> Encoder:
    """-> the encoder of that name."""
    given: dict[str, Any] = dict(architecture)
    return ENCODERS[architecture["encoder"]](
        n_vars=n_vars, **{name: given[name] for name in _OF_ENCODER if name in given}
    )


def build_classifier(
    architecture: Architecture, encoder: Encoder, *, n_vars: int, n_labels: int
) -> CellTypeHead | ConvHead:
    """-> the cell-type head of that name."""
    head = str(architecture["head"])
    n_networks = {"n_networks": encoder.n_networks} if head == "experts" else {}
    return HEADS[head](
        n_vars=n_vars,
        n_tokens=encoder.n_tokens,
        n_hidden=encoder.n_hidden,
        n_latent=encoder.n_latent,
        n_labels=n_labels,
        dropout_rate=architecture["dropout_rate"],
        **n_networks,
    )


def build_expression_head(encoder: Encoder, *, n_vars: int) -> ExpressionHead | TokenExpressionHead:
    """-> the head that reads the genes' own tokens, or the cell state where genes have none."""
    if encoder.has_gene_tokens:
        return TokenExpressionHead(n_hidden=encoder.n_hidden)
    return ExpressionHead(n_latent=encoder.n_latent, n_hidden=encoder.n_hidden, n_vars=n_vars, n_bins=N_BINS)
