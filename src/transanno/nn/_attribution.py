"""How much every gene contributes to a difference of logits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.polynomial.legendre import leggauss
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
    for root, weight in zip(*map(np.ndarray.tolist, leggauss(n_steps)), strict=True):
        node = (root + 1) / 2
        reading = torch.lerp(start.reading, end.reading, node).requires_grad_()
        expression = torch.lerp(start.expression, end.expression, node).requires_grad_()
        with torch.enable_grad():
            encoded = encoder.encode(reading, is_masked, batch_embedding, context)
            total = (contrast * classifier(encoded, expression, is_masked, context)).sum()
        found = torch.autograd.grad(total, (reading, expression), materialize_grads=True)
        by_reading += weight / 2 * found[0]
        by_expression += weight / 2 * found[1]
    difference = end.expression - start.expression
    contribution = encoder.share_among_genes(by_reading, end.reading - start.reading, difference)
    contribution = contribution + by_expression * difference
    # An average of many equal readings differs from them in the last digit.
    return contribution.masked_fill(is_masked, 0.0)
