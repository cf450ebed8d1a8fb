"""The encoder of TransAnno-Net, :class:`transanno.nn.PerformerEncoder`, in JAX."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from transanno._constants import FAVOR_EPSILON, MASK_TOKEN, N_BINS
from transanno.jax._expression import Context
from transanno.jax._layers import feed_forward, layer_norm, linear
from transanno.jax._weights import parts_of


def read(arrays: Mapping[str, Array], expression: Array, is_masked: Array) -> Array:
    """Expression ``(..., n_vars)``, is_masked ``(n_vars,)`` -> tokens of the genes' bins ``(..., n_vars, n_hidden)``."""
    bins = jnp.minimum((expression / math.log(2)).astype(jnp.int32), N_BINS - 1)
    return arrays["token_embedding.weight"][jnp.where(is_masked, MASK_TOKEN, bins)]


def encode(
    arrays: Mapping[str, Array],
    architecture: Mapping[str, Any],
    reading: Array,
    is_masked: Array,
    batch: Array,
    context: Context,
) -> tuple[Array, Array]:
    """What :func:`read` gave, batch ``(..., n_hidden)`` -> tokens ``(..., n_tokens, n_hidden)``, state ``(..., n_latent)``."""
    appended = arrays["token_embedding.weight"][0] + arrays["appended_embedding"] + batch
    tokens = jnp.concatenate([reading + arrays["gene_embedding"], appended[..., None, :]], axis=-2)
    for layer in parts_of(arrays, "layers"):
        tokens = tokens + linear(_attend(layer, tokens, n_heads=architecture["n_heads"]), layer, "to_out")
        tokens = tokens + feed_forward(tokens, layer)
    tokens = layer_norm(tokens, arrays, "norm")
    is_measured = jnp.where(is_masked, 0.0, 1.0)
    return tokens, is_measured @ tokens[..., :-1, :] / jnp.maximum(is_measured.sum(), 1.0)


def share_among_genes(gradient: Array, reading: Array, expression: Array) -> Array:
    """Gradient by the reading, differences of readings and of expression -> share of genes ``(..., n_vars)``."""
    return (gradient * reading).sum(axis=-1)


def _attend(arrays: Mapping[str, Array], tokens: Array, *, n_heads: int) -> Array:
    """tokens ``(..., n_tokens, n_hidden)`` -> attended ``(..., n_tokens, n_heads * head_dim)``."""
    normed = layer_norm(tokens, arrays, "attention_norm")
    query, key, value = (
        jnp.moveaxis(
            projected.reshape(*projected.shape[:-1], n_heads, -1), -2, -3
        )  # (..., n_heads, n_tokens, head_dim)
        for projected in (linear(normed, arrays, name) for name in ("to_query", "to_key", "to_value"))
    )
    attended = jnp.moveaxis(_favor_attention(query, key, value, arrays["projection"]), -3, -2)
    return attended.reshape(*attended.shape[:-2], -1)


def _favor_attention(query: Array, key: Array, value: Array, projection: Array) -> Array:
    """query, key, value ``(..., n_tokens, head_dim)`` -> attended; keys and values are summed up before queries read them."""
    query, key = _features(query, projection, over=-1), _features(key, projection, over=(-1, -2))
    total = query @ key.sum(axis=-2)[..., None]
    return query @ (jnp.swapaxes(key, -1, -2) @ value) / total


def _features(x: Array, projection: Array, *, over: int | tuple[int, ...]) -> Array:
    """Queries or keys ``(..., n_tokens, head_dim)`` -> positive features; the maximum ``over`` some axes is taken off first."""
    x = x * x.shape[-1] ** -0.25
    projected = x @ projection.T
    largest = projected.max(axis=over, keepdims=True)
    return jnp.exp(projected - jnp.square(x).sum(axis=-1, keepdims=True) / 2 - largest) + FAVOR_EPSILON
