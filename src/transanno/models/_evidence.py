"""Why a cell is called what it is: contributions of genes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from mudata import MuData
from scvi import REGISTRY_KEYS
from torch import Tensor

from transanno.checks._data import check_choice, check_interval, check_obs_column
from transanno.data._cells import AlignedData
from transanno.models._prediction import PredictionMixin
from transanno.nn import CellReading, Context, ViewEncoder, attribute
from transanno.training._minibatches import Minibatch, as_positions

# Points of the quadrature by baseline. With these, contributions on real data sum up to within 0.01 of what they should
# on average, of some 3; the way from a silent cell starts with a steep piece.
BASELINES = {"average": 32, "silent": 64}
# Cells whose mean is the baseline where the model stores no mean expression.
_N_BASELINE = 500


class EvidenceMixin(PredictionMixin):
    """Explanations of a trained classifier."""

    def get_gene_attributions(
        self,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        groupby: str | Sequence[object] | np.ndarray | pd.Categorical | None = None,
        *,
        label: str | None = None,
        against: str | None = None,
        baseline: str = "average",
        n_steps: int | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        r"""How much every gene contributes to the label of every group of cells, by integrated gradients.

        For one cell, the contributions are those to :math:`f = \mathrm{logit}_A - \mathrm{mean}_{B \ne A}\,
        \mathrm{logit}_B`, or with ``against`` to :math:`f = \mathrm{logit}_A - \mathrm{logit}_B`. (A logit alone says
        nothing: what is added to all of them cancels in the probabilities.) They sum to :math:`f` of the cell minus
        :math:`f` of the baseline :cite:p:`sundararajan2017axiomatic`, and those of a group are the mean over its cells.
        The mean of the data set, and how far the cell is from it, stay as they are on the way: the baseline is seen from as far
        as the cell is.

        Parameters
        ----------
        adata
            Cells with raw counts; genes are matched by name. Default: the data of the model.
        indices
            Positions or boolean mask of the cells to use. Default: all.
        groupby
            Column of ``obs``, or a group for each of the cells; cells without a group are left out. Default: cells are
            grouped by the label that the model gives them.
        label
            Label A to explain. Default: the one that is most probable on average over the cells of the group.
        against
            Label B to compare it with. Default: the mean of all others.
        baseline
            Where the contributions start from. ``"average"``: the average cell of the reference, so that a gene the
            cell lacks can speak, too; the Performer stores none, and takes the average of the data at hand.
            ``"silent"``: a cell in which all measured genes are silent, so that silent genes contribute nothing.
        n_steps
            Points on the way from the baseline to the cell at which gradients are taken; the error of the sum falls
            quickly with their number. Default: 32, and 64 from a silent cell.
        batch_size
            Cells in a minibatch; has no influence on the result.

        Returns
        -------
        DataFrame, groups (by default labels) × genes of the model, in units of a logit (nats). Genes that the data lack
        contribute 0. ``.attrs["labels"]`` says which label was explained for which group.

        Raises
        ------
        ValueError
            If a label or the baseline is unknown, no cells are left, or ``groupby`` has another length than the cells.
        KeyError
            If there is no such column.

        Examples
        --------
        >>> table = model.get_gene_attributions(query)
        >>> table.loc["B cell"].nlargest(10)
        >>> model.get_gene_attributions(query, groupby="leiden", against="T cell")
        """
        self._check_if_trained()
        check_choice("baseline", baseline, BASELINES)
        n_steps = BASELINES[baseline] if n_steps is None else n_steps
        check_interval("n_steps", n_steps, 1)
        for name, value in (("label", label), ("against", against)):
            if value is not None:
                check_choice(name, value, self.labels.tolist())
        target, aligned = self._resolve(adata)
        positions = as_positions(indices, target.n_obs)
        center = self._center(aligned)
        logits = torch.from_numpy(self._infer("logits", aligned, positions, batch_size, center=center)).double()
        called = pd.Categorical(self.labels[logits.argmax(dim=1).numpy()], categories=self.labels)
        codes, groups = _as_groups(called if groupby is None else groupby, target, positions)
        means = _group_means(logits.softmax(dim=1), codes, len(groups))
        explained = means.argmax(dim=1) if label is None else torch.full((len(groups),), self._code(label))
        contrast = self._contrast(explained, against)
        total = torch.zeros(len(groups), self.module.n_input, dtype=torch.float64)
        is_used = codes >= 0
        size = batch_size or self.module.encoder.gradient_batch_size
        with self._explaining(aligned) as is_missing:
            start = self._baseline(baseline, aligned, target.n_obs, is_missing)
            context = self.module.context(is_missing, center)
            rows = torch.from_numpy(codes[is_used])
            batches = self._minibatches(aligned, positions[is_used], size)
            for tensors, code in zip(batches, rows.split(size), strict=True):
                found = self._attribute(tensors, contrast[code], start, is_missing, context, n_steps=n_steps)
                total.index_add_(0, code, found.double().cpu())
        counts = torch.bincount(rows, minlength=len(groups))
        index = pd.Index(groups, name=groupby if isinstance(groupby, str) else None)
        table = pd.DataFrame((total / counts[:, None]).numpy()[:, self._is_gene], index=index, columns=self.genes)
        table.attrs["labels"] = dict(zip(groups, self.labels[explained.numpy()].tolist(), strict=True))
        return table

    def _mean_expression(
        self, aligned: AlignedData | None, positions: np.ndarray, codes: np.ndarray, n_groups: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cells, their groups -> mean expression and share of expressing cells, ``(n_groups, n_genes)`` each.

        Expression is log1p of counts per 10,000 of the model's genes; NaN for groups without cells.
        """
        total, n_expressing = np.zeros((2, n_groups, self.module.n_input))
        size = ViewEncoder.inference_batch_size
        with self._explaining(aligned) as is_missing:
            batches = self._minibatches(aligned, positions, size)
            for i, tensors in enumerate(batches):
                code = codes[i * size : (i + 1) * size]
                is_member = sp.csr_matrix((np.ones(len(code)), (code, np.arange(len(code)))), (n_groups, len(code)))
                counts = tensors[REGISTRY_KEYS.X_KEY].to(self.module.device)
                expression = _as_scipy(self.module.normalize(counts, is_missing))
                total += is_member @ expression
                n_expressing += is_member @ (expression > 0)
        n_cells = np.bincount(codes, minlength=n_groups)[:, None]
        with np.errstate(invalid="ignore"):
            return (total / n_cells)[:, self._is_gene], (n_expressing / n_cells)[:, self._is_gene]

    # -- parts -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _explaining(self, aligned: AlignedData | None) -> Iterator[Tensor]:
        """Context of evaluation without gradients -> genes that the data lack ``(1, n_vars)``."""
        self.module.eval()
        with torch.no_grad():
            yield (self._is_missing(aligned) | self.module.is_other)[None, :]

    def _expression(self, tensors: Minibatch, is_missing: Tensor) -> Tensor:
        expression = self.module.normalize(tensors[REGISTRY_KEYS.X_KEY].to(self.module.device), is_missing)
        return expression.to_dense() if expression.layout != torch.strided else expression

    def _attribute(
        self,
        tensors: Minibatch,
        contrast: Tensor,
        start: CellReading,
        is_missing: Tensor,
        context: Context,
        *,
        n_steps: int,
    ) -> Tensor:
        """Minibatch, contrast of labels ``(n_obs, n_labels)``, baseline -> contributions ``(n_obs, n_vars)``."""
        module = self.module
        assert module.classifier is not None  # this model always has one
        expression = self._expression(tensors, is_missing)
        reading = module.encoder.read(expression, is_missing)
        batch = module.batch_embedding(tensors[REGISTRY_KEYS.BATCH_KEY].to(module.device).flatten())
        return attribute(
            module.encoder,
            module.classifier,
            start,
            CellReading(expression, reading),
            is_missing,
            batch,
            context,
            contrast.to(expression),
            n_steps=n_steps,
        )

    def _baseline(self, baseline: str, aligned: AlignedData | None, n_obs: int, is_missing: Tensor) -> CellReading:
        """-> the cell from which contributions start."""
        encoder = self.module.encoder
        stored: Tensor | None = None if encoder.has_gene_tokens else self.module.mean_expression
        if baseline == "silent":
            stored = torch.zeros_like(is_missing[0], dtype=torch.float32)
        if stored is not None:
            expression = stored[None, :].masked_fill(is_missing, 0.0)
            return CellReading(expression, encoder.read(expression, is_missing))
        # The bins of mean expression are not those of an average cell: here, readings are averaged.
        sample = np.unique(np.linspace(0, n_obs - 1, min(n_obs, _N_BASELINE)).round().astype(int))
        mean: list[Tensor] = []
        for tensors in self._minibatches(aligned, sample, None, allow_sparse=False):
            expression = self._expression(tensors, is_missing)
            parts = [expression, encoder.read(expression, is_missing)]
            parts = [part.sum(dim=0, keepdim=True) / len(sample) for part in parts]
            mean = [one + other for one, other in zip(mean, parts, strict=True)] if mean else parts
        return CellReading(*mean)

    def _code(self, label: str) -> int:
        return int(np.flatnonzero(self.labels == label)[0])

    def _contrast(self, explained: Tensor, against: str | None) -> Tensor:
        """Codes of labels ``(n_groups,)`` -> weights of the logits whose sum is explained ``(n_groups, n_labels)``."""
        n_labels = len(self.labels)
        chosen = torch.nn.functional.one_hot(explained, n_labels).float()
        if against is not None:
            return chosen - torch.nn.functional.one_hot(torch.tensor(self._code(against)), n_labels)
        return chosen - (1 - chosen) / (n_labels - 1)


