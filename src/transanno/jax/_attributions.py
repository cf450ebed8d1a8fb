"""How much every gene contributes to a difference of logits: :func:`transanno.nn.attribute` by :func:`jax.grad`."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.polynomial.legendre import leggauss

from transanno.evidence._explained import baseline_cells
from transanno.jax._backend import as_block, rows_per_block
from transanno.jax._expression import distance_from, normalize_counts
from transanno.jax._forward import apply, context_of, embed_batch, mask_of, read, share_among_genes
from transanno.jax._weights import Weights
from transanno.predictions._run import Cells


class CellReading(NamedTuple):
    """A cell as the network takes it in, and as it has been read; one end of a path."""

    expression: Array
    """``(..., n_vars)``, log1p of counts per 10,000"""
    reading: Array
    """``(..., n_vars, ...)``, what the encoder makes of every gene by itself"""


def attribute_cells(
    weights: Weights,
    cells: Cells,
    codes: np.ndarray,
    contrast: np.ndarray,
    *,
    center: np.ndarray | None,
    baseline: str,
    n_steps: int,
    cells_per_pass: dict[str, int],
) -> np.ndarray:
    """Cells, their groups ``(n_cells,)``, -1 without one, what is explained of each group -> contributions ``(n_groups, n_vars)``.

    Means over the cells of a group, by integrated gradients from the ``baseline``. ``center`` is the mean of the data set.
    """
    start = _baseline(weights, baseline, cells, n_rows=rows_per_block(0, cells_per_pass["outputs"]))
    total = np.zeros((len(contrast), cells.counts.shape[1]))
    positions = np.flatnonzero(codes >= 0)
    n_rows = rows_per_block(len(positions), cells_per_pass["gradients"])
    for first in range(0, len(positions), n_rows):
        chosen = positions[first : first + n_rows]
        block, batch = as_block(cells.counts.rows(chosen), cells.batch[chosen], n_rows)
        explained = np.zeros((n_rows, contrast.shape[1]), dtype=np.float32)
        explained[: len(chosen)] = contrast[codes[chosen]]
        found = _attribute(weights, start, block, cells.is_missing, batch, center, explained, n_steps=n_steps)
        np.add.at(total, codes[chosen], np.asarray(found)[: len(chosen)])
    return total / np.bincount(codes[positions], minlength=len(contrast))[:, None]


@partial(jax.jit, static_argnames="n_steps")
def _attribute(
    weights: Weights,
    start: CellReading,
    counts: Array,
    is_missing: Array,
    batch: Array,
    center: Array | None,
    contrast: Array,
    *,
    n_steps: int,
) -> Array:
    """Baseline, counts ``(n_cells, n_vars)``, contrast of labels ``(n_cells, n_labels)`` -> contributions ``(n_cells, n_vars)``."""
    with jax.default_matmul_precision("highest"):
        is_masked, end = mask_of(weights, is_missing), _read(weights, counts, is_missing)
        context = context_of(weights, is_masked, center)
        # Held on the way: near the mean, the direction from there would turn by any angle at once.
        context = context._replace(length=distance_from(end.expression, context.center))
        embedded = embed_batch(weights, batch)

        def explained(node: CellReading) -> Array:
            return (contrast * apply(weights, node.reading, node.expression, is_masked, embedded, context)[0]).sum()

        def add_step(total: CellReading, step: tuple[Array, Array]) -> tuple[CellReading, None]:
            where, weight = step
            node = jax.tree.map(lambda first, last: first + where * (last - first), start, end)
            return jax.tree.map(lambda summed, slope: summed + weight * slope, total, jax.grad(explained)(node)), None

        roots, shares = (jnp.asarray(values, dtype=jnp.float32) for values in leggauss(n_steps))
        slope, _ = jax.lax.scan(add_step, jax.tree.map(jnp.zeros_like, end), ((roots + 1) / 2, shares / 2))
        way = jax.tree.map(lambda first, last: last - first, start, end)
        contribution = share_among_genes(weights, slope.reading, way.reading, way.expression)
        return jnp.where(is_masked, 0.0, contribution + slope.expression * way.expression)


def _read(weights: Weights, counts: Array, is_missing: Array) -> CellReading:
    """Counts ``(..., n_vars)`` -> cells as the network takes them in."""
    is_masked = mask_of(weights, is_missing)
    expression = normalize_counts(counts, is_masked, has_others=weights.has_others)
    return CellReading(expression, read(weights, expression, is_masked))


def _baseline(weights: Weights, baseline: str, cells: Cells, *, n_rows: int) -> CellReading:
    """-> the cell from which contributions start."""
    is_masked, mean = mask_of(weights, jnp.asarray(cells.is_missing)), weights.arrays["mean_expression"]
    if baseline == "silent" or dict(weights.architecture)["encoder"] == "views":
        expression = jnp.where(is_masked, 0.0, jnp.zeros_like(mean) if baseline == "silent" else mean)
        return CellReading(expression, read(weights, expression, is_masked))
    # The bins of mean expression are not those of an average cell: here, readings are averaged.
    sample = baseline_cells(cells.counts.shape[0])
    parts = []
    for first in range(0, len(sample), n_rows):
        rows = sample[first : first + n_rows]
        block, _ = as_block(cells.counts.rows(rows), cells.batch[rows], n_rows)
        parts.append(_sum_of_readings(weights, block, cells.is_missing, np.arange(n_rows) < len(rows)))
    return jax.tree.map(lambda *sums: sum(sums) / len(sample), *parts)


@jax.jit
def _sum_of_readings(weights: Weights, counts: Array, is_missing: Array, is_cell: Array) -> CellReading:
    """Counts ``(n_rows, n_vars)``, rows that are cells and no padding ``(n_rows,)`` -> sum over the cells."""
    found = _read(weights, counts, is_missing)
    return jax.tree.map(
        lambda values: jnp.tensordot(is_cell.astype(values.dtype), values, axes=1, precision="highest"), found
    )
