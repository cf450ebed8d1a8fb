"""How much every gene contributes to a difference of logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from transanno.nn._build import Encoder
from transanno.nn._encoder import Context
from transanno.nn._expression import distance_from
from transanno.nn._heads import CellTypeHead, ConvHead


class CellReading(NamedTuple):
    """A cell as the network takes it in, and as it has been read; one end of a path."""

    expression: Tensor
    """``(n_obs | 1, n_vars)`` dense, log1p of counts per 10,000"""
    reading: Tensor
    """``(n_obs | 1, ...)``, what the encoder's ``read`` makes of it"""


def gauss_legendre(n_steps: int) -> tuple[Tensor, Tensor]:
    """-> nodes in (0, 1) and weights that sum to one, ``(n_steps,)`` each, in double precision.

    The nodes are the eigenvalues of the Jacobi matrix of the Legendre polynomials (Golub and Welsch, 1969).
    """
    k = torch.arange(1, n_steps, dtype=torch.float64)
    off_diagonal = k / (4 * k**2 - 1).sqrt()
    jacobi = torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1)
    nodes, vectors = torch.linalg.eigh(jacobi)
    return (nodes + 1) / 2, vectors[0] ** 2


@torch.no_grad()
def attribute(
    encoder: Encoder,
    classifier: CellTypeHead | ConvHead,
    start: CellReading,
    end: CellReading,
    is_masked: Tensor,
    batch_embedding: Tensor,
    context: Context,
    contrast: Tensor,
    *,
    n_steps: int,
) -> Tensor:
    r"""Baseline, cells, contrast of labels ``(n_obs, n_labels)`` -> contribution of every gene ``(n_obs, n_vars)``.

    Integrated gradients :cite:p:`sundararajan2017axiomatic` of :math:`f = \sum_l c_l \, \mathrm{logit}_l` along the
    straight line from baseline to cell. The genes of a cell sum to :math:`f(cell) - f(baseline)` but for the error of
    the quadrature, here by Gauss and Legendre.

    The line is drawn between *readings* and between expressions. With views the reading is the expression. The
    Performer sorts expression into bins, which has no gradient; its line leads from the embedding of one bin to that of
    another. The mean of the data set stays as it is, and so does the distance from it, which is that of the cell: where
    the line starts near the mean, the direction from there would turn by any angle at once.
    """
    context = context._replace(length=distance_from(end.expression, context.center))
    by_reading, by_expression = torch.zeros_like(end.reading), torch.zeros_like(end.expression)
    for node, weight in zip(*map(Tensor.tolist, gauss_legendre(n_steps)), strict=True):
        reading = torch.lerp(start.reading, end.reading, node).requires_grad_()
        expression = torch.lerp(start.expression, end.expression, node).requires_grad_()
        with torch.enable_grad():
            encoded = encoder.encode(reading, is_masked, batch_embedding, context)
            total = (contrast * classifier(encoded, expression, is_masked, context)).sum()
        found = torch.autograd.grad(total, (reading, expression), materialize_grads=True)
        by_reading += weight * found[0]
        by_expression += weight * found[1]
    difference = end.expression - start.expression
    contribution = encoder.share_among_genes(by_reading, end.reading - start.reading, difference)
    contribution = contribution + by_expression * difference
    # An average of many equal readings differs from them in the last digit.
    return contribution.masked_fill(is_masked, 0.0)
