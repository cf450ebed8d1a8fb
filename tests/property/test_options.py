"""What holds of the paper's options for all inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from transanno.nn import sample_expressed_mask
from transanno.training._episodes import EpisodeSampler
from transanno.training._plan import _warm_restarts
from transanno.training._splitter import ClassBalancedSampler

codes = npst.arrays(np.int64, st.integers(1, 60), elements=st.integers(-1, 6))


@given(codes, st.integers(1, 13), st.booleans(), st.sampled_from([None, 1, 5]))
def test_oversampled_epochs_are_balanced_and_complete(codes, batch_size, drop_last, limit):
    arguments = {"batch_size": batch_size, "class_balance": "oversample", "n_samples_per_label": limit}
    sampler = ClassBalancedSampler(codes, drop_last=drop_last, **arguments)
    minibatches = list(sampler)
    assert len(minibatches) == len(sampler)
    cells = np.concatenate([np.asarray(m, dtype=int) for m in ClassBalancedSampler(codes, **arguments)])
    n_per_class = np.unique(codes[codes >= 0], return_counts=True)[1]
    n_largest = min(n_per_class.max(initial=0), limit or np.inf)
    drawn = codes[cells]
    assert (np.unique(drawn[drawn >= 0], return_counts=True)[1] == n_largest).all()
    assert sorted(cells[drawn < 0]) == np.flatnonzero(codes < 0).tolist()
    if limit is None:
        assert set(cells) == set(range(len(codes)))


@pytest.mark.usefixtures("whole_epochs")
@given(codes, st.integers(1, 70), st.sampled_from([None, 1, 5]))
def test_episodes_are_whole_and_of_labeled_cells(codes, batch_size, limit):
    sampler = EpisodeSampler(codes, batch_size=batch_size, n_samples_per_label=limit)
    minibatches = list(sampler)
    n_labeled = int((codes >= 0).sum())
    assert len(minibatches) == len(sampler) == max(25, -(-(n_labeled or len(codes)) // batch_size))
    assert all(len(minibatch) == batch_size for minibatch in minibatches)
    drawn = np.unique(np.concatenate(minibatches))
    assert not n_labeled or (codes[drawn] >= 0).all()
    if limit is not None and n_labeled:
        assert np.unique(codes[drawn], return_counts=True)[1].max() <= limit


@given(
    npst.arrays(np.float32, st.tuples(st.integers(1, 7), st.integers(1, 11)), elements=st.integers(0, 3).map(float)),
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 1),
)
def test_hidden_genes_are_targets_and_targets_are_expressed(counts, fraction, probability):
    is_target, is_hidden = sample_expressed_mask(
        torch.from_numpy(counts), fraction=fraction, replace_probability=probability
    )
    assert not (is_hidden & ~is_target).any()
    assert not is_target.numpy()[counts == 0].any()


@given(st.integers(0, 10_000))
def test_warm_restarts_stay_between_zero_and_the_peak(epoch):
    assert 0 < _warm_restarts(epoch) <= 1
