"""Layers that the parts of the network have in common: what torch does, in JAX. Cells may have any leading axes, or none."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array

# Of torch's LayerNorm.
_NORM_EPSILON = 1e-5


def linear(x: Array, arrays: Mapping[str, Array], name: str) -> Array:
    """x ``(..., n_in)`` -> ``(..., n_out)``."""
    product = x @ arrays[f"{name}.weight"].T
    return product + arrays[f"{name}.bias"] if f"{name}.bias" in arrays else product


def layer_norm(x: Array, arrays: Mapping[str, Array], name: str) -> Array:
    """x ``(..., width)`` -> the same shape, mean 0 and variance 1 before scale and shift."""
    deviation = x - x.mean(axis=-1, keepdims=True)
    spread = jnp.sqrt(jnp.square(deviation).mean(axis=-1, keepdims=True) + _NORM_EPSILON)
    return deviation / spread * arrays[f"{name}.weight"] + arrays[f"{name}.bias"]


def gelu(x: Array) -> Array:
    """The exact one, by the error function."""
    return jax.nn.gelu(x, approximate=False)


def feed_forward(x: Array, arrays: Mapping[str, Array]) -> Array:
    """tokens ``(..., n_tokens, n_hidden)`` -> what is added to them."""
    x = layer_norm(x, arrays, "feed_forward_norm")
    return linear(gelu(linear(x, arrays, "feed_forward.0")), arrays, "feed_forward.2")
