"""Tasks of the accuracy benchmark: what methods see of the query, and that a task is the same every time."""

from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from benchmarks import _data
from benchmarks.accuracy._config import read_config
from benchmarks.accuracy._groups import Studies
from benchmarks.accuracy._tasks import Task, check_studies, make_task

LEFT_OUT = {"file": "atlas.h5ad", "column": "batch", "query": ["batch3"]}


def make(definition, *, n_genes=31, one_batch=()):
    return make_task("task", definition, n_genes=n_genes, one_batch=one_batch)


@pytest.mark.parametrize(
    "definition",
    [{"pair": "P"}, {"pair": "P", "reversed": True}, LEFT_OUT, {**LEFT_OUT, "label_fraction": 0.1}],
    ids=["pair", "reversed", "left out", "few labels"],
)
class TestEveryTask:
    def test_labels_of_the_query_are_not_in_what_methods_see(self, definition, data_folder, tmp_path):
        before = make(definition)
        path = data_folder / "atlas.h5ad"
        adata = ad.read_h5ad(path)
        is_query = adata.obs_names.isin(before.query.obs_names)
        adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).where(~is_query, "swapped")
        adata.write_h5ad(path)
        after = make(definition)
        assert set(after.truth) == {"swapped"} != set(before.truth)
        assert list(after.query.obs) == ["batch"]
        after.write(tmp_path)
        for side, seen in (("reference", before.reference), ("query", before.query)):
            written = ad.read_h5ad(tmp_path / f"{side}.h5ad")
            assert not written.uns and not written.obsm and not written.layers
            np.testing.assert_array_equal(written.X.toarray(), seen.X.toarray())
            pd.testing.assert_frame_equal(written.obs.astype(str), seen.obs.astype(str))
            pd.testing.assert_frame_equal(written.var, seen.var, check_names=False)

    def test_reference_and_query_share_no_cell(self, definition, data_folder):
        task = make(definition)
        assert task.reference.n_obs and task.query.n_obs
        assert not set(task.reference.obs_names) & set(task.query.obs_names)

    def test_is_the_same_every_time(self, definition, data_folder):
        first, second = make(definition), make(definition)
        assert first.digest == second.digest
        assert list(first.reference.obs["cell_type"]) == list(second.reference.obs["cell_type"])


class TestMakeTask:
    def test_reversed_swaps_the_sides(self, data_folder):
        forward, backward = make({"pair": "P"}), make({"pair": "P", "reversed": True})
        assert list(forward.query.obs_names) == list(backward.reference.obs_names)
        assert set(forward.reference.obs["batch"]) == {"batch1"} and set(backward.reference.obs["batch"]) == {"batch2"}

    def test_left_out_batch_is_the_query(self, data_folder):
        task = make({**LEFT_OUT, "within": {"library": ["odd"]}})
        adata = ad.read_h5ad(data_folder / "atlas.h5ad")
        odd = adata.obs[adata.obs["library"] == "odd"]
        assert list(task.query.obs_names) == list(odd.index[odd["batch"] == "batch3"])
        assert list(task.reference.obs_names) == list(odd.index[odd["batch"] != "batch3"])
        assert list(task.truth) == list(odd["cell_type"][odd["batch"] == "batch3"])

    def test_file_whose_batches_are_types_has_one_batch(self, data_folder):
        task = make(LEFT_OUT, one_batch=["atlas.h5ad"])
        assert set(task.reference.obs["batch"]) == {"atlas"} == set(task.query.obs["batch"])

    def test_value_that_no_cell_has_is_an_error(self, data_folder):
        with pytest.raises(ValueError, match=r"batch in \['batch9'\] holds 0 of 97 cells"):
            make({**LEFT_OUT, "query": ["batch9"]})

    def test_genes_are_selected_without_the_query(self, data_folder):
        before = make(LEFT_OUT)
        adata = ad.read_h5ad(data_folder / "atlas.h5ad")
        is_query = (adata.obs["batch"] == "batch3").to_numpy()
        counts = adata.X.toarray()
        counts[is_query] = np.random.default_rng(0).poisson(50.0, size=(is_query.sum(), adata.n_vars))
        adata.X = counts
        adata.write_h5ad(data_folder / "atlas.h5ad")
        after = make(LEFT_OUT)
        assert before.reference.var["selected"].sum() == 31
        pd.testing.assert_frame_equal(after.query.var, before.query.var)
        assert after.digest != before.digest

    def test_other_labels_of_the_query_are_another_task(self, data_folder):
        task = make(LEFT_OUT)
        other = Task("task", task.reference, task.query, task.truth[::-1])
        assert list(other.truth) != list(task.truth) and other.digest != task.digest

    def test_share_of_labels(self, data_folder):
        full, few = make({"pair": "P"}), make({"pair": "P", "label_fraction": 0.1})
        kept = few.reference.obs["cell_type"] != "Unknown"
        assert (few.reference.obs["cell_type"][kept] == full.reference.obs["cell_type"][kept]).all()
        expected = {name: max(1, round(0.1 * n)) for name, n in full.reference.obs["cell_type"].value_counts().items()}
        assert few.reference.obs["cell_type"][kept].value_counts().to_dict() == expected


