"""Which cells are trained on, and how often: a stratified split and a class-aware sampler."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from scvi import REGISTRY_KEYS, settings
from scvi.data import AnnDataManager
from scvi.dataloaders import DataSplitter
from torch.utils.data import DataLoader, Dataset, Sampler

from transanno.checks._data import check_choice, check_interval
from transanno.training._episodes import EpisodeSampler
from transanno.training._processes import DrawnAlike


@contextmanager
def ignored_size_warnings() -> Iterator[None]:
    """Without scvi-tools' warning of small last minibatches: they trouble batch norm, and there is none here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Last batch will have a small size")
        yield


class ClassBalancedSampler(Sampler[list[int]]):
    """-> minibatches of positions, redrawn every epoch, in which rare types are drawn more often.

    A labeled cell of a type with n cells is drawn with a probability proportional to
    ``n ** -class_balance`` (0: as in the data, 1: every type alike), and an epoch has as many cells as the data.
    ``"oversample"`` is the random oversampling of TransAnno-Net :cite:p:`transannonet2025`: every cell is seen once,
    and cells of all types but the largest are drawn again until each type has as many as that. An epoch
    then has the number of cells of the largest type, times that of types.

    Drawing happens inside the training split, so a repeated cell never appears on both sides. Unlabeled cells are
    seen as often as they are in the data.

    ``codes (n_obs,)`` are label codes of the training cells, -1 for unlabeled ones; of every type at most
    ``n_samples_per_label`` labeled cells are seen in an epoch, and ``drop_last`` drops an incomplete last minibatch.
    """

    def __init__(
        self,
        codes: np.ndarray,
        *,
        batch_size: int,
        class_balance: float | Literal["oversample"],
        n_samples_per_label: int | None = None,
        drop_last: bool = False,
    ) -> None:
        self.codes = codes
        self.batch_size = batch_size
        self.class_balance = class_balance
        self.n_samples_per_label = n_samples_per_label
        self.drop_last = drop_last
        candidates = self._candidates()
        self.n_samples = len(candidates)
        if class_balance == "oversample":
            n_per_class = np.bincount(codes[candidates] + 1)[1:]  # without unlabeled cells
            self.n_samples += int((n_per_class.max(initial=0) - n_per_class[n_per_class > 0]).sum())

    def __len__(self) -> int:
        if self.drop_last:
            return self.n_samples // self.batch_size
        return -(-self.n_samples // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = self._epoch()
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield order[start : start + self.batch_size].tolist()

    def _epoch(self) -> np.ndarray:
        """Positions in the order in which they are seen, some of them more than once."""
        candidates = self._candidates()
        codes = self.codes[candidates]
        if self.class_balance == "oversample":
            order = candidates[_oversampled(codes)]
            return order[torch.randperm(len(order)).numpy()]
        if self.class_balance == 0.0:
            return candidates[torch.randperm(len(candidates)).numpy()]
        n_per_class = np.bincount(codes[codes >= 0]) if (codes >= 0).any() else np.ones(1)
        weights = np.where(codes >= 0, n_per_class[codes].astype(float) ** -self.class_balance, 0.0)
        # Unlabeled cells keep the share of the epoch that they have of the data.
        is_labeled = codes >= 0
        weights[is_labeled] *= is_labeled.sum() / max(weights.sum(), 1e-12)
        weights[~is_labeled] = 1.0
        drawn = torch.multinomial(torch.from_numpy(weights), len(candidates), replacement=True)
        return candidates[drawn.numpy()]

    def _candidates(self) -> np.ndarray:
        """Positions that take part in this epoch."""
        if self.n_samples_per_label is None:
            return np.arange(len(self.codes))
        kept = [np.flatnonzero(self.codes < 0)]
        for code in np.unique(self.codes[self.codes >= 0]):
            cells = np.flatnonzero(self.codes == code)
            kept.append(cells[torch.randperm(len(cells)).numpy()[: self.n_samples_per_label]])
        return np.sort(np.concatenate(kept))


def _oversampled(codes: np.ndarray) -> np.ndarray:
    """codes ``(n_obs,)``, -1 for unlabeled cells -> positions: every cell, and types filled up to the largest."""
    kept = [np.arange(len(codes))]
    n_per_class = np.bincount(codes[codes >= 0], minlength=1)
    for code in np.unique(codes[codes >= 0]):
        cells = np.flatnonzero(codes == code)
        n_repeats = int(n_per_class.max()) - len(cells)
        kept.append(cells[torch.randint(len(cells), (n_repeats,)).numpy()])
    return np.concatenate(kept)


class RowsOnDisk(Dataset):
    """Cells of a file as a data set that may be asked for one of them repeatedly.

    The file is read at sorted, unique rows, the only ones that HDF5 takes, and the answer is in the order of the
    question.
    """

    def __init__(self, adata_manager: AnnDataManager, indices: np.ndarray) -> None:
        self.dataset = adata_manager.create_torch_dataset()
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, positions: list[int]) -> dict[str, np.ndarray]:
        unique, where = np.unique(self.indices[positions], return_inverse=True)
        return {key: values[where] for key, values in self.dataset[unique].items()}


