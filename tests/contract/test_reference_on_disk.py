"""References that are in memory, in a file, in a zarr store or lazy: one model, read in blocks, and nothing of theirs kept but its counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from anndata.experimental import AnnCollection
from anndata.io import sparse_dataset
from scvi.dataloaders import CollectionAdapter

from transanno import TransAnno, tl
from transanno.cli import main
from transanno.data._counts import MatrixCounts

pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2 data", "ignore::transanno.TransAnnoWarning")
OPTIONS: dict[str, Any] = {
    "batch_key": "batch", "n_top_genes": 41, "max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False,
}  # fmt: skip


def backed(adata: ad.AnnData, folder: Path) -> ad.AnnData:
    adata.write_h5ad(folder / "reference.h5ad")
    return ad.read_h5ad(folder / "reference.h5ad", backed="r")


def lazy_h5ad(adata: ad.AnnData, folder: Path) -> ad.AnnData:
    _needs_dask()
    adata.write_h5ad(folder / "reference.h5ad")
    return ad.experimental.read_lazy(folder / "reference.h5ad")


def zarr_store(adata: ad.AnnData, folder: Path) -> ad.AnnData:
    zarr = pytest.importorskip("zarr")
    adata.write_zarr(folder / "reference.zarr")
    matrix = sparse_dataset(zarr.open(folder / "reference.zarr", mode="r")["X"])
    return ad.AnnData(matrix, obs=adata.obs.copy(), var=adata.var.copy())


def lazy_zarr(adata: ad.AnnData, folder: Path) -> ad.AnnData:
    _needs_dask()
    pytest.importorskip("zarr")
    adata.write_zarr(folder / "reference.zarr")
    return ad.experimental.read_lazy(folder / "reference.zarr")


def two_lazy_files(adata: ad.AnnData, folder: Path) -> ad.AnnData:
    _needs_dask()
    for name, part in (("first", adata[:101]), ("second", adata[101:])):
        part.copy().write_h5ad(folder / f"{name}.h5ad")
    return ad.concat([ad.experimental.read_lazy(folder / f"{name}.h5ad") for name in ("first", "second")])


def _needs_dask() -> None:
    for name in ("dask", "xarray"):
        pytest.importorskip(name, reason=f"{name}, of the extra 'dask', is not installed")


PLACES = [backed, lazy_h5ad, zarr_store, lazy_zarr, two_lazy_files]


@pytest.fixture(scope="module")
def expected(make_adata, start_afresh) -> TransAnno:
    start_afresh()
    return tl.fit_reference(make_adata(331, seed=5), "cell_type", **OPTIONS)


def weights(model: TransAnno) -> np.ndarray:
    return torch.cat([each.detach().flatten() for each in model.module.parameters()]).numpy()


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_the_model_is_that_of_the_reference_in_memory(place, expected, make_adata, tmp_path, monkeypatch):
    monkeypatch.setattr("transanno.data._counts.CELLS_PER_BLOCK", 67)
    reference = place(make_adata(331, seed=5), tmp_path)
    model = tl.fit_reference(reference, "cell_type", **OPTIONS)
    assert list(model.genes) == list(expected.genes)
    np.testing.assert_array_equal(weights(model), weights(expected))
    assert model.calibration_ is not None
    assert model.calibration_.temperature == expected.calibration_.temperature
    assert list(model.labels) == list(expected.labels)


@pytest.mark.parametrize("place", [backed, lazy_zarr], ids=lambda place: place.__name__)
def test_annotate_trains_on_it(place, make_adata, query, tmp_path):
    again = query.copy()
    tl.annotate(query, make_adata(331, seed=5), labels_key="cell_type", calibrate=False, **OPTIONS)
    tl.annotate(again, place(make_adata(331, seed=5), tmp_path), labels_key="cell_type", calibrate=False, **OPTIONS)
    assert list(again.obs["transanno"]) == list(query.obs["transanno"])
    np.testing.assert_allclose(again.obs["transanno_confidence"], query.obs["transanno_confidence"], atol=1e-5)


def test_it_is_read_twice_in_blocks(make_adata, tmp_path, monkeypatch):
    n_read = []
    original: Callable = MatrixCounts.blocks

    def spy(self, *args):
        for block in original(self, *args):
            if self.is_on_disk:
                n_read.append(block.shape)
            yield block

    monkeypatch.setattr(MatrixCounts, "blocks", spy)
    tl.fit_reference(backed(make_adata(331, seed=5), tmp_path), "cell_type", **OPTIONS)
    assert sum(rows for rows, _ in n_read) == 2 * 331


def test_pretraining_on_lazy_data(make_adata, tmp_path):
    options = {"n_top_genes": 41, "max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
    models = [
        tl.pretrain(adata, **options)
        for adata in (make_adata(97), lazy_h5ad(make_adata(97), tmp_path))
    ]  # fmt: skip
    np.testing.assert_array_equal(*map(weights, models))


def test_the_command_line_leaves_a_large_one_on_disk(make_adata, query, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_adata(331, seed=5).write_h5ad("reference.h5ad")
    query.write_h5ad("query.h5ad")
    opened = []
    original = tl._reference.read_reference

    def spy(reference, *args, **kwargs):
        opened.append(type(reference.X).__name__)
        return original(reference, *args, **kwargs)

    monkeypatch.setattr("transanno.data._counts.MAX_IN_MEMORY", 0)
    monkeypatch.setattr("transanno.tl._reference.read_reference", spy)
    arguments = "--reference reference.h5ad --query query.h5ad --labels-key cell_type --out out.h5ad --max-epochs 1"
    assert main(["annotate", *arguments.split(), "--accelerator", "cpu", "--quiet"]) == 0, capsys.readouterr().err
    assert opened == ["_CSRDataset"]
    assert "transanno" in ad.read_h5ad("out.h5ad").obs


def collection(adata: ad.AnnData, folder: Path, **kwargs: Any) -> AnnCollection:
    """Of a file and of cells in memory, which do not have the same genes in the same order."""
    adata[101:].copy().write_h5ad(folder / "second.h5ad")
    return AnnCollection([adata[:101].copy(), ad.read_h5ad(folder / "second.h5ad", backed="r")], **kwargs)


@pytest.mark.parametrize(
    "wrap",
    [lambda cells: cells, CollectionAdapter, lambda cells: cells[np.arange(331)]],
    ids=["as it is", "adapter", "part"],
)
@pytest.mark.parametrize("join_obs", ["inner", None])
def test_a_collection(wrap, join_obs, expected, make_adata, tmp_path, monkeypatch):
    monkeypatch.setattr("transanno.data._pieces.CELLS_PER_BLOCK", 67)
    model = tl.fit_reference(
        wrap(collection(make_adata(331, seed=5), tmp_path, join_obs=join_obs)), "cell_type", **OPTIONS
    )
    assert list(model.genes) == list(expected.genes)
    np.testing.assert_array_equal(weights(model), weights(expected))
    assert model.calibration_.temperature == expected.calibration_.temperature


def test_a_collection_of_other_genes_with_a_label_and_a_layer(make_adata, query, tmp_path):
    first, second = make_adata(131, seed=5), make_adata(97, seed=6)
    for adata in (first, second):
        adata.layers["counts"] = adata.X.copy()
        adata.X = adata.X * 0.37
        del adata.obs["batch"]
    second = second[:, second.var_names[:2:-1]].copy()
    options = OPTIONS | {"batch_key": "study", "layer": "counts"}
    cells = AnnCollection({"a": first, "b": second}, join_vars="inner", join_obs=None, label="study")
    model = tl.fit_reference(cells, "cell_type", **options)
    joined = ad.concat({"a": first, "b": second}, label="study")
    assert list(model.genes) == list(tl.fit_reference(joined, "cell_type", **options).genes)
    assert model.summary_stats.n_batch == 2
    tl.annotate(query, cells, labels_key="cell_type", **options)
    assert "transanno" in query.obs
    with pytest.raises(KeyError, match="layer='count' is not a layer of all objects in reference"):
        tl.fit_reference(cells, "cell_type", layer="count")


@pytest.mark.filterwarnings("ignore:Observation names are not unique")  # as anndata says of the collection
def test_a_collection_of_repeated_names_and_of_tensors(make_adata):
    parts = [make_adata(97, container=lambda x: x, dtype="int16"), make_adata(131, container=lambda x: x)]
    cells = AnnCollection(parts, convert={"X": torch.as_tensor})
    assert not cells.obs_names.is_unique
    model = tl.fit_reference(cells, "cell_type", calibrate=False, **OPTIONS)
    assert sum(model.label_counts_.values()) == 97 + 131


def test_a_collection_without_cells_is_refused(make_adata):
    with pytest.raises(ValueError, match="reference has 0 cells and 53 genes"):
        tl.fit_reference(AnnCollection([make_adata(31)[:0].copy()]), "cell_type", **OPTIONS)


def test_what_is_wrong_with_a_collection_is_said(make_adata):
    cells = AnnCollection([make_adata(31), make_adata(37, seed=1)])
    with pytest.raises(KeyError, match="no column 'type'|'type'.*cell_type"):
        tl.fit_reference(cells, "type", **OPTIONS)


def test_a_collection_cannot_be_written_to(make_adata, query):
    with pytest.raises(TypeError, match=r"query is an AnnCollection.*anndata\.concat.*read_lazy"):
        tl.annotate(AnnCollection([query]), make_adata(97), labels_key="cell_type", **OPTIONS)