class TestSides:
    """``label_map`` and ``symbols`` of a side of a pair; a pair is read the same way everywhere."""

    @pytest.fixture
    def pair(self, data_folder):
        """Symbols of the file: "GENE0" and "gene0", and "Gene1" and so on."""
        adata = ad.read_h5ad(data_folder / "atlas.h5ad")
        adata.var_names = ["GENE0", "gene0", *(f"Gene{i}" for i in range(1, adata.n_vars - 1))]
        adata.write_h5ad(data_folder / "atlas.h5ad")
        (pair,) = _data.read_pairs().values()
        types = sorted(set(adata.obs["cell_type"]))
        pair["ref"] |= {"label_map": {types[0]: "renamed", types[1]: "renamed"}, "symbols": "upper"}
        pair["query"] |= {"symbols": "upper"}
        (data_folder / "pairs.json").write_text(json.dumps([pair]))
        return pair, types

    def test_labels_of_the_side_are_renamed(self, pair):
        pair, (first, second, *others) = pair
        task = make({"pair": "P"})
        assert set(task.reference.obs["cell_type"]) == {"renamed", *others}
        assert {first, second} < set(task.truth) and "renamed" not in task.truth

    def test_of_symbols_that_differ_in_case_the_first_is_kept(self, pair, data_folder):
        task, adata = make({"pair": "P"}), ad.read_h5ad(data_folder / "atlas.h5ad")
        assert list(task.query.var_names) == [f"GENE{i}" for i in range(adata.n_vars - 1)]
        cells = adata[task.query.obs_names]
        np.testing.assert_array_equal(task.query.X.toarray(), cells.X.toarray()[:, [0, *range(2, adata.n_vars)]])

    def test_other_benchmarks_read_the_same(self, pair):
        task, sides = make({"pair": "P"}), _data.load_pair(pair[0])
        for seen, side in zip((task.reference, task.query), _data.on_shared_genes(*sides), strict=True):
            np.testing.assert_array_equal(seen.X.toarray(), side.X.toarray())
            assert list(seen.obs["batch"]) == list(side.obs["batch"])
        assert list(task.reference.obs["cell_type"]) == list(sides[0].obs["cell_type"])

    def test_other_symbols_are_refused(self, pair):
        pair[0]["ref"]["symbols"] = "lower"
        with pytest.raises(ValueError, match="symbols of a side are 'lower'"):
            _data.load_pair(pair[0])


class TestCheckStudies:
    def test_by_file(self, data_folder):
        (data_folder / "studies.json").write_text(json.dumps({"atlas.h5ad": "A"}))
        for definition in ({"pair": "P"}, {"pair": "P", "reversed": True}, LEFT_OUT):
            check_studies("task", definition, Studies("A", "A"))
        with pytest.raises(ValueError, match=r"task: the config says B -> A, studies\.json says A -> A"):
            check_studies("task", LEFT_OUT, Studies("B", "A"))


class TestPublishedData:
    """The tasks of accuracy.toml, where the data are."""

    @pytest.mark.parametrize("name", ["marques without CA1", "pbmc3k-zheng", "enge-tm pancreas"])
    def test_tasks_can_be_made(self, name, published_data):
        config = read_config()
        task = make_task(name, config.tasks[name], n_genes=config.n_genes, one_batch=config.one_batch)
        assert task.reference.var["selected"].sum() == config.n_genes
        assert list(task.query.obs) == ["batch"] and not set(task.reference.obs_names) & set(task.query.obs_names)
        shared = set(task.reference.obs["cell_type"]) & set(task.truth)
        assert len(shared) >= 5 and "Unknown" not in shared