class SplitOnce(DataSplitter):
    """scvi-tools' split, made at the first :meth:`setup` and kept.

    scvi-tools splits at every one, and without ``scvi.settings.seed`` differently each time: what was fitted to the
    training cells before the trainer called it would have seen the trainer's validation cells.
    """

    def setup(self, stage: str | None = None) -> None:
        """Split the cells into train, validation and test, unless that was done."""
        if not hasattr(self, "train_idx"):
            self._split(stage)

    def _split(self, stage: str | None) -> None:
        super().setup(stage)


class AnnotationDataSplitter(SplitOnce):
    """scvi-tools' split, stratified by label, with a class-balanced training loader.

    A plain random split can put the only cells of a rare type into validation, and the model then
    never sees the type. Here a type with n cells gives ``floor(n * validation_size)`` of them.

    ``n_labels`` is the number of label categories, the unlabeled one included; ``class_balance`` is ``"episodes"``, see
    :class:`~transanno.training._episodes.EpisodeSampler`, or what :class:`ClassBalancedSampler` takes. Without ``use_labels``
    all cells count as unlabeled: labels have no influence on which cells are drawn. ``n_processes`` share the minibatches of an
    epoch. Other arguments are those of :class:`~scvi.dataloaders.DataSplitter`.
    """

    def __init__(
        self,
        adata_manager: AnnDataManager,
        *,
        n_labels: int,
        class_balance: float | Literal["episodes", "oversample"] = "episodes",
        n_samples_per_label: int | None = None,
        use_labels: bool = True,
        n_processes: int = 1,
        **kwargs,
    ) -> None:
        if isinstance(class_balance, str):
            check_choice("class_balance", class_balance, ("episodes", "oversample"))
        else:
            check_interval("class_balance", class_balance, 0.0, 1.0)
        if n_samples_per_label is not None and n_samples_per_label < 1:
            raise ValueError(
                f"n_samples_per_label={n_samples_per_label} is less than 1. Give a number of cells, or None."
            )
        if n_processes > 1:  # of the loader of validation cells, which Lightning would take apart wrongly
            kwargs["distributed_sampler"] = True
        with ignored_size_warnings():
            super().__init__(adata_manager, **kwargs)
        self.n_train: int
        self.n_val: int
        n_obs = adata_manager.adata.n_obs
        self.held_out_shares = self.n_val / n_obs, (n_obs - self.n_val - self.n_train) / n_obs
        codes = np.asarray(adata_manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY)).ravel()
        self.codes = np.where((codes == n_labels - 1) | (not use_labels), -1, codes)
        self.n_classes = n_labels - 1
        self.class_balance = class_balance
        self.n_samples_per_label = n_samples_per_label
        self.n_processes = n_processes

    def _split(self, stage: str | None) -> None:
        super()._split(stage)
        if self.external_indexing is not None or not self.shuffle_set_split:
            return  # the caller chose the cells
        rng = np.random.default_rng(settings.seed)
        n_obs = len(self.codes)
        held_out: dict[str, list[np.ndarray]] = {"val": [], "test": []}
        for code in np.unique(self.codes):
            cells = rng.permutation(np.flatnonzero(self.codes == code))
            n_val, n_test = (int(len(cells) * share) for share in self.held_out_shares)
            held_out["val"].append(cells[:n_val])
            held_out["test"].append(cells[n_val : n_val + n_test])
        self.val_idx = rng.permutation(np.concatenate(held_out["val"]))
        self.test_idx = rng.permutation(np.concatenate(held_out["test"]))
        self.train_idx = rng.permutation(np.setdiff1d(np.arange(n_obs), np.r_[self.val_idx, self.test_idx]))
        self.n_train, self.n_val = len(self.train_idx), len(self.val_idx)

    def train_dataloader(self) -> DataLoader:
        """Minibatches drawn by the sampler that ``class_balance`` names."""
        sampler: Sampler = self._sampler()
        if self.n_processes > 1:
            assert self.trainer is not None
            sampler = DrawnAlike(sampler, self.trainer.strategy.broadcast)
        indices = self.train_idx.astype(int)
        dataset: Dataset
        if self.adata_manager.adata.isbacked:
            dataset = RowsOnDisk(self.adata_manager, indices)
        else:
            dataset = self.adata_manager.create_torch_dataset(
                indices=indices, load_sparse_tensor=self.load_sparse_tensor
            )
        num_workers = self.data_loader_kwargs.get("num_workers", settings.dl_num_workers)
        return DataLoader(
            dataset,
            sampler=sampler,
            batch_size=None,  # the sampler gives minibatches, and a sparse matrix is read once for each
            num_workers=num_workers,
            persistent_workers=num_workers > 0 and settings.dl_persistent_workers,
            pin_memory=self.pin_memory,
        )

    @property
    def n_steps_per_epoch(self) -> int:
        """Minibatches in an epoch of training, for every process."""
        self.setup("fit")
        return -(-len(self._sampler()) // self.n_processes)

    def _sampler(self) -> EpisodeSampler | ClassBalancedSampler:
        batch_size = self.data_loader_kwargs.get("batch_size") or settings.batch_size
        codes = self.codes[self.train_idx.astype(int)]
        if self.class_balance == "episodes":
            return EpisodeSampler(
                codes,
                batch_size=batch_size,
                n_samples_per_label=self.n_samples_per_label,
                n_processes=self.n_processes,
            )
        return ClassBalancedSampler(
            codes,
            batch_size=batch_size,
            class_balance=self.class_balance,
            n_samples_per_label=self.n_samples_per_label,
            drop_last=self.drop_last,
        )
