"""The whole network as one pure function."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from transanno.jax import _heads, _performer, _views
from transanno.jax._expression import Context, normalize_counts
from transanno.jax._weights import Weights, part_of
from transanno.predictions._run import Outputs

# By the names that the models' arguments take.
_ENCODERS: dict[str, Any] = {"views": _views, "performer": _performer}
_HEADS: dict[str, Any] = {"experts": _heads.experts, "conv": _heads.conv}


def forward(
    weights: Weights,
    counts: Array,
    is_missing: Array | None = None,
    batch: Array | None = None,
    center: Array | None = None,
    *,
    axes: Array | None = None,
) -> Outputs:
    """Counts of cells through the network.

    A pure function of arrays, for :func:`jax.jit`, :func:`jax.vmap` and :func:`jax.grad`. Products are computed in full float32
    on every device.

    Parameters
    ----------
    weights
        Those of ``Predictor.weights``.
    counts
        Raw counts ``(..., n_vars)`` in the order of the model's genes; a cell is a vector, and cells may have any leading axes.
        Where the model normalizes by all counts of a cell, the last column is the sum over all other genes.
    is_missing
        ``(n_vars,)`` bool, True for genes that were not measured. Default: none.
    batch
        Codes of the batches ``(...)``, -1 for one that the model does not know. Default: all unknown.
    center
        Mean log-expression of the data set that the cells are of ``(n_vars,)``. Default: that of the reference.
    axes
        What log-expression is projected on ``(n_vars, width)``. Default: nothing.

    Returns
    -------
    ``logits (..., n_labels)``, cell states ``z (..., n_latent)``, ``projected (..., width)`` and ``is_empty (...)``.

    Examples
    --------
    >>> import jax
    >>> predictor = transanno.jax.load_predictor("exported/")
    >>> outputs = jax.jit(transanno.jax.forward)(predictor.weights, counts)
    """
    expression = normalize_counts(counts, mask_of(weights, is_missing), has_others=weights.has_others)
    return forward_expression(weights, expression, is_missing, batch, center, axes=axes)


def forward_expression(
    weights: Weights,
    expression: Array,
    is_missing: Array | None = None,
    batch: Array | None = None,
    center: Array | None = None,
    *,
    axes: Array | None = None,
) -> Outputs:
    """The same of log1p of counts per 10,000 ``(..., n_vars)``, zero where masked."""
    with jax.default_matmul_precision("highest"):
        is_masked = mask_of(weights, is_missing)
        batch = embed_batch(weights, jnp.full(expression.shape[:-1], -1) if batch is None else batch)
        context = context_of(weights, is_masked, center)
        logits, z = apply(weights, read(weights, expression, is_masked), expression, is_masked, batch, context)
        projected = expression[..., :0] if axes is None else expression @ axes
    return Outputs(logits, z, projected, ~(expression > 0).any(axis=-1))  # type: ignore[arg-type]  # arrays of JAX


def mask_of(weights: Weights, is_missing: Array | None) -> Array:
    """Genes that the data lack -> columns that the network does not see ``(n_vars,)``."""
    n_vars = len(weights.arrays["mean_expression"])
    is_other = (jnp.arange(n_vars) == n_vars - 1) & weights.has_others
    return is_other if is_missing is None else is_other | is_missing


def context_of(weights: Weights, is_masked: Array, center: Array | None) -> Context:
    """Masked genes, mean of the data set ``(n_vars,)`` or None -> context of its cells."""
    mean = weights.arrays["mean_expression"]
    return Context(*(jnp.where(is_masked, 0.0, values) for values in (mean if center is None else center, mean)))


def embed_batch(weights: Weights, batch: Array) -> Array:
    """Codes ``(...)`` -> ``(..., n_hidden)``."""
    return weights.arrays["batch_embedding.weight"][batch]


def read(weights: Weights, expression: Array, is_masked: Array) -> Array:
    """Expression ``(..., n_vars)`` -> what the encoder makes of every gene by itself ``(..., n_vars, ...)``."""
    encoder = _ENCODERS[dict(weights.architecture)["encoder"]]
    return encoder.read(part_of(weights.arrays, "encoder"), expression, is_masked)


def share_among_genes(weights: Weights, gradient: Array, reading: Array, expression: Array) -> Array:
    """Gradient by the reading, differences of readings and of expression -> share of genes ``(..., n_vars)``."""
    return _ENCODERS[dict(weights.architecture)["encoder"]].share_among_genes(gradient, reading, expression)


def apply(
    weights: Weights, reading: Array, expression: Array, is_masked: Array, batch: Array, context: Context
) -> tuple[Array, Array]:
    """What :func:`read` gave, expression ``(..., n_vars)`` and batch ``(..., n_hidden)`` -> logits, cell states."""
    architecture = dict(weights.architecture)
    encoder, head = _ENCODERS[architecture["encoder"]], _HEADS[architecture["head"]]
    tokens, z = encoder.encode(part_of(weights.arrays, "encoder"), architecture, reading, is_masked, batch, context)
    return head(part_of(weights.arrays, "classifier"), tokens, z, expression, is_masked, context), z
