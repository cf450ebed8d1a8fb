"""Training cells of any source -> the experts of the cell-type head that do not learn by gradient descent."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scvi import REGISTRY_KEYS
from scvi.dataloaders import DataSplitter

from transanno.models._base import TransAnnoBase
from transanno.nn import CellTypeHead
from transanno.training._experts import MAX_CELLS, SHARES, choose_cells, fit_experts
from transanno.training._minibatches import first_rows


class ExpertsMixin(TransAnnoBase):
    """Fits the experts; a head without them is left as it is."""

    def _fit_experts(self, data_splitter: Any) -> None:
        """Fit to the labeled training cells, validation cells left out."""
        head = self.module.classifier
        if not isinstance(head, CellTypeHead):
            return
        # Seeded by what scvi-tools seeds.
        rng = np.random.default_rng(int(torch.randint(2**31, ())))
        if isinstance(data_splitter, DataSplitter):
            data_splitter.setup("fit")
            training = np.sort(np.asarray(data_splitter.train_idx, dtype=int))
            chosen = training[choose_cells(data_splitter.codes[training], rng)]
            counts, codes = self._counts(None, chosen), data_splitter.codes[chosen]
        else:
            found = first_rows(
                data_splitter.train_dataloader(), MAX_CELLS, REGISTRY_KEYS.X_KEY, REGISTRY_KEYS.LABELS_KEY
            )
            codes = found[REGISTRY_KEYS.LABELS_KEY].flatten().long().cpu().numpy()
            codes = np.where(codes < self.module.n_classes, codes, -1)
            chosen = choose_cells(codes, rng)
            counts, codes = sp.csr_matrix(found[REGISTRY_KEYS.X_KEY][chosen].cpu().numpy()), codes[chosen]
        experts = fit_experts(counts, codes, ~self._is_gene, self.module.n_classes)
        if experts is not None:
            weight, intercept, directions = (torch.from_numpy(each).float().to(self.module.device) for each in experts)
            head.set_experts(weight, intercept, directions, self.module.mean_expression, SHARES)
