"""The encoder of three views of a cell, :class:`transanno.nn.ViewEncoder`, in JAX."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from transanno._constants import DEVIATION_LENGTH
from transanno.jax._expression import Context
from transanno.jax._layers import feed_forward, layer_norm, linear
from transanno.jax._weights import part_of, parts_of


def read(arrays: Mapping[str, Array], expression: Array, is_masked: Array) -> Array:
    """Expression ``(..., n_vars)``, is_masked ``(n_vars,)`` -> reading: here, the expression."""
    return expression


def encode(
    arrays: Mapping[str, Array],
    architecture: Mapping[str, Any],
    reading: Array,
    is_masked: Array,
    batch: Array,
    context: Context,
) -> tuple[Array, Array]:
    """What :func:`read` gave, batch ``(..., n_hidden)`` -> tokens ``(..., n_tokens, n_hidden)``, state ``(..., n_latent)``."""
    table, networks = arrays["gene_embedding"], parts_of(arrays, "networks")
    found, center, mean = (values @ table for values in (reading, context.center, context.mean))
    direction = (found - center) * (DEVIATION_LENGTH / context.distance(reading))
    views = jnp.stack([found, direction, jnp.broadcast_to(center - mean, found.shape)], axis=-2)
    parts = zip(networks, jnp.split(views, len(networks), axis=-1), strict=True)
    encoded = [_network(part, own, batch, n_heads=architecture["n_heads"]) for part, own in parts]
    tokens, states = zip(*encoded, strict=True)
    return jnp.concatenate(tokens, axis=-2), jnp.concatenate(states, axis=-1)


def share_among_genes(gradient: Array, reading: Array, expression: Array) -> Array:
    """Gradient by the reading, differences of readings and of expression -> share of genes ``(..., n_vars)``."""
    return gradient * expression


def _network(arrays: Mapping[str, Array], views: Array, batch: Array, *, n_heads: int) -> tuple[Array, Array]:
    """Views ``(..., 3, n_hidden)``, batch ``(..., n_hidden)`` -> tokens of the same shape, state."""
    own = [linear(views[..., i, :], part_of(arrays, "to_tokens"), str(i)) for i in range(views.shape[-2])]
    tokens = layer_norm(jnp.stack(own, axis=-2) + batch[..., None, :], arrays, "token_norm")
    for block in parts_of(arrays, "blocks"):
        tokens = tokens + linear(_attend(block, tokens, n_heads=n_heads), block, "to_out")
        tokens = tokens + feed_forward(tokens, block)
    flat = tokens.reshape(*tokens.shape[:-2], -1)
    return tokens, linear(layer_norm(flat, arrays, "norm"), arrays, "to_cell_state")


def _attend(arrays: Mapping[str, Array], tokens: Array, *, n_heads: int) -> Array:
    """tokens ``(..., n_tokens, n_hidden)`` -> attended, of the same shape."""
    qkv = linear(layer_norm(tokens, arrays, "attention_norm"), arrays, "to_qkv")
    qkv = qkv.reshape(*tokens.shape[:-1], 3, n_heads, tokens.shape[-1] // n_heads)
    query, key, value = (qkv[..., i, :, :] for i in range(3))  # each (..., n_tokens, n_heads, n_hidden / n_heads)
    # Sums of products: matrix products of three tokens cost more to set up than to do.
    logits = (query[..., :, None, :, :] * key[..., None, :, :, :]).sum(axis=-1) / math.sqrt(query.shape[-1])
    attention = jax.nn.softmax(logits, axis=-2)[..., None]  # (..., n_tokens, n_tokens, n_heads, 1)
    return (attention * value[..., None, :, :, :]).sum(axis=-3).reshape(tokens.shape)
