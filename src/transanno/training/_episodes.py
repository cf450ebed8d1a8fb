"""Minibatches that are small data sets of their own: a random part of the types, in random proportions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

# Types that take part in an episode, at least and at most, as a share of all; and how even their proportions are.
_SHARE_OF_TYPES, _CONCENTRATION = (0.4, 1.0), 0.8
# An epoch has at least so many episodes for every process: small references would spend their time between epochs.
_MIN_EPISODES = 25


class EpisodeSampler(Sampler[list[int]]):
    """-> minibatches of positions of labeled cells, each of another composition.

    A query has not the composition of its reference, and its mean is not that of the reference either. So that the network
    learns neither, every minibatch is an episode: 40 to 100 % of the types, in proportions from a Dirichlet distribution,
    and cells of each drawn with replacement. Where no cell has a label, cells are drawn as they are in the data.

    ``codes (n_obs,)`` are label codes of the training cells, -1 for unlabeled ones; with ``n_samples_per_label``, only so many
    labeled cells of every type, drawn anew, take part in an epoch. The episodes of an epoch are shared among ``n_processes``.
    """

    def __init__(
        self, codes: np.ndarray, *, batch_size: int, n_samples_per_label: int | None = None, n_processes: int = 1
    ) -> None:
        self.cells = [np.flatnonzero(codes == code) for code in np.unique(codes[codes >= 0])] or [np.arange(len(codes))]
        self.batch_size = batch_size
        self.n_samples_per_label = n_samples_per_label
        self.min_episodes = _MIN_EPISODES * n_processes

    def __len__(self) -> int:
        return max(-(-sum(map(len, self.cells)) // self.batch_size), self.min_episodes)

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng(int(torch.randint(2**31, ())))  # seeded by what scvi-tools seeds
        cells = self.cells
        if self.n_samples_per_label is not None:
            cells = [rng.permutation(each)[: self.n_samples_per_label] for each in cells]
        for _ in range(len(self)):
            yield self._episode(cells, rng)

    def _episode(self, cells: list[np.ndarray], rng: np.random.Generator) -> list[int]:
        takes_part = rng.random(len(cells)) < rng.uniform(*_SHARE_OF_TYPES)
        if takes_part.sum() < 2:
            takes_part[:] = True
        types = np.flatnonzero(takes_part)
        n_per_type = rng.multinomial(self.batch_size, rng.dirichlet(np.full(len(types), _CONCENTRATION)))
        drawn = [rng.choice(cells[code], n) for code, n in zip(types, n_per_type, strict=True)]
        return np.concatenate(drawn).tolist()
