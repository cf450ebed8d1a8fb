"""Every cell of a query is restored, aligned and sent through the network once; an explanation reads what it compares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import scanpy as sc

import transanno
from transanno.data._align_counts import AlignedCounts
from transanno.data._counts import MatrixCounts
from transanno.data._restore import RestoredCounts
from transanno.predictions._torch import TorchBackend

pytestmark = pytest.mark.filterwarnings("ignore::transanno.TransAnnoWarning")


@pytest.fixture(scope="module")
def model(make_adata, start_afresh):
    start_afresh()
    reference = make_adata(331, seed=5)
    return transanno.tl.fit_reference(
        reference, "cell_type", max_epochs=2, accelerator="cpu", enable_progress_bar=False
    )


@pytest.fixture
def rows(monkeypatch) -> Iterator[dict[str, list[int]]]:
    """Numbers of cells, by what was done with them."""
    seen: dict[str, list[int]] = {"network": [], "aligned": [], "restored": []}

    def spy(cls: type, method: str, kind: str) -> None:
        original = getattr(cls, method)

        def wrapper(self: Any, counts: Any, *args: Any) -> Any:
            seen[kind].append(counts.shape[0])
            return original(self, counts, *args)

        monkeypatch.setattr(cls, method, wrapper)

    spy(TorchBackend, "__call__", "network")
    spy(AlignedCounts, "_align", "aligned")
    spy(RestoredCounts, "_restore", "restored")
    return seen


@pytest.mark.parametrize("is_logged", [False, True], ids=["counts", "logged"])
@pytest.mark.parametrize(
    "options", [{}, {"refine": False}, {"fdr": 0.1}, {"fdr": 0.1, "unassigned_threshold": 0.5}], ids=str
)
def test_annotate_runs_every_cell_once(model, query, rows, is_logged, options):
    if is_logged:
        sc.pp.normalize_total(query, target_sum=1e4)
        sc.pp.log1p(query)
    transanno.tl.annotate(query, model=model, accelerator="cpu", **options)
    assert sum(rows["network"]) == sum(rows["aligned"]) == query.n_obs
    assert sum(rows["restored"]) == (query.n_obs if is_logged else 0)
    assert query.obsm["X_transanno"].shape == (query.n_obs, 64)
    if "fdr" in options:
        assert query.obs["transanno_novelty"].notna().all()


def test_states_written_are_those_of_the_model(model, query):
    query_model = transanno.tl.annotate(query, model=model, accelerator="cpu")
    np.testing.assert_array_equal(query.obsm["X_transanno"], query_model.get_latent_representation())


def test_annotating_with_a_reference_runs_a_query_cell_once(make_adata, query, rows, monkeypatch):
    trained = transanno.tl._map.fit_reference

    def fit(*args, **kwargs):
        found = trained(*args, **kwargs)
        rows["network"].clear()  # of the reference
        return found

    monkeypatch.setattr("transanno.tl._map.fit_reference", fit)
    transanno.tl.annotate(
        query, make_adata(97), labels_key="cell_type", max_epochs=1, accelerator="cpu", calibrate=False,
        enable_progress_bar=False,
    )  # fmt: skip
    assert sum(rows["network"]) == query.n_obs


def test_explaining_a_cell_reads_it_and_the_cells_it_is_compared_with(model, make_adata, query, monkeypatch):
    reference = make_adata(331, seed=7)
    query_model = transanno.tl.annotate(query, model=model, accelerator="cpu")
    read: dict[int, set[int]] = {}
    original = MatrixCounts.rows

    def spy(self, positions):
        read.setdefault(id(self.matrix), set()).update(np.asarray(positions).tolist())
        return original(self, positions)

    monkeypatch.setattr(MatrixCounts, "rows", spy)
    table = transanno.tl.explain(query_model, 5, reference=reference)
    compared = reference.obs["cell_type"].isin([table.attrs["label"], table.attrs["against"]]).to_numpy()
    own = query_model._registered_cells().counts.matrix
    assert read.pop(id(own)) == {5}
    sample = read.pop(id(reference.X))
    assert sample == set(np.flatnonzero(compared).tolist())
    assert 0 < len(sample) < reference.n_obs
    # Whether the reference holds counts was looked at in a sample of our own.
    assert all(len(positions) <= 256 for positions in read.values())
