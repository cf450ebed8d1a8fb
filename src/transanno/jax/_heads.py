"""Cell-type heads, :class:`transanno.nn.CellTypeHead` and :class:`transanno.nn.ConvHead`, in JAX."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array

from transanno._constants import COSINE_SCALE, LEAST_LENGTH
from transanno.jax._expression import Context
from transanno.jax._layers import gelu, linear
from transanno.jax._weights import part_of, parts_of


def experts(
    arrays: Mapping[str, Array], tokens: Array, z: Array, expression: Array, is_masked: Array, context: Context
) -> Array:
    """Encoder output, expression ``(..., n_vars)``, is_masked ``(n_vars,)``, context -> logits ``(..., n_labels)``."""
    n_networks = len(parts_of(arrays, "to_logits"))
    own = enumerate(jnp.split(gelu(z), n_networks, axis=-1))
    deep = sum(jax.nn.log_softmax(linear(state, part_of(arrays, "to_logits"), str(i))) for i, state in own) / n_networks
    # Of expression minus its mean over the reference, so that a masked gene counts as average.
    observed, expected = (values @ arrays["linear_weight"].T for values in (expression, context.mean))
    shares = arrays["shares"]
    return (
        shares[0] * deep
        + shares[1] * (observed - expected + arrays["linear_bias"])
        + shares[2] * _compare(arrays, expression, is_masked, context)
    )


def conv(
    arrays: Mapping[str, Array], tokens: Array, z: Array, expression: Array, is_masked: Array, context: Context
) -> Array:
    """Encoder output, and what other heads read -> logits ``(..., n_labels)``."""
    x = jax.nn.relu(linear(tokens, arrays, "convolution"))[..., 0]
    for name in ("perceptron.0", "perceptron.3"):
        x = jax.nn.relu(linear(x, arrays, name))
    return linear(x, arrays, "perceptron.6")


def _compare(arrays: Mapping[str, Array], expression: Array, is_masked: Array, context: Context) -> Array:
    """-> scaled cosines of the angles between cells and types ``(..., n_labels)``; of -1 for a type without cells."""
    directions = arrays["directions"].T
    squared = jnp.where(is_masked[:, None], 0.0, jnp.square(directions)).sum(axis=0)
    # Before the root, which has no gradient at zero.
    lengths = jnp.sqrt(jnp.maximum(squared, LEAST_LENGTH**2))
    products = expression @ directions - context.center @ directions
    cosines = products / (context.distance(expression) * lengths)
    return COSINE_SCALE * jnp.where((directions == 0).all(axis=0), -1.0, cosines)
