"""Queries that stay on disk: the same predictions and the same errors as in memory, every cell once through the network."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from anndata.io import sparse_dataset

from transanno import TransAnno, TransAnnoWarning, tl
from transanno.cli import main
from transanno.data._align_counts import AlignedCounts
from transanno.data._counts import MatrixCounts
from transanno.data._files import write_h5ad
from transanno.data._on_disk import has_matrices_on_disk, open_h5ad
from transanno.predictions._torch import TorchBackend

pytestmark = pytest.mark.filterwarnings("ignore::transanno.TransAnnoWarning")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folder(make_adata, start_afresh, tmp_path_factory) -> Path:
    """Of a calibrated model of some of the genes, and of all others together."""
    start_afresh()
    reference = make_adata(331, seed=5)
    model = tl.fit_reference(
        reference, "cell_type", batch_key="batch", n_top_genes=41, max_epochs=2, accelerator="cpu",
        enable_progress_bar=False,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("model") / "saved"
    model.save(path)
    return path


@pytest.fixture
def model(folder) -> TransAnno:
    return TransAnno.load(folder, False, accelerator="cpu")


@pytest.fixture
def tiny(monkeypatch) -> None:
    """Everything on disk is large, and blocks are small."""
    monkeypatch.setattr("transanno.data._counts.MAX_IN_MEMORY", 0)
    monkeypatch.setattr("transanno.data._align_counts.CELLS_PER_BLOCK", 17)
    monkeypatch.setattr("transanno.predictions._run.CELLS_PER_BLOCK", 23)


@pytest.fixture
def on_disk(tmp_path) -> Callable[[ad.AnnData], ad.AnnData]:
    """Object -> the same, backed by a file."""

    def write(adata: ad.AnnData) -> ad.AnnData:
        adata.write_h5ad(tmp_path / "query.h5ad")
        return ad.read_h5ad(tmp_path / "query.h5ad", backed="r")

    return write


def as_it_is(query: ad.AnnData) -> ad.AnnData:
    return query


def dense(query: ad.AnnData) -> ad.AnnData:
    query.X = query.X.toarray()
    return query


def csc(query: ad.AnnData) -> ad.AnnData:
    query.X = query.X.tocsc()
    return query


def other_genes(query: ad.AnnData) -> ad.AnnData:
    """In another order, some missing, one twice, and more of them."""
    rng = np.random.default_rng(3)
    query = query[:, [*rng.permutation(query.n_vars)[:47], 7]].copy()
    query.var_names = [name.lower() for name in query.var_names]
    return query


def new_batches(query: ad.AnnData) -> ad.AnnData:
    query.obs["batch"] = pd.Categorical(np.where(np.arange(query.n_obs) < 5, "batch9", query.obs["batch"]))
    return query


def logged(query: ad.AnnData) -> ad.AnnData:
    sc.pp.normalize_total(query, target_sum=1e4)
    sc.pp.log1p(query)
    return query


def in_raw(query: ad.AnnData) -> ad.AnnData:
    query.raw = query.copy()
    x = query.X.toarray()
    query.X = (x - x.mean(axis=0)) / (x.std(axis=0) + 1)
    return query


def with_empty_cells(query: ad.AnnData) -> ad.AnnData:
    x = query.X.toarray()
    x[[0, 3, 60]] = 0
    query.X = sp.csr_matrix(x)
    return query


QUERIES = [as_it_is, dense, csc, other_genes, new_batches, logged, in_raw, with_empty_cells]


def same(found: ad.AnnData, expected: ad.AnnData, key: str = "transanno") -> None:
    """Of what was written, all that depends on a cell is the same."""
    columns = [name for name in expected.obs if name.startswith(key)]
    assert columns
    for name in columns:
        if expected.obs[name].dtype == "category":
            assert list(found.obs[name]) == list(expected.obs[name])
        else:
            np.testing.assert_allclose(found.obs[name], expected.obs[name], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(found.obsm["X_transanno"], expected.obsm["X_transanno"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("change", QUERIES, ids=lambda change: change.__name__)
def test_annotations_are_those_in_memory(change, model, query, on_disk, request):
    query, options = change(query), {"fdr": 0.1}
    backed = on_disk(query)
    tl.annotate(query, model=model, accelerator="cpu", **options)
    request.getfixturevalue("tiny")
    query_model = tl.annotate(backed, model=model, accelerator="cpu", **options)
    same(backed, query)
    assert backed.isbacked
    assert (query_model._attachment.cells is None) == (change is csc)  # whose rows lie all over the file
    np.testing.assert_allclose(
        query_model.get_latent_representation(indices=[5, 2]), query.obsm["X_transanno"][[5, 2]], atol=TOLERANCE
    )
    backed.file.close()


def test_a_layer(model, query, tiny):
    layers = {"mine": query.X.copy()}
    given = ad.AnnData(query.X * 0, obs=query.obs, var=query.var, layers=layers)
    tl.annotate(given, model=model, accelerator="cpu", layer="mine")
    tl.annotate(query, model=model, accelerator="cpu")
    same(given, query)


def test_nothing_of_all_cells_is_in_memory(model, make_adata, on_disk, tiny, monkeypatch):
    """Of the user's genes, a block of cells is; and of the model's, the cells that stand for all in scvi-tools' registry."""
    query = make_adata(701, seed=9)
    backed = on_disk(query)
    read = []
    original = MatrixCounts.rows

    def spy(self, positions):
        if self.is_on_disk:
            read.append(len(positions))
        return original(self, positions)

    monkeypatch.setattr(MatrixCounts, "rows", spy)
    monkeypatch.setattr("transanno.data._cells._N_STAND_IN", 31)
    query_model = tl.annotate(backed, model=model, accelerator="cpu", refine=False)
    assert max(read) <= 23
    assert query_model.adata.n_obs < 50
    backed.file.close()


