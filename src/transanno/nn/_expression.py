"""Counts to network input: thinning, masking, normalization, binning."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.nn import functional as F

from transanno._constants import LEAST_SQUARED_DISTANCE, N_BINS, TARGET_SUM

# Cells whose expression is binned at once: the bins take twice the memory of the counts.
_N_BINNED = 512
# Depths of cells around that of their data set, and the least share of a cell's molecules that is kept.
_DEPTHS_OF_CELLS, _MIN_KEPT = (0.6, 1.4), 0.05


def thin_counts(counts: Tensor, *, min_fraction: float) -> Tensor:
    """counts ``(n_obs, n_vars)`` -> the same cells sequenced less deeply, ``(n_obs, n_vars)``.

    Every molecule is kept with a probability that is the product of one drawn for all of the cells from
    U(``min_fraction``, 1) and one drawn for each from U(0.6, 1.4), at most 1: binomial thinning models the difference in
    sequencing depth that separates data sets, and cells. ``min_fraction=1`` returns ``counts`` itself.
    """
    if min_fraction >= 1.0:
        return counts
    shared = min_fraction + (1.0 - min_fraction) * torch.rand((), dtype=torch.float32, device=counts.device)
    own = torch.empty(len(counts), dtype=torch.float32, device=counts.device).uniform_(*_DEPTHS_OF_CELLS)
    kept = (shared * own).clamp(_MIN_KEPT, 1.0)
    # Only stored molecules can be lost; drawing at the ~90 % zeros would cost ten times as much.
    rows, columns = counts.nonzero(as_tuple=True)
    # Ambient-corrected counts are fractional; a molecule is either there or not.
    molecules = counts[rows, columns].round()
    thinned = torch.zeros_like(counts)
    thinned[rows, columns] = torch.binomial(molecules, kept[rows])
    return thinned


def perturb_genes(counts: Tensor, *, deviation: float, is_other: Tensor) -> Tensor:
    """counts ``(n_obs, n_vars)`` -> the same cells with another efficiency of every gene, ``(n_obs, n_vars)``.

    All cells' counts of a gene are multiplied by exp(N(0, s)), and s is drawn from U(0, ``deviation``): platforms capture
    genes unequally. The column where ``is_other (n_vars,)`` is True stands for many genes, and is left alone.
    ``deviation=0`` returns ``counts`` itself.
    """
    if deviation == 0.0:
        return counts
    spread = deviation * torch.rand((), dtype=torch.float32, device=counts.device)
    efficiency = (spread * torch.randn(counts.shape[1], dtype=torch.float32, device=counts.device)).exp()
    return counts * efficiency.masked_fill_(is_other, 1.0)


def sample_panel(n_vars: int, *, max_fraction: float, device: torch.device) -> Tensor:
    """-> ``(1, n_vars)`` bool, True where a gene is hidden in all cells, as if a panel had been measured.

    Half of the times nothing is; otherwise a share drawn from U(0, ``max_fraction``).
    """
    fraction = max_fraction * torch.rand((), device=device) * (torch.rand((), device=device) < 0.5)
    return torch.rand(1, n_vars, device=device) < fraction


def sample_gene_mask(n_obs: int, n_vars: int, *, max_fraction: float, device: torch.device) -> Tensor:
    """-> ``(n_obs, n_vars)`` bool, True where a gene is hidden.

    Every cell draws its own fraction of hidden genes from U(0, ``max_fraction``), so the network
    meets nearly complete cells and cells measured with a much smaller panel.
    """
    fraction = max_fraction * torch.rand(n_obs, 1, device=device)
    return torch.rand(n_obs, n_vars, device=device) < fraction


def sample_expressed_mask(counts: Tensor, *, fraction: float, replace_probability: float) -> tuple[Tensor, Tensor]:
    """counts ``(n_obs, n_vars)`` -> genes to predict, genes to hide, both ``(n_obs, n_vars)`` bool.

    Every expressed gene is to be predicted with probability ``fraction``, and such a gene is hidden with
    ``replace_probability``; the others stay visible, as in BERT :cite:p:`devlin2019bert` and scBERT
    :cite:p:`yang2022scbert`, so that the network must not trust what it sees.
    """
    # One draw for both: what is hidden is a subset of what is to be predicted.
    draw = torch.rand_like(counts).masked_fill_(counts <= 0, 1.0)
    return draw < fraction, draw < fraction * replace_probability


def normalize_counts(counts: Tensor, is_masked: Tensor, is_other: Tensor | None = None) -> Tensor:
    """counts ``(n_obs, n_vars)``, is_masked ``(n_obs | 1, n_vars)`` -> log1p of counts per 10,000.

    Masked genes are zero in the result. By default they do not enter a cell's total: the total of a cell with
    unmeasured genes is that of its measured ones. With ``is_other (1, n_vars)``, the column that counts all genes
    outside the vocabulary, the total is that of the whole cell, whatever is masked, and this column is zero, too.
    Cells without any count stay all zero. Sparse CSR counts, whose genes are masked in all cells alike, give a
    sparse CSR result.
    """
    if counts.layout == torch.sparse_csr:
        return _normalize_sparse(counts, is_masked, is_other)
    hidden = is_masked if is_other is None else is_masked | is_other
    # Each pass over a dense minibatch costs as much as the encoder's matrix product: as few as possible.
    visible = counts.masked_fill(hidden, 0.0) if hidden.any() else counts
    total = (visible if is_other is None else counts).sum(dim=1, keepdim=True)
    return (visible * (TARGET_SUM / total.clamp_min(1.0))).log1p_()


def _normalize_sparse(counts: Tensor, is_masked: Tensor, is_other: Tensor | None) -> Tensor:
    rows, genes, values = counts.crow_indices(), counts.col_indices(), counts.values()
    hidden = is_masked if is_other is None else is_masked | is_other
    visible = values.masked_fill(hidden[0, genes], 0.0) if hidden.any() else values
    total = torch.segment_reduce(visible if is_other is None else values, "sum", offsets=rows)
    scale = (TARGET_SUM / total.clamp_min(1.0)).repeat_interleave(rows.diff())
    return sparse_rows(rows, genes, (visible * scale).log1p_(), n_vars=counts.shape[1])


def sparse_rows(rows: Tensor, genes: Tensor, values: Tensor, *, n_vars: int) -> Tensor:
    """Row offsets ``(n_obs + 1,)``, gene positions and values ``(n_stored,)`` -> sparse CSR ``(n_obs, n_vars)``."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            rows, genes, values, size=(len(rows) - 1, n_vars), device=values.device, check_invariants=False
        )


