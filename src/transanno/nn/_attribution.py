"""How much every gene contributes to a difference of logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from transanno.nn._build import Encoder
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
    contrast: Tensor,
    *,
    n_steps: int,
) -> Tensor:
    r"""Baseline, cells, contrast of labels ``(n_obs, n_labels)`` -> contribution of every gene ``(n_obs, n_vars)``.

    Integrated gradients :cite:p:`sundararajan2017axiomatic` of :math:`f = \sum_l c_l \, \mathrm{logit}_l` along the
    straight line from baseline to cell. The genes of a cell sum to :math:`f(cell) - f(baseline)` but for the error of
    the quadrature, here by Gauss and Legendre.

    The line is drawn between *readings*. Of slots these are sums over genes, linear in expression, so it is the line
    between expressions, and one product with the gene table before and one after are enough for all steps. The
    Performer sorts expression into bins, which has no gradient; its line leads from the embedding of one bin to that of
    another. What the head reads directly is linear, and needs no steps.
    """
    gradient = torch.zeros_like(end.reading)
    for node, weight in zip(*map(Tensor.tolist, gauss_legendre(n_steps)), strict=True):
        point = torch.lerp(start.reading, end.reading, node).requires_grad_()
        with torch.enable_grad():
            logits = classifier.read_encoded(encoder.encode(point, is_masked, batch_embedding))
            total = (contrast * logits).sum()
        gradient += weight * torch.autograd.grad(total, point)[0]
    difference = end.expression - start.expression
    contribution = encoder.share_among_genes(gradient, end.reading - start.reading, difference)
    if isinstance(classifier, CellTypeHead):
        direct = classifier.read_directly(end.expression) - classifier.read_directly(start.expression)
        contribution = contribution + contrast @ classifier.gene_weights * direct
    # An average of many equal readings differs from them in the last digit.
    return contribution.masked_fill(is_masked, 0.0)