def test_every_cell_goes_through_the_network_once(model, query, on_disk, tiny, monkeypatch):
    rows: dict[str, int] = {"network": 0, "aligned": 0}

    def spy(cls, method, kind):
        original = getattr(cls, method)

        def wrapper(self, counts, *args):
            rows[kind] += counts.shape[0]
            return original(self, counts, *args)

        monkeypatch.setattr(cls, method, wrapper)

    spy(TorchBackend, "__call__", "network")
    spy(AlignedCounts, "_align", "aligned")
    backed = on_disk(query)
    tl.annotate(backed, model=model, accelerator="cpu")
    assert rows["network"] == query.n_obs
    # Checked, stood in for, centered, predicted and refined: read so often, and never more.
    assert rows["aligned"] <= 5 * query.n_obs
    backed.file.close()


@pytest.mark.parametrize(("shown", "bars"), [(True, ["Checking", "Predicting"]), (False, [])])
def test_a_bar_shows_how_far_it_is(shown, bars, model, query, on_disk, tiny, capfd):
    backed = on_disk(query)
    tl.annotate(backed, model=model, accelerator="cpu", enable_progress_bar=shown)
    said = capfd.readouterr().err
    assert [name for name in ("Checking", "Predicting", "Comparing") if f"{name}: 100%" in said] == bars
    backed.file.close()


def test_data_in_memory_need_no_bar(model, query, capfd):
    tl.annotate(query, model=model, accelerator="cpu")
    assert "%" not in capfd.readouterr().err


