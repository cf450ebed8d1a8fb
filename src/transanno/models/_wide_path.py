"""Training cells of any source -> the wide path of the cell-type head."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scvi import REGISTRY_KEYS
from scvi.dataloaders import DataSplitter

from transanno._wide_path import DEEP_SHARE, MAX_CELLS, WIDE_SHARE, choose_cells, fit_wide_path
from transanno.models._base import TransAnnoBase
from transanno.models._minibatches import first_rows
from transanno.nn import CellTypeHead


class WidePathMixin(TransAnnoBase):
    """Fits the wide path; a head without one is left as it is."""

    def _fit_wide_path(self, data_splitter: Any) -> None:
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
        fitted = fit_wide_path(counts, codes, ~self._is_gene, self.module.n_classes)
        if fitted is not None:
            weight, intercept = (torch.from_numpy(values).float().to(self.module.device) for values in fitted)
            head.set_wide(weight, intercept, deep_share=DEEP_SHARE, wide_share=WIDE_SHARE)