def _as_scipy(expression: Tensor) -> sp.csr_matrix:
    """Expression ``(n_obs, n_vars)``, dense or sparse CSR -> the same."""
    if expression.layout == torch.strided:
        return sp.csr_matrix(expression.cpu().numpy())
    parts = (expression.values().numpy(), expression.col_indices().numpy(), expression.crow_indices().numpy())
    return sp.csr_matrix(parts, shape=expression.shape)


def _as_groups(
    groupby: str | Sequence[object] | np.ndarray | pd.Categorical, target: AnnData | MuData, positions: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Column of ``obs`` or a group per cell -> code of every cell ``(n_cells,)``, -1 without a group, and their names."""
    if isinstance(groupby, str):
        check_obs_column(target, groupby, argument="groupby", name="adata")
        given = pd.Series(target.obs[groupby].iloc[positions].array)
    else:
        given = pd.Series(groupby)
    if len(given) != len(positions):
        raise ValueError(
            f"groupby has {len(given)} values for {len(positions)} cells. Give one per cell of indices, or the name of a "
            "column of obs."
        )
    groups = pd.Categorical(given).remove_unused_categories()
    if not len(groups.categories):
        raise ValueError(
            "There are no cells to explain: "
            + ("indices selects none." if not len(positions) else "none of them has a group in groupby.")
        )
    return groups.codes.astype(np.int64), groups.categories.astype(str).tolist()


def _group_means(values: Tensor, codes: np.ndarray, n_groups: int) -> Tensor:
    """Values ``(n_cells, width)``, groups -> means ``(n_groups, width)``."""
    is_used = codes >= 0
    rows = torch.from_numpy(codes[is_used])
    total = torch.zeros(n_groups, values.shape[1], dtype=values.dtype)
    total.index_add_(0, rows, values[torch.from_numpy(is_used)])
    return total / torch.bincount(rows, minlength=n_groups)[:, None]