def test_predict_of_another_query_streams_too(model, query, make_adata, on_disk, tiny):
    query_model = TransAnno.load_query_data(make_adata(61, seed=1), model, accelerator="cpu")
    expected = query_model.predict(query, soft=True, refine=True, key_added=None)
    backed = on_disk(query)
    found = query_model.predict(backed, soft=True, refine=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    assert list(found.index) == list(query.obs_names)
    backed.file.close()


def negative(query):
    query.X[3, 5] = -0.7
    return query


def not_a_number(query):
    query.X = query.X.toarray()
    query.X[40, 11] = np.nan
    return query


def zeros(query):
    query.X = sp.csr_matrix(query.shape, dtype=np.float32)
    return query


def other_names(query):
    query.var_names = [f"X{i}" for i in range(query.n_vars)]
    return query


@pytest.mark.parametrize("change", [negative, not_a_number, zeros, other_names], ids=lambda change: change.__name__)
def test_errors_are_those_in_memory(change, model, query, on_disk, request):
    query = change(query)
    backed = on_disk(query)
    with pytest.raises(ValueError) as expected:
        tl.annotate(query, model=model, accelerator="cpu")
    request.getfixturevalue("tiny")
    with pytest.raises(ValueError) as found:
        tl.annotate(backed, model=model, accelerator="cpu")
    assert str(found.value) == str(expected.value)
    assert list(backed.obs) == list(query.obs)
    backed.file.close()


def test_warnings_are_those_in_memory(model, query, on_disk, request):
    query = logged(other_genes(query))
    backed = on_disk(query)

    def texts(adata):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always", TransAnnoWarning)
            tl.annotate(adata, model=model, accelerator="cpu")
        return [str(warning.message) for warning in found if issubclass(warning.category, TransAnnoWarning)]

    expected = texts(query)
    request.getfixturevalue("tiny")
    assert texts(backed) == expected
    assert len(expected) >= 2
    backed.file.close()


class TestModelOfAStreamedQuery:
    def test_has_all_batches_and_says_what_it_cannot_do(self, model, make_adata, on_disk, tiny, monkeypatch, tmp_path):
        monkeypatch.setattr("transanno.data._cells._N_STAND_IN", 3)
        query = new_batches(make_adata(211, seed=4, batches=("batch2", "batch3")))
        x = query.X.toarray()
        x[:-1] = 0  # and those that stand for all have to have counts
        query.X = sp.csr_matrix(np.roll(x, -50, axis=0))
        backed = on_disk(query)
        query_model = TransAnno.load_query_data(backed, model, accelerator="cpu", unseen_labels="mask")
        assert set(query_model.adata.obs["batch"]) == {"batch2", "batch3", "batch9"}
        assert query_model.adata.X.nnz > 0
        assert len(query_model.predict()) == 211
        with pytest.raises(ValueError, match="The query has 211 cells and stays on disk, so that training"):
            query_model.train(1)
        with pytest.raises(ValueError, match="stays on disk"):
            query_model.save(tmp_path / "saved", save_anndata=True)
        assert len(query_model.predict(query_model.adata, key_added=None)) == query_model.adata.n_obs
        query_model.save(tmp_path / "saved")
        again = TransAnno.load(tmp_path / "saved", False, accelerator="cpu")
        np.testing.assert_allclose(
            again.predict(backed, soft=True), query_model.predict(soft=True), rtol=0, atol=TOLERANCE
        )
        backed.file.close()

    def test_labels_that_the_model_lacks_are_found_among_all_cells(self, model, query, on_disk, tiny, monkeypatch):
        monkeypatch.setattr("transanno.data._cells._N_STAND_IN", 2)
        query.obs["cell_type"] = query.obs["cell_type"].astype(str)
        query.obs.iloc[33, 0] = "Platelet"
        backed = on_disk(query)
        with pytest.raises(ValueError, match="'Platelet'"):
            TransAnno.load_query_data(backed, model, accelerator="cpu")
        backed.file.close()


class TestLazy:
    @pytest.fixture(autouse=True)
    def _needs(self):
        pytest.importorskip("dask", reason="dask, the extra 'dask', is not installed")
        pytest.importorskip("xarray", reason="xarray, of the extra 'dask', is not installed")

    @pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
    @pytest.mark.parametrize("change", [dense, csc, other_genes, logged, in_raw], ids=lambda change: change.__name__)
    @pytest.mark.filterwarnings("ignore:Writing zarr v2 data")
    def test_read_lazy(self, change, suffix, model, query, tiny, tmp_path):
        if suffix == "zarr":
            pytest.importorskip("zarr")
        query = change(query)
        getattr(query, f"write_{suffix}")(tmp_path / f"query.{suffix}")
        lazy = ad.experimental.read_lazy(tmp_path / f"query.{suffix}")
        tl.annotate(query, model=model, accelerator="cpu", fdr=0.1)
        tl.annotate(lazy, model=model, accelerator="cpu", fdr=0.1)
        same(lazy.to_memory(), query)

    @pytest.mark.parametrize("container", [sp.csr_matrix, np.asarray], ids=["csr", "dense"])
    def test_dask_arrays(self, container, model, query, tiny):
        import dask.array as da

        lazy = query.copy()
        lazy.X = da.from_array(query.X.toarray(), chunks=(19, 53)).map_blocks(container)
        tl.annotate(query, model=model, accelerator="cpu")
        tl.annotate(lazy, model=model, accelerator="cpu")
        same(lazy, query)
        assert type(lazy.X).__module__.startswith("dask")


class TestCluster:
    """dask.distributed: two workers, each a process of its own."""

    @pytest.fixture(scope="class")
    @classmethod
    def client(cls):
        pytest.importorskip("xarray", reason="xarray, of the extra 'dask', is not installed")
        distributed = pytest.importorskip(
            "distributed", reason="dask.distributed, of the extra 'dask', is not installed"
        )
        options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
        with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
            yield client

    @pytest.fixture
    def sent(self, client, monkeypatch) -> list[object]:
        """What the workers were sent beside their tasks."""
        found, original = [], client.scatter

        def spy(data, **options):
            found.append(data)
            return original(data, **options)

        monkeypatch.setattr(client, "scatter", spy)
        return found

    @pytest.mark.parametrize(
        "change", [as_it_is, other_genes, new_batches, logged, with_empty_cells], ids=lambda change: change.__name__
    )
    def test_annotations_are_those_in_memory(self, change, sent, model, query, tiny, tmp_path, monkeypatch):
        query = change(query)
        query.write_h5ad(tmp_path / "query.h5ad")
        tl.annotate(query, model=model, accelerator="cpu", fdr=0.1)
        lazy = ad.experimental.read_lazy(tmp_path / "query.h5ad")
        lazy.X = lazy.X.rechunk((17, -1))
        monkeypatch.setattr(TorchBackend, "__call__", None)  # no cell goes through the network here
        tl.annotate(lazy, model=model, accelerator="cpu", fdr=0.1)
        same(lazy.to_memory(), query)
        assert len(sent) == 1  # the network, once

    def test_cells_in_any_order(self, sent, model, query, tiny):
        import dask.array as da

        lazy = query.copy()
        lazy.X = da.from_array(query.X.toarray(), chunks=(19, 31)).map_blocks(sp.csr_matrix)
        chosen = [60, 3, 3, 41, 0]
        expected = model.predict(query, indices=chosen, soft=True, key_added=None)
        found = model.predict(lazy, indices=chosen, soft=True, key_added=None)
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
        assert list(found.index) == list(expected.index)
        assert len(sent) == 1

    def test_an_error_on_a_worker_is_raised_here(self, client, model, query, tiny, tmp_path):
        import dask.array as da

        disk = tmp_path / "disk"
        disk.touch()

        def broken(block, block_info=None):
            if block_info[0]["chunk-location"][0] == 2 and not disk.exists():
                raise OSError("the disk is gone")
            return sp.csr_matrix(block)

        lazy = query.copy()
        lazy.X = da.from_array(query.X.toarray(), chunks=(19, -1)).map_blocks(broken, meta=sp.csr_matrix((0, 0)))
        query_model = TransAnno.load_query_data(lazy, model, accelerator="cpu")
        disk.unlink()
        with pytest.raises(OSError, match="the disk is gone"):
            query_model.predict()
        assert "transanno" not in lazy.obs

    def test_data_in_memory_stay_here(self, sent, model, query):
        model.predict(query)
        assert not sent


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data")
@pytest.mark.parametrize("change", [as_it_is, dense], ids=lambda change: change.__name__)
def test_a_zarr_store(change, model, query, tiny, tmp_path):
    zarr = pytest.importorskip("zarr")
    query = change(query)
    query.write_zarr(tmp_path / "query.zarr")
    item = zarr.open(tmp_path / "query.zarr", mode="r")["X"]
    matrix = item if change is dense else sparse_dataset(item)
    opened = ad.AnnData(matrix, obs=query.obs.copy(), var=query.var)
    tl.annotate(query, model=model, accelerator="cpu")
    tl.annotate(opened, model=model, accelerator="cpu")
    same(opened, query)


def test_without_dask_lazy_queries_are_told_which_package(model, query, monkeypatch):
    class Lazy:
        shape, dtype, ndim = query.shape, query.X.dtype, 2

        def __dask_graph__(self):
            return None

    monkeypatch.setitem(sys.modules, "dask", None)
    monkeypatch.setattr(ad.AnnData, "X", property(lambda adata: Lazy()))
    for function in (lambda: tl.annotate(query, model=model), lambda: model.predict(query)):
        with pytest.raises(TypeError, match=r"X is lazy .*pip install 'transanno\[dask\]'"):
            function()


def with_more(query):
    query.layers["other"] = query.X * 2
    query.obsm["X_pca"] = np.random.default_rng(0).normal(size=(query.n_obs, 7))
    query.uns["note"] = "mine"
    query.obs["free_text"] = ["same", "other"] * 30 + ["same"]
    query.raw = query[:, :31].copy()
    return query


class TestCommandLine:
    @pytest.fixture
    def files(self, tmp_path, monkeypatch, query) -> Path:
        monkeypatch.chdir(tmp_path)
        write_h5ad(with_more(query), "query.h5ad", compression="gzip")
        return tmp_path

    def arguments(self, folder, *more) -> list[str]:
        return [
            *["annotate", "--model", str(folder), "--query", "query.h5ad", "--out", "out.h5ad"],
            *["--accelerator", "cpu", *more],
        ]

    def test_by_columns(self, files, folder, request, query):
        write_h5ad(csc(query), "query.h5ad")
        assert main(self.arguments(folder)) == 0
        expected = ad.read_h5ad("out.h5ad")
        request.getfixturevalue("tiny")
        assert main(self.arguments(folder)) == 0
        same(ad.read_h5ad("out.h5ad"), expected)

    @pytest.mark.parametrize("more", [(), ("--fdr", "0.2", "--layer", "other", "--key-added", "free_text")], ids=str)
    def test_writes_what_it_writes_from_memory(
        self, more, files, folder, request, snapshot, changed, capsys, monkeypatch
    ):
        assert main(self.arguments(folder, *more)) == 0
        expected, said = ad.read_h5ad("out.h5ad"), capsys.readouterr().out
        Path("out.h5ad").unlink()
        before = Path("query.h5ad").read_bytes()
        request.getfixturevalue("tiny")
        # Neither is read whole, nor written.
        monkeypatch.setattr("anndata.read_h5ad", None)
        assert main(self.arguments(folder, *more)) == 0
        monkeypatch.undo()
        found = ad.read_h5ad(files / "out.h5ad")
        same(found, expected, "free_text" if more else "transanno")
        written = capsys.readouterr()
        assert written.out.split("\n", 1)[1] == said.split("\n", 1)[1]
        assert "Predicting" not in written.err  # which is no terminal
        assert {name.split("[")[0] for name in changed(snapshot(expected), found)} <= {"obs", "obsm"}  # up to rounding
        assert list(found.obs) == list(expected.obs)
        assert set(found.uns) == set(expected.uns)
        assert Path(files / "query.h5ad").read_bytes() == before
        assert sorted(os.listdir(files)) == ["out.h5ad", "query.h5ad"]

    def test_what_an_earlier_prediction_found_goes_with_it(self, files, folder, tiny, query):
        query.uns["transanno_groups"] = pd.DataFrame({"group": ["Unknown 1, like B cell"]})
        for key in ("transanno_sets", "mine_sets"):
            query.obsm[key] = np.ones((query.n_obs, 3), dtype=bool)
            query.obs[key.removesuffix("s")] = "B cell"
        write_h5ad(query, "query.h5ad")
        assert main(self.arguments(folder)) == 0
        found = ad.read_h5ad("out.h5ad")
        assert "transanno_groups" not in found.uns
        assert "transanno_sets" not in found.obsm and "transanno_set" not in found.obs
        assert found.obsm["mine_sets"].all() and "mine_set" in found.obs
        assert found.uns["note"] == query.uns["note"]

    def test_an_error_while_writing_leaves_nothing(self, files, folder, tiny, monkeypatch, capsys):
        before = Path("query.h5ad").read_bytes()

        def fail(*args, **kwargs):
            raise OSError("disk full")

        monkeypatch.setattr("anndata.io.write_elem", fail)
        monkeypatch.setattr("transanno._cli._annotate.check_writable", lambda *args, **kwargs: None)
        assert main(self.arguments(folder)) != 0
        assert os.listdir(".") == ["query.h5ad"]
        assert Path("query.h5ad").read_bytes() == before

    @pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
    @pytest.mark.parametrize("when", ["copyfile", "write_elem", "replace"])
    def test_a_kill_while_writing_leaves_the_old_output(self, when, files):
        before = Path("query.h5ad").read_bytes()
        Path("out.h5ad").write_bytes(b"old")
        # In a process of its own, which has to import neither torch nor scvi-tools for this.
        code = (
            "import os, shutil\n"
            "from pathlib import Path\n"
            "import anndata.io\n"
            "from transanno.data._on_disk import write_copy\n"
            "def half(source, path):\n"
            "    whole = open(source, 'rb').read()\n"
            "    open(path, 'wb').write(whole[: len(whole) // 2])\n"
            "    os.kill(os.getpid(), 9)\n"
            "def kill(*args, **kwargs):\n"
            "    os.kill(os.getpid(), 9)\n"
            f"when = {when!r}\n"
            "place = {'copyfile': shutil, 'write_elem': anndata.io, 'replace': os}[when]\n"
            "setattr(place, when, half if when == 'copyfile' else kill)\n"
            "obs = anndata.read_h5ad('query.h5ad').obs\n"
            "write_copy(Path('query.h5ad'), Path('out.h5ad'), obs=obs, obsm={}, uns={})\n"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert run.returncode == -signal.SIGKILL, run.stderr
        assert Path("out.h5ad").read_bytes() == b"old"
        assert Path("query.h5ad").read_bytes() == before
        assert sorted(name for name in os.listdir(".") if not name.startswith(".")) == ["out.h5ad", "query.h5ad"]

    @pytest.mark.parametrize(("limit", "is_large"), [(61 * 41, False), (61 * 41 - 1, True)])
    def test_large_is_more_cells_times_genes_than_that(self, limit, is_large, files, monkeypatch):
        monkeypatch.setattr("transanno.data._counts.MAX_IN_MEMORY", limit)
        assert has_matrices_on_disk(open_h5ad(Path("query.h5ad"), 41)) == is_large

    def test_a_file_of_another_layout_is_read_whole(self, files, tiny, monkeypatch):
        with h5py.File("query.h5ad", "r+") as file:
            file["X"].attrs["encoding-type"] = "csr_matrix_of_old"
        called = []
        monkeypatch.setattr("anndata.read_h5ad", called.append)
        open_h5ad(Path("query.h5ad"), 41)
        assert called == [Path("query.h5ad")]


def test_half_written_files_are_an_error_of_one_sentence(folder, tiny, tmp_path, monkeypatch, query, capsys):
    monkeypatch.chdir(tmp_path)
    write_h5ad(query, "query.h5ad")
    whole = Path("query.h5ad").read_bytes()
    Path("query.h5ad").write_bytes(whole[: len(whole) // 2])
    assert main(["annotate", "--model", str(folder), "--query", "query.h5ad", "--out", "out.h5ad"]) == 2
    assert "cannot be read as h5ad" in capsys.readouterr().err
