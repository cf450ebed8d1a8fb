"""Minibatches that are small data sets of their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from transanno.training._episodes import EpisodeSampler

pytestmark = pytest.mark.usefixtures("whole_epochs")

# 61 cells of type 0, 13 of type 1, 3 of type 2, 7 of type 5, 2 of type 7, 29 without label, mixed.
N_PER_CODE = {0: 61, 1: 13, 2: 3, 5: 7, 7: 2, -1: 29}
CODES = np.random.default_rng(0).permutation(np.repeat(list(N_PER_CODE), list(N_PER_CODE.values())))
TYPES = [0, 1, 2, 5, 7]


def make_sampler(codes: np.ndarray = CODES, batch_size: int = 31, **kwargs) -> EpisodeSampler:
    return EpisodeSampler(codes, batch_size=batch_size, **kwargs)


def compositions(sampler: EpisodeSampler, n_epochs: int = 1) -> np.ndarray:
    """Share of every type in every episode ``(n_episodes, n_types)``."""
    episodes = [CODES[minibatch] for _ in range(n_epochs) for minibatch in sampler]
    return np.array([[(codes == code).mean() for code in TYPES] for codes in episodes])


@pytest.mark.parametrize(("batch_size", "n_episodes"), [(1, 86), (3, 29), (4, 25), (31, 25), (211, 25)])
def test_an_epoch_is_as_long_as_the_labeled_cells_and_at_least_25_episodes(batch_size, n_episodes):
    sampler = make_sampler(batch_size=batch_size)
    sizes = [len(minibatch) for minibatch in sampler]
    assert len(sampler) == n_episodes
    assert sizes == [batch_size] * n_episodes


@pytest.mark.parametrize(("n_processes", "n_episodes"), [(1, 29), (2, 50), (3, 75)])
def test_every_process_has_at_least_25_of_them(n_processes, n_episodes):
    sampler = make_sampler(batch_size=3, n_processes=n_processes)
    assert len(sampler) == len(list(sampler)) == n_episodes


def test_positions_are_plain_numbers():
    """As lists: torch's data sets are asked for rows by them."""
    minibatch = next(iter(make_sampler()))
    assert isinstance(minibatch, list)
    assert all(type(position) is int for position in minibatch)


def test_only_labeled_cells_take_part():
    drawn = np.concatenate(list(make_sampler()))
    assert (CODES[drawn] >= 0).all()


def test_composition_varies_from_episode_to_episode():
    shares = compositions(make_sampler(), n_epochs=8)
    assert len(np.unique(shares, axis=0)) > 150
    assert (shares.std(axis=0) > 0.15).all()
    is_there = shares > 0
    assert len(np.unique(is_there, axis=0)) > 10
    assert is_there.sum(axis=1).min() >= 1
    assert is_there.all(axis=1).any()


def test_all_types_appear_alike_over_time():
    """However many cells they have."""
    shares = compositions(make_sampler(), n_epochs=40)
    np.testing.assert_allclose(shares.mean(axis=0), 1 / len(TYPES), atol=0.03)


def test_between_two_fifths_and_all_of_the_types_take_part():
    codes = np.arange(101).repeat(3)
    drawn = [len(set(codes[minibatch])) for minibatch in make_sampler(codes, batch_size=50_021)]
    # Of types that take part few are so rare that a cell of them is not drawn.
    assert 0.3 * 101 < min(drawn) < 0.6 * 101
    assert 0.75 * 101 < max(drawn) <= 101


def test_cells_of_one_type_are_drawn_alike():
    sampler = make_sampler()
    n = np.bincount(np.concatenate([np.concatenate(list(sampler)) for _ in range(60)]), minlength=len(CODES))
    for code in TYPES:
        mean = n[CODES == code].mean()
        assert np.abs(n[CODES == code] - mean).max() < 5 * np.sqrt(mean)


def test_every_epoch_is_redrawn():
    sampler = make_sampler()
    assert list(sampler) != list(sampler)


def test_torch_seed_decides():
    epochs = []
    for numpy_seed, torch_seed in ((0, 3), (1, 3), (0, 5)):
        np.random.seed(numpy_seed)
        torch.manual_seed(torch_seed)
        epochs.append(list(make_sampler(n_samples_per_label=5)))
    assert epochs[0] == epochs[1]
    assert epochs[0] != epochs[2]


def test_draws_from_no_other_generator():
    state = np.random.get_state()[1].copy()
    list(make_sampler(n_samples_per_label=5))
    np.testing.assert_array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("limit", [1, 5, 1000])
def test_limit_per_label(limit):
    sampler = make_sampler(n_samples_per_label=limit)
    first, second = [np.concatenate(list(sampler)) for _ in range(2)]
    for drawn in (first, second):
        for code in TYPES:
            n_cells = len(set(drawn[CODES[drawn] == code]))
            assert n_cells <= min(limit, N_PER_CODE[code])
            assert n_cells == limit or limit > 5 or N_PER_CODE[code] < 5
    if limit == 5:
        assert set(first) != set(second)


def test_one_type_is_all_there_is():
    codes = np.array([-1, 4, 4, -1, 4])
    drawn = np.concatenate(list(make_sampler(codes, batch_size=7)))
    assert set(drawn) == {1, 2, 4}


def test_two_types_both_take_part():
    """With one there is nothing to tell apart; but its proportion may be small."""
    codes = np.arange(20) % 2
    n_types = [len(set(codes[minibatch])) for minibatch in make_sampler(codes, batch_size=211)]
    assert np.mean(np.array(n_types) == 2) > 0.9


def test_type_with_one_cell():
    codes = np.array([0] * 19 + [1])
    drawn = np.concatenate(list(make_sampler(codes, batch_size=13)))
    assert (drawn == 19).mean() > 0.3


def test_without_labels_cells_are_drawn_as_they_are_in_the_data():
    sampler = make_sampler(np.full(11, -1), batch_size=101)
    n = np.bincount(np.concatenate(list(sampler)), minlength=11)
    assert np.abs(n - n.mean()).max() < 5 * np.sqrt(n.mean())
    assert len(sampler) == 25


def test_one_cell_without_label():
    assert list(make_sampler(np.array([-1]), batch_size=3)) == [[0, 0, 0]] * 25
