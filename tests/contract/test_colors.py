"""The colors of the reference on the query."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

from transanno import TransAnno, tl
from transanno.cli import main
from transanno.data._files import write_h5ad

COLORS = {"B cell": "#123456", "NK cell": "#abcdef", "T cell": "#fedcba"}


@pytest.fixture
def colored(reference):
    """Reference whose types have colors, as scanpy leaves them."""
    reference.obs["cell_type"] = reference.obs["cell_type"].astype("category")
    reference.uns["cell_type_colors"] = list(COLORS.values())
    return reference


def colors_on(query, key="transanno"):
    return dict(zip(query.obs[key].cat.categories, query.uns[f"{key}_colors"], strict=True))


def test_types_keep_their_colors(colored, query, fast, tmp_path):
    model = tl.annotate(query, colored, labels_key="cell_type", max_epochs=2, unassigned_threshold=0.5, **fast)
    found = colors_on(query)
    assert found.pop("Unassigned", "#a9a9a9") == "#a9a9a9"
    assert found.items() <= COLORS.items()
    ax = sc.pl.embedding(query, "X_transanno", color="transanno", show=False)
    assert {text.get_text() for text in ax.get_legend().get_texts()} == set(query.obs["transanno"].cat.categories)
    model.save(tmp_path / "model")
    other = query.copy()
    del other.uns["transanno_colors"]
    TransAnno.load(tmp_path / "model", False).predict(other, key_added="again")
    assert colors_on(other, "again").items() <= COLORS.items()


def test_a_vote_has_the_colors_of_the_calls(query):
    query.obs["leiden"] = np.where(np.arange(query.n_obs) < 30, "0", "1")
    query.obs["transanno"] = pd.Categorical(np.where(np.arange(query.n_obs) < 33, "T cell", "B cell"))
    query.obs["transanno_confidence"] = 0.5
    tl.vote(query)
    assert "transanno_vote_colors" not in query.uns
    query.uns["transanno_colors"] = [COLORS["B cell"], COLORS["T cell"]]
    tl.vote(query)
    assert colors_on(query, "transanno_vote") == {"B cell": COLORS["B cell"], "T cell": COLORS["T cell"]}


def test_models_of_scvi_tools_carry_them_too(colored, query, fast):
    TransAnno.setup_anndata(colored, labels_key="cell_type")
    del colored.uns["cell_type_colors"]
    model = TransAnno(colored)
    assert model.label_colors_ == {}
    colored.uns["cell_type_colors"] = list(COLORS.values())  # of a plot in between
    model.train(2, **fast)
    TransAnno.load_query_data(query, model).predict()
    assert colors_on(query).items() <= COLORS.items()


def test_a_reference_without_colors_writes_none(model, query, snapshot, changed):
    before = snapshot(query)
    model.predict(query)
    assert not any("uns" in name for name in changed(before, query))


def test_colors_of_the_user_stay(colored, query, fast):
    model = tl.fit_reference(colored, "cell_type", max_epochs=2, calibrate=False, **fast)
    model.predict(query)
    mine = [f"#00000{i}" for i in range(len(query.obs["transanno"].cat.categories))]
    query.uns["transanno_colors"] = mine
    model.predict(query)
    assert query.uns["transanno_colors"] == mine
    # Of other types than before, those of the reference are right again.
    query.obs["transanno"] = pd.Categorical(np.where(query.obs["transanno"] == "B cell", "other", "T cell"))
    model.predict(query)
    assert colors_on(query).items() <= COLORS.items()


def test_jax_carries_them(colored, query, fast, tmp_path):
    pytest.importorskip("jax", reason="jax, the extra 'jax', is not installed")
    from transanno.jax import load_predictor

    tl.fit_reference(colored, "cell_type", max_epochs=2, calibrate=False, **fast).export(tmp_path)
    load_predictor(tmp_path).predict(query)
    assert colors_on(query).items() <= COLORS.items()


def test_a_modality_has_them(make_mdata, fast):
    mdata = make_mdata()
    mdata["rna"].obs["type"] = pd.Categorical(np.asarray(mdata.obs["cell_type"]))
    mdata["rna"].uns["type_colors"] = list(COLORS.values())
    TransAnno.setup_mudata(mdata, labels_key="type", modalities={"rna_layer": "rna", "labels_key": "rna"})
    model = TransAnno(mdata)
    assert model.label_colors_ == COLORS


@pytest.mark.parametrize("is_on_disk", [False, True])
def test_the_command_line_writes_them(is_on_disk, colored, query, fast, tmp_path, monkeypatch):
    tl.fit_reference(colored, "cell_type", max_epochs=2, calibrate=False, **fast).save(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    write_h5ad(query, "query.h5ad")
    if is_on_disk:
        monkeypatch.setattr("transanno.data._counts.MAX_IN_MEMORY", 0)
    assert main(["annotate", "--model", "model", "--query", "query.h5ad", "--out", "out.h5ad"]) == 0
    assert colors_on(ad.read_h5ad("out.h5ad")).items() <= COLORS.items()
