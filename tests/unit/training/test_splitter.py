from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from scvi import REGISTRY_KEYS

from transanno import TransAnno
from transanno.training._episodes import EpisodeSampler
from transanno.training._splitter import AnnotationDataSplitter, ClassBalancedSampler

# 61 cells of type 0, 13 of type 1, 3 of type 2, 29 without label, mixed.
N_PER_CODE = {0: 61, 1: 13, 2: 3, -1: 29}
CODES = np.random.default_rng(0).permutation(np.repeat(list(N_PER_CODE), list(N_PER_CODE.values())))


def epoch(sampler: ClassBalancedSampler) -> np.ndarray:
    return np.concatenate([np.asarray(minibatch, dtype=int) for minibatch in sampler])


class TestClassBalancedSampler:
    @pytest.mark.parametrize("class_balance", [0.0, 0.5, 1.0])
    def test_types_are_drawn_with_the_expected_frequencies(self, class_balance):
        sampler = ClassBalancedSampler(CODES, batch_size=17, class_balance=class_balance)
        n_epochs = 200
        drawn = CODES[np.concatenate([epoch(sampler) for _ in range(n_epochs)])]
        n_labeled = 77
        weight = {code: n ** (1 - class_balance) for code, n in N_PER_CODE.items() if code >= 0}
        for code in (0, 1, 2):
            share = n_labeled / 106 * weight[code] / sum(weight.values())
            deviation = np.sqrt(share * (1 - share) / len(drawn))
            assert abs((drawn == code).mean() - share) < 5 * deviation
        assert abs((drawn == -1).mean() - 29 / 106) < 5 * np.sqrt(0.25 / len(drawn))

    def test_cells_of_one_type_are_drawn_alike(self):
        sampler = ClassBalancedSampler(CODES, batch_size=17, class_balance=0.5)
        n = np.bincount(np.concatenate([epoch(sampler) for _ in range(200)]), minlength=len(CODES))
        for code in N_PER_CODE:
            mean = n[CODES == code].mean()
            assert np.abs(n[CODES == code] - mean).max() < 5 * np.sqrt(mean)

    def test_without_balance_every_cell_comes_once(self):
        sampler = ClassBalancedSampler(CODES, batch_size=17, class_balance=0.0)
        np.testing.assert_array_equal(np.sort(epoch(sampler)), np.arange(106))

    @pytest.mark.parametrize("class_balance", [0.0, 0.5])
    def test_every_epoch_is_redrawn(self, class_balance):
        sampler = ClassBalancedSampler(CODES, batch_size=17, class_balance=class_balance)
        assert not np.array_equal(epoch(sampler), epoch(sampler))

    def test_torch_seed_decides(self):
        orders = []
        for numpy_seed in (0, 1):
            torch.manual_seed(3)
            np.random.seed(numpy_seed)
            orders.append(epoch(ClassBalancedSampler(CODES, batch_size=17, class_balance=0.5, n_samples_per_label=11)))
        np.testing.assert_array_equal(*orders)

    @pytest.mark.parametrize("batch_size", [1, 17, 53, 106, 131])
    @pytest.mark.parametrize("drop_last", [False, True])
    def test_length_and_sizes_of_minibatches(self, batch_size, drop_last):
        sampler = ClassBalancedSampler(CODES, batch_size=batch_size, class_balance=0.5, drop_last=drop_last)
        sizes = [len(minibatch) for minibatch in sampler]
        assert len(sizes) == len(sampler)
        rest = 106 % batch_size
        assert sizes == [batch_size] * (106 // batch_size) + ([rest] if rest and not drop_last else [])

    @pytest.mark.parametrize("limit", [1, 7, 1000])
    def test_limit_per_label(self, limit):
        sampler = ClassBalancedSampler(CODES, batch_size=17, class_balance=0.0, n_samples_per_label=limit)
        first, second = epoch(sampler), epoch(sampler)
        for cells in (first, second):
            assert len(set(cells)) == len(cells)
            n = {code: int((CODES[cells] == code).sum()) for code in N_PER_CODE}
            assert n == {code: n if code < 0 else min(n, limit) for code, n in N_PER_CODE.items()}
        assert len(sampler) == -(-len(first) // 17)
        if limit == 7:
            assert set(first) != set(second)

    def test_limit_holds_for_cells_drawn_repeatedly(self):
        sampler = ClassBalancedSampler(CODES, batch_size=17, class_balance=0.5, n_samples_per_label=7)
        cells = epoch(sampler)
        assert len(cells) == 7 + 7 + 3 + 29
        assert all(len(set(cells[CODES[cells] == code])) <= 7 for code in (0, 1, 2))

    @pytest.mark.parametrize("code", [-1, 0])
    @pytest.mark.parametrize("class_balance", [0.0, 0.5, 1.0, "oversample"])
    def test_cells_without_any_label_or_of_one_type(self, code, class_balance):
        sampler = ClassBalancedSampler(np.full(11, code), batch_size=5, class_balance=class_balance)
        assert len(epoch(sampler)) == 11

    def test_oversampling_shows_every_cell_and_fills_types_up_to_the_largest(self):
        sampler = ClassBalancedSampler(CODES, batch_size=17, class_balance="oversample")
        cells = epoch(sampler)
        assert {code: int((CODES[cells] == code).sum()) for code in N_PER_CODE} == {0: 61, 1: 61, 2: 61, -1: 29}
        assert set(cells) == set(range(106))
        # Nothing but small types is repeated.
        assert (np.bincount(cells)[(CODES == 0) | (CODES == -1)] == 1).all()
        assert len(sampler) == -(-(3 * 61 + 29) // 17)
        assert not np.array_equal(np.sort(cells), np.sort(epoch(sampler)))

    def test_oversampling_repeats_cells_of_a_type_alike(self):
        sampler = ClassBalancedSampler(CODES, batch_size=17, class_balance="oversample")
        n = np.bincount(np.concatenate([epoch(sampler) for _ in range(100)]))
        for code in (1, 2):
            assert np.abs(n[CODES == code] - 6100 / N_PER_CODE[code]).max() < 5 * np.sqrt(6100 / N_PER_CODE[code])

    def test_oversampling_of_limited_types(self):
        sampler = ClassBalancedSampler(CODES, batch_size=17, class_balance="oversample", n_samples_per_label=7)
        cells = epoch(sampler)
        assert [int((CODES[cells] == code).sum()) for code in (0, 1, 2, -1)] == [7, 7, 7, 29]
        assert len(sampler) == -(-50 // 17)

    def test_oversampling_mixes_the_repeats_in(self):
        cells = epoch(ClassBalancedSampler(CODES, batch_size=17, class_balance="oversample"))
        assert 0.3 < (CODES[cells[:106]] == 2).sum() / (CODES[cells] == 2).sum() < 0.7

    def test_gaps_in_codes(self):
        codes = np.array([0] * 7 + [4] * 3)
        assert set(codes[epoch(ClassBalancedSampler(codes, batch_size=5, class_balance=1.0))]) <= {0, 4}


def make_splitter(labels=None, **kwargs) -> AnnotationDataSplitter:
    labels = np.where(CODES < 0, "Unlabeled", CODES.astype(str)) if labels is None else np.asarray(labels)
    n_obs = len(labels)
    x = np.random.default_rng(1).poisson(2.0, size=(n_obs, 5)).astype("float32")
    x[:, 0] = np.arange(n_obs) + 1  # tells who a cell is
    adata = ad.AnnData(sp.csr_matrix(x), obs=pd.DataFrame({"y": labels}, index=[f"c{i}" for i in range(n_obs)]))
    TransAnno.setup_anndata(adata, "y")
    manager = TransAnno._get_most_recent_anndata_manager(adata)
    n_labels = len(set(labels) - {"Unlabeled"}) + 1
    return AnnotationDataSplitter(manager, n_labels=n_labels, **({"batch_size": 17} | kwargs))


def cells(loader) -> np.ndarray:
    return np.concatenate([minibatch[REGISTRY_KEYS.X_KEY][:, 0].numpy() for minibatch in loader]).astype(int) - 1


class TestAnnotationDataSplitter:
    @pytest.mark.parametrize(
        "shares", [{}, {"train_size": 0.8}, {"train_size": 0.7, "validation_size": 0.1}, {"train_size": 0.1}]
    )
    def test_parts_are_disjoint_cover_all_and_leave_every_type_in_training(self, shares):
        splitter = make_splitter(**shares)
        val_share, test_share = splitter.held_out_shares
        splitter.setup()
        together = np.concatenate([splitter.train_idx, splitter.val_idx, splitter.test_idx])
        np.testing.assert_array_equal(np.sort(together), np.arange(106))
        for code, n in N_PER_CODE.items():
            assert (CODES[splitter.train_idx] == code).any()
            assert (CODES[splitter.val_idx] == code).sum() == int(n * val_share)
            assert (CODES[splitter.test_idx] == code).sum() == int(n * test_share)
        assert (splitter.n_train, splitter.n_val) == (len(splitter.train_idx), len(splitter.val_idx))

    def test_only_cell_of_a_type_is_trained_on(self):
        splitter = make_splitter(["a"] * 53 + ["b"], train_size=0.5)
        splitter.setup()
        assert 53 in splitter.train_idx

    def test_training_on_all_cells(self):
        splitter = make_splitter(train_size=1.0)
        splitter.setup()
        assert len(splitter.val_idx) == len(splitter.test_idx) == 0
        assert splitter.val_dataloader() is None
        np.testing.assert_array_equal(np.sort(splitter.train_idx), np.arange(106))

    def test_chosen_cells_are_used(self):
        chosen = [np.arange(0, 61), np.arange(61, 83), np.arange(83, 106)]
        splitter = make_splitter(external_indexing=chosen, class_balance=0.0)
        splitter.setup()
        np.testing.assert_array_equal(np.sort(cells(splitter.train_dataloader())), chosen[0])
        np.testing.assert_array_equal(cells(splitter.val_dataloader()), chosen[1])

    def test_unshuffled_split_is_in_the_order_of_the_data(self):
        splitter = make_splitter(shuffle_set_split=False, train_size=0.8)
        splitter.setup()
        np.testing.assert_array_equal(splitter.val_idx, np.arange(splitter.n_val))

    def test_seed_of_scvi_decides(self, monkeypatch):
        splits = []
        for seed in (3, 3, 5):
            monkeypatch.setattr(
                "transanno.training._splitter.settings", type("S", (), {"seed": seed, "batch_size": 17})
            )
            splitter = make_splitter(train_size=0.7)
            splitter.setup()
            splits.append(splitter.train_idx)
        np.testing.assert_array_equal(splits[0], splits[1])
        assert not np.array_equal(splits[0], splits[2])

    def test_repeated_cells_stay_in_training(self):
        splitter = make_splitter(train_size=0.7, class_balance=1.0)
        splitter.setup()
        loader = splitter.train_dataloader()
        first, second = cells(loader), cells(loader)
        assert len(first) == splitter.n_train
        assert len(loader) == -(-splitter.n_train // 17)
        assert set(first) | set(second) <= set(splitter.train_idx)
        assert not np.array_equal(first, second)

    def test_minibatches_hold_what_they_should(self):
        splitter = make_splitter(train_size=1.0)
        splitter.setup()
        for minibatch in splitter.train_dataloader():
            who = minibatch[REGISTRY_KEYS.X_KEY][:, 0].long() - 1
            expected = np.where(CODES[who] < 0, 3, CODES[who])
            np.testing.assert_array_equal(minibatch[REGISTRY_KEYS.LABELS_KEY].flatten(), expected)

    def test_drop_last(self):
        splitter = make_splitter(train_size=1.0, class_balance=0.5, drop_last=True)
        splitter.setup()
        assert [len(b[REGISTRY_KEYS.X_KEY]) for b in splitter.train_dataloader()] == [17] * 6

    @pytest.mark.parametrize("class_balance", [-0.1, 1.1])
    def test_class_balance_out_of_bounds(self, class_balance):
        with pytest.raises(ValueError, match=rf"class_balance={class_balance} is outside \[0, 1\]"):
            make_splitter(class_balance=class_balance)

    def test_unknown_class_balance(self):
        with pytest.raises(
            ValueError, match="class_balance='undersample' is not known. Allowed: 'episodes', 'oversample'"
        ):
            make_splitter(class_balance="undersample")

    def test_small_last_minibatch_is_no_warning(self):
        make_splitter(["a"] * 9 + ["b"] * 9, train_size=1.0)  # 18 = 17 + 1; a warning would be an error

    def test_arguments_reach_the_sampler(self):
        splitter = make_splitter(class_balance=0.3, n_samples_per_label=7, drop_last=True)
        splitter.setup()
        sampler = splitter.train_dataloader().sampler
        assert isinstance(sampler, ClassBalancedSampler)
        found = sampler.batch_size, sampler.class_balance, sampler.n_samples_per_label, sampler.drop_last
        assert found == (17, 0.3, 7, True)

    def test_minibatches_are_episodes_by_default(self):
        splitter = make_splitter(n_samples_per_label=7)
        splitter.setup()
        loader = splitter.train_dataloader()
        sampler = loader.sampler
        assert isinstance(sampler, EpisodeSampler)
        assert (sampler.batch_size, sampler.n_samples_per_label) == (17, 7)
        sizes = {len(minibatch[REGISTRY_KEYS.X_KEY]) for minibatch in loader}
        assert sizes == {17}
        drawn = cells(loader)
        assert set(drawn) <= set(splitter.train_idx)
        assert (CODES[drawn] >= 0).all()

    @pytest.mark.parametrize("class_balance", ["episodes", 0.5, "oversample"])
    @pytest.mark.parametrize("batch_size", [1, 17])
    def test_steps_of_an_epoch_are_known_before_the_trainer_asks(self, class_balance, batch_size):
        splitter = make_splitter(class_balance=class_balance, batch_size=batch_size)
        assert splitter.n_steps_per_epoch == len(splitter.train_dataloader())
        assert splitter.n_steps_per_epoch == len(list(splitter.train_dataloader()))

    @pytest.mark.parametrize("n_processes", [2, 3])
    def test_steps_are_shared_among_processes(self, n_processes):
        alone, shared = (make_splitter(class_balance=0.5, n_processes=n) for n in (1, n_processes))
        assert shared.n_steps_per_epoch == -(-alone.n_steps_per_epoch // n_processes)

    def test_without_use_of_labels_no_cell_counts_as_labeled(self):
        splitter = make_splitter(use_labels=False, train_size=1.0)
        splitter.setup()
        drawn = np.concatenate([cells(splitter.train_dataloader()) for _ in range(9)])
        n_labeled = (CODES[drawn] >= 0).mean()
        assert abs(n_labeled - 77 / 106) < 5 * np.sqrt(0.25 / len(drawn))  # cells as often as they are in the data


@pytest.fixture
def on_disk(tmp_path):
    """``on_disk(splitter)`` -> the same splitter on the same cells in a file."""
    files = []

    def move(splitter: AnnotationDataSplitter, *, dense: bool = False) -> AnnotationDataSplitter:
        adata = splitter.adata_manager.adata.copy()
        if dense:
            adata.X = adata.X.toarray()
        adata.write_h5ad(tmp_path / f"{len(files)}.h5ad")
        files.append(ad.read_h5ad(tmp_path / f"{len(files)}.h5ad", backed="r"))
        TransAnno.setup_anndata(files[-1], "y")
        manager = TransAnno._get_most_recent_anndata_manager(files[-1])
        moved = AnnotationDataSplitter(manager, n_labels=4, batch_size=17, class_balance=splitter.class_balance)
        moved.setup()
        moved.train_idx = splitter.train_idx
        return moved

    yield move
    for adata in files:
        adata.file.close()


class TestRowsOnDisk:
    @pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
    @pytest.mark.parametrize("class_balance", [0.0, 1.0, "oversample", "episodes"])
    def test_minibatches_are_those_of_the_same_data_in_memory(self, dense, class_balance, on_disk):
        splitter = make_splitter(train_size=0.7, class_balance=class_balance)
        splitter.setup()
        minibatches = []
        for each in (splitter, on_disk(splitter, dense=dense)):
            torch.manual_seed(3)
            minibatches.append(list(each.train_dataloader()))
        for in_memory, from_disk in zip(*minibatches, strict=True):
            assert in_memory.keys() == from_disk.keys()
            for key in in_memory:
                assert torch.equal(in_memory[key], from_disk[key]), key

    def test_rare_types_keep_their_share(self, on_disk):
        """Three cells that are a third of what is drawn stand in a minibatch about twice each, and have to."""
        splitter = make_splitter(train_size=1.0, class_balance=1.0)
        splitter.setup()
        loader = on_disk(splitter).train_dataloader()
        drawn = np.concatenate([cells(loader) for _ in range(20)])
        assert len(drawn) == 20 * 106
        labeled = CODES[drawn][CODES[drawn] >= 0]
        share = np.bincount(labeled) / len(labeled)
        assert np.abs(share - 1 / 3).max() < 5 * np.sqrt(2 / 9 / len(labeled))
