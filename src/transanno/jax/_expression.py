"""Counts to network input, and what is known about the data set that cells are of."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from transanno._constants import LEAST_SQUARED_DISTANCE, TARGET_SUM


class Context(NamedTuple):
    """What is known about the data set that cells are of; means are zero at genes that are masked."""

    center: Array
    """``(n_vars,)``, mean log-expression of the data set"""
    mean: Array
    """``(n_vars,)``, that of the reference"""
    length: Array | None = None
    """``(...)``, how far the cells are from the center; by default computed from their expression"""

    def distance(self, expression: Array) -> Array:
        """Expression ``(..., n_vars)`` -> its distance from the center ``(..., 1)``."""
        length = distance_from(expression, self.center) if self.length is None else self.length
        return length[..., None]


def normalize_counts(counts: Array, is_masked: Array, *, has_others: bool) -> Array:
    """counts ``(..., n_vars)``, is_masked ``(n_vars,)`` -> log1p of counts per 10,000, zero where masked.

    Masked genes do not enter a cell's total, unless ``has_others``: then it is that of the whole cell.
    """
    visible = jnp.where(is_masked, 0.0, counts)
    total = (counts if has_others else visible).sum(axis=-1, keepdims=True)
    return jnp.log1p(visible * (TARGET_SUM / jnp.maximum(total, 1.0)))


def distance_from(expression: Array, center: Array) -> Array:
    """expression ``(..., n_vars)``, center ``(n_vars,)`` -> length of the difference ``(...)``, at least a small number."""
    squared = jnp.square(expression - center).sum(axis=-1)
    return jnp.sqrt(jnp.maximum(squared, LEAST_SQUARED_DISTANCE))
