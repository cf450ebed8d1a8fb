"""Attention from a few learned slots to every measured gene, as one matrix product."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from transanno.nn._expression import sum_over_genes

# Lower bound of a softmax denominator. It matters only for a cell none of whose counts lie in
# measured genes while silent genes carry no weight: its slots are then zero instead of NaN.
_TINY = 1e-12


class SlotAttention(nn.Module):
    r"""expression ``(n_obs, n_vars)`` -> slot tokens ``(n_obs, n_slots, n_hidden)``.

    Cross-attention in the manner of the Perceiver :cite:p:`jaegle2021perceiver`: learned slot
    queries :math:`q_s` attend to gene tokens. A gene's key and value come from its embedding, and its
    expression :math:`x_{ng}` (log1p of counts per 10,000) multiplies its weight:

    .. math::

        t_{ns} = \frac{\sum_g x_{ng}\, w_{sg}\, v_g}{\sum_g (x_{ng} + \varepsilon_s m_{ng})\, w_{sg}},
        \qquad w_{sg} = \exp(q_s \cdot k_g / \sqrt{d})

    That is softmax attention with logits :math:`q_s \cdot k_g / \sqrt d + \log(x_{ng} + \varepsilon_s)`
    over the measured genes (:math:`m_{ng} = 1`). The value of an expressed gene is :math:`v_g` scaled by
    :math:`x / (x + \varepsilon_s)`, so that of a silent but measured gene is zero; a masked gene is absent.
    Because the weight factorises into a (gene, slot) and a (cell, gene) part, numerator and
    denominator are matrix products with parameters, and no ``(n_obs, n_slots, n_vars)`` array exists.
    """

    def __init__(self, *, n_vars: int, n_hidden: int, n_slots: int) -> None:
        super().__init__()
        self.n_hidden = n_hidden
        self.n_slots = n_slots
        self.gene_embedding = nn.Parameter(torch.randn(n_vars, n_hidden) / math.sqrt(n_hidden))
        self.norm = nn.LayerNorm(n_hidden)
        self.to_key = nn.Linear(n_hidden, n_hidden, bias=False)
        self.to_value = nn.Linear(n_hidden, n_hidden)
        self.query = nn.Parameter(torch.randn(n_slots, n_hidden))
        self.log_silent_weight = nn.Parameter(torch.full((n_slots,), -3.0))
        self.slot_embedding = nn.Parameter(0.02 * torch.randn(n_slots, n_hidden))
        self._fixed_table: Tensor | None = None

    def gene_slot_weights(self) -> Tensor:
        """-> attention weights before expression, ``(n_vars, n_slots)``, largest of a slot = 1."""
        logits = self.to_key(self.norm(self.gene_embedding)) @ self.query.T / math.sqrt(self.n_hidden)
        return (logits - logits.amax(dim=0, keepdim=True)).exp()

    def gene_table(self) -> Tensor:
        """-> all that does not depend on the cell: each gene's weighted values and weights.

        ``(n_vars, n_slots * n_hidden + n_slots)``
        """
        weights = self.gene_slot_weights()
        values = self.to_value(self.norm(self.gene_embedding))
        weighted_values = (weights[:, :, None] * values[:, None, :]).flatten(1)
        return torch.cat([weighted_values, weights], dim=1)

    @contextmanager
    def fixed_weights(self) -> Iterator[None]:
        """Compute the gene table once for all that is done inside; the weights must not change meanwhile."""
        self._fixed_table = self.gene_table()
        try:
            yield
        finally:
            self._fixed_table = None

    def forward(self, expression: Tensor, is_masked: Tensor) -> Tensor:
        """Expression ``(n_obs, n_vars)``, is_masked ``(n_obs | 1, n_vars)`` -> ``(n_obs, n_slots, n_hidden)``."""
        table = self._current_table()
        return self._divide(sum_over_genes(expression, table), is_masked, table)

    def read(self, expression: Tensor) -> Tensor:
        """Expression ``(n_obs, n_vars)`` -> all that the slots read of a cell, linear in expression.

        Numerators and denominators without the silent genes, ``(n_obs, n_slots * n_hidden + n_slots)``.
        """
        return sum_over_genes(expression, self._current_table())

    def from_reading(self, reading: Tensor, is_masked: Tensor) -> Tensor:
        """What :meth:`read` gave, is_masked ``(n_obs | 1, n_vars)`` -> slot tokens, as :meth:`forward` does."""
        return self._divide(reading, is_masked, self._current_table())

    def share_among_genes(self, gradient: Tensor) -> Tensor:
        """Gradient by the reading -> gradient by the expression of every gene ``(n_obs, n_vars)``."""
        return gradient @ self._current_table().T

    def attend(self, expression: Tensor) -> Tensor:
        """Dense expression ``(n_obs, n_vars)`` -> attention to expressed genes ``(n_obs, n_slots, n_vars)``.

        Rows sum to one, or to zero where no gene is expressed. The share that silent genes have in the denominator is
        left out: their value is zero.
        """
        weights = self._current_table()[:, -self.n_slots :]
        total = (expression @ weights).clamp_min(_TINY)
        return expression[:, None, :] * weights.T / total[:, :, None]

    def _current_table(self) -> Tensor:
        return self.gene_table() if self._fixed_table is None else self._fixed_table

    def _divide(self, sums: Tensor, is_masked: Tensor, table: Tensor) -> Tensor:
        numerator = sums[:, : -self.n_slots].unflatten(1, (self.n_slots, self.n_hidden))
        measured = (~is_masked).to(table.dtype)
        silent = self.log_silent_weight.exp() * (measured @ table[:, -self.n_slots :])  # (n_obs | 1, n_slots)
        denominator = (sums[:, -self.n_slots :] + silent).clamp_min(_TINY)
        return numerator / denominator[:, :, None] + self.slot_embedding