def distance_from(expression: Tensor, center: Tensor) -> Tensor:
    """expression ``(n_obs, n_vars)``, dense or sparse CSR, center ``(n_obs | 1, n_vars)`` -> lengths of the difference ``(n_obs,)``.

    At least a small number, so that one can divide by it. Sparse expression takes one center for all cells.
    """
    if expression.layout == torch.sparse_csr:
        squares = torch.segment_reduce(expression.values().square(), "sum", offsets=expression.crow_indices())
        products = sum_over_genes(expression, center.T)[:, 0]
        squared = squares - 2.0 * products + center.square().sum()
    else:
        squared = (expression - center).square().sum(dim=1)
    return squared.clamp_min(LEAST_SQUARED_DISTANCE).sqrt()


def sum_over_genes(expression: Tensor, table: Tensor) -> Tensor:
    """expression ``(n_obs, n_vars)``, dense or sparse CSR, table ``(n_vars, width)`` -> their product.

    Some 5 % of the values are not zero: reading only these makes prediction twice as fast.
    """
    if expression.layout != torch.sparse_csr:
        return expression @ table
    # The product of torch's sparse tensors needs MKL, which not every processor has.
    return F.embedding_bag(
        expression.col_indices(),
        table,
        expression.crow_indices(),
        mode="sum",
        per_sample_weights=expression.values(),
        include_last_offset=True,
    )


def sum_over_cells(expression: Tensor) -> Tensor:
    """expression ``(n_obs, n_vars)``, dense or sparse CSR -> its sum over cells ``(n_vars,)``."""
    if expression.layout != torch.sparse_csr:
        return expression.sum(dim=0)
    total = torch.zeros(expression.shape[1], dtype=expression.dtype, device=expression.device)
    return total.index_add_(0, expression.col_indices().long(), expression.values())


def bin_expression(counts: Tensor, total: Tensor, *, n_bins: int = N_BINS) -> Tensor:
    """counts ``(n_obs, n_genes)``, total counts of the cells ``(n_obs, 1)`` -> bins, int in ``[0, n_bins)``.

    The bin is ``floor(log2(1 + counts per 10,000))``, clipped to the top bin, as in TransAnno-Net
    and scBERT :cite:p:`yang2022scbert`.
    """
    per_ten_thousand = counts * (TARGET_SUM / total.clamp_min(1.0))
    return torch.log2(1.0 + per_ten_thousand).floor().long().clamp_(0, n_bins - 1)


def count_bins(counts: Tensor, *, n_bins: int = N_BINS) -> Tensor:
    """counts ``(n_obs, n_vars)`` -> cells in each bin, all and expressing ones, int ``(2, n_bins, n_vars)``."""
    n_per_bin = torch.zeros(2, n_bins, counts.shape[1], dtype=torch.long, device=counts.device)
    for cells in counts.split(_N_BINNED):
        bins, is_expressed = bin_expression(cells, cells.sum(dim=1, keepdim=True), n_bins=n_bins), cells > 0
        for b in range(n_bins):
            n_per_bin[0, b] += (bins == b).sum(dim=0)
            n_per_bin[1, b] += ((bins == b) & is_expressed).sum(dim=0)
    return n_per_bin


def commonest_bins(n_per_bin: Tensor, n_per_bin_expressed: Tensor) -> Tensor:
    """Cells in each bin ``(n_bins, n_vars)``, all and expressing ones -> each gene's commonest bin ``(2, n_vars)``.

    A gene that no cell expresses gets the commonest bin of all expressed genes in the second row.
    """
    commonest = torch.stack([n_per_bin.argmax(dim=0), n_per_bin_expressed.argmax(dim=0)])
    is_silent = n_per_bin_expressed.sum(dim=0) == 0
    commonest[1, is_silent] = n_per_bin_expressed.sum(dim=1).argmax()
    return commonest
