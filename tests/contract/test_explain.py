"""Why A rather than B: the table, and its picture."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from transanno import TransAnno, pl, tl

COLUMNS = ["evidence", "speaks_for", "absent", "expression", "fraction"]
COLUMNS += ["expression_label", "fraction_label", "expression_against", "fraction_against"]


def log_odds(model, cells, label, against, adata=None):
    probabilities = model.predict(adata, cells, soft=True, key_added=None)
    return float(np.log(probabilities[label] / probabilities[against]).mean())


def test_table_of_a_cell(model, reference):
    name = reference.obs_names[7]
    table = tl.explain(model, name)
    assert list(table.columns) == COLUMNS
    assert table.index.name == "gene"
    assert set(table.index) == set(model.genes)
    assert table["evidence"].abs().is_monotonic_decreasing
    probabilities = model.predict(indices=[7], soft=True, key_added=None).iloc[0].sort_values(ascending=False)
    assert [table.attrs["label"], table.attrs["against"]] == list(probabilities.index[:2])
    assert table.attrs["cells"] == name
    pd.testing.assert_frame_equal(tl.explain(model, 7), table)


def test_evidence_sums_to_the_margin_less_that_of_the_average_cell(model):
    cells = [3, 5, 11]
    table = tl.explain(model, cells, "B cell", label="NK cell")
    assert table.attrs["margin"] == pytest.approx(log_odds(model, cells, "NK cell", "B cell"), abs=1e-3)
    other = tl.explain(model, [6, 8], "B cell", label="NK cell")
    # Cells share the average cell, but for their batches.
    explained = table["evidence"].sum() + table.attrs["margin_of_average"]
    assert explained == pytest.approx(table.attrs["margin"])
    assert abs(other.attrs["margin_of_average"] - table.attrs["margin_of_average"]) < 0.5


def test_sides_are_named_by_the_sign(model):
    table = tl.explain(model, 0, "B cell", label="T cell")
    assert list(table["speaks_for"].cat.categories) == ["T cell", "B cell"]
    assert (table["evidence"][table["speaks_for"] == "T cell"] > 0).all()
    assert (table["evidence"][table["speaks_for"] == "B cell"] < 0).all()


def test_against_is_the_mirror_image(model):
    table = tl.explain(model, 0, "B cell", label="T cell")
    mirrored = tl.explain(model, 0, "T cell", label="B cell")
    np.testing.assert_allclose(table["evidence"].sort_index(), -mirrored["evidence"].sort_index(), atol=1e-5)


def test_expression_is_that_of_the_cells_and_of_the_labels(model, reference):
    x = np.log1p(reference.X.toarray() / reference.X.sum(axis=1) * 1e4)
    x = pd.DataFrame(np.asarray(x), columns=reference.var_names)
    table = tl.explain(model, [2, 9], "NK cell", label="T cell")
    is_nk = (reference.obs["cell_type"] == "NK cell").to_numpy()
    for column, expected in {
        "expression": x.iloc[[2, 9]].mean(),
        "fraction": (x.iloc[[2, 9]] > 0).mean(),
        "expression_against": x[is_nk].mean(),
        "fraction_against": (x[is_nk] > 0).mean(),
    }.items():
        np.testing.assert_allclose(table[column], expected[table.index], rtol=1e-4, err_msg=column)
    assert table.attrs["profiles"] == "training cells"


def test_expected_genes_that_the_cell_lacks_have_evidence(model, make_adata):
    adata = make_adata()
    markers = tl.explain(model, "T cell", "B cell", groupby="cell_type", label="T cell")
    gene = markers.index[(markers["fraction"] > 0.9) & (markers["evidence"] > 0)][0]
    counts = adata.X.tolil()
    counts[7, adata.var_names.get_loc(gene)] = 0
    adata.X = counts.tocsr()
    table = tl.explain(model, 7, "B cell", label="T cell", adata=adata, reference=make_adata())
    assert table.loc[gene, "absent"]
    assert table.loc[gene, "expression"] == 0
    assert table.loc[gene, "evidence"] < 0, "a marker of T that is absent speaks against T"
    expected = (table[["fraction_label", "fraction_against"]] >= 0.5).any(axis=1) & (table["fraction"] <= 0.05)
    assert (table["absent"] == expected).all()


def test_groups_are_named(model, reference):
    reference.obs["cluster"] = pd.Categorical(np.arange(97) % 5)
    table = tl.explain(model, 3, groupby="cluster", adata=reference)
    assert table.attrs["n_cells"] == 19
    pd.testing.assert_frame_equal(tl.explain(model, "3", groupby="cluster", adata=reference), table)
    with pytest.raises(KeyError, match=r"cells='9' is not a group of adata.obs\['cluster'\]. Groups found: '0', '1'"):
        tl.explain(model, "9", groupby="cluster", adata=reference)


def test_where_profiles_come_from(model, query):
    assert tl.explain(model, 0, adata=query).attrs["profiles"] == "training cells"
    assert tl.explain(model, 0, adata=query, reference=query).attrs["profiles"] == "reference"
    del query.obs["cell_type"]
    query_model = TransAnno.load_query_data(query, model, accelerator="cpu")
    table = tl.explain(query_model, 0)
    assert table.attrs["profiles"] == "confident calls"
    assert list(query.obs) == ["batch"], "explaining writes nothing"


def test_labels_of_too_few_cells_have_no_profile(model, reference):
    few = reference[np.r_[np.flatnonzero(reference.obs["cell_type"] == "B cell")[:2], 20:40]].copy()
    few.obs["named"] = ["B cell"] * 2 + ["T cell"] * 20
    table = tl.explain(model, 0, "B cell", label="T cell", reference=few, labels_key="named")
    assert table["expression_against"].isna().all()
    assert table["expression_label"].notna().all()
    assert pl.evidence(table, show=False)["expression"].get_xticklabels()[1].get_text() == "T cell"


@pytest.mark.filterwarnings("ignore:.*of 53 genes:UserWarning")
def test_genes_that_were_not_measured_are_no_rows(model, query):
    table = tl.explain(model, 0, adata=query[:, 5:].copy())
    assert set(table.index) == set(query.var_names[5:])


def test_the_performer_is_explained(make_adata, fast):
    adata = make_adata()
    TransAnno.setup_anndata(adata, "cell_type")
    model = TransAnno(adata, encoder="performer", n_hidden=13, n_layers=1, n_heads=2, head_dim=8)
    model.train(2, **fast)
    table = tl.explain(model, [0, 1, 2], "B cell", label="T cell")
    is_silent = table["fraction"] == 0
    assert (table.loc[is_silent, "evidence"] != 0).any()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"cells": "nobody"}, KeyError, "cells='nobody' is the name of 0 cells"),
        ({"cells": []}, ValueError, "cells selects no cells"),
        ({"cells": 97}, IndexError, "97"),
        ({"cells": 0, "against": "b cell"}, ValueError, "against='b cell' is not known. Allowed: 'B cell'"),
        ({"cells": 0, "against": "B cell", "label": "B cell"}, ValueError, "both 'B cell'"),
        ({"cells": "0", "groupby": "leiden"}, KeyError, "groupby='leiden' is not a column"),
    ],
)
def test_errors_say_what_is_allowed(model, arguments, error, message):
    with pytest.raises(error, match=message):
        tl.explain(model, **arguments)


def test_reference_without_labels_is_named(model, query):
    with pytest.raises(KeyError, match="labels_key='type' is not a column of reference.obs"):
        tl.explain(model, 0, reference=query, labels_key="type")


class TestPicture:
    @pytest.fixture
    def table(self, model):
        return tl.explain(model, [4, 5], "B cell", label="T cell")

    def test_bars_are_the_strongest_genes_from_for_to_against(self, table):
        figure = pl.evidence(table, n_genes=13, return_fig=True)
        ax = figure.axes[0]
        drawn = [label.get_text() for label in ax.get_yticklabels()]
        widths = [bar.get_width() for bar in ax.patches]
        assert len(drawn) == len(widths) == 13
        np.testing.assert_allclose(widths, table.loc[drawn, "evidence"])
        assert widths == sorted(widths, reverse=True)
        assert table.index[0] in drawn

    def test_both_sides_are_shown(self, table):
        table["evidence"] = np.where(table["evidence"] > 0, 100 + table["evidence"], table["evidence"])
        widths = [bar.get_width() for bar in pl.evidence(table, n_genes=12, show=False)["evidence"].patches]
        assert sum(width < 0 for width in widths) == 3

    def test_absent_genes_are_hatched(self, table):
        table["absent"] = table.index == table.index[0]
        figure = pl.evidence(table, n_genes=5, return_fig=True)
        drawn = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        hatched = [name for name, bar in zip(drawn, figure.axes[0].patches, strict=True) if bar.get_hatch()]
        assert hatched == [table.index[0]]
        assert "expected, but absent" in [text.get_text() for text in figure.legends[0].get_texts()]

    def test_expression_is_in_columns(self, table):
        heat = pl.evidence(table, n_genes=5, show=False)["expression"]
        assert [label.get_text() for label in heat.get_xticklabels()] == ["2 cells", "T cell", "B cell"]
        assert np.asarray(heat.images[0].get_array()).shape == (5, 3)

    def test_file_is_written(self, table, tmp_path):
        pl.evidence(table, save=tmp_path / "evidence.png")
        assert (tmp_path / "evidence.png").stat().st_size > 5_000

    def test_dollars_are_no_mathematics(self, table):
        table.attrs["cells"] = "$x_1$ and $"
        table["speaks_for"] = table["speaks_for"].cat.rename_categories({"T cell": "$T_1$"})
        figure = pl.evidence(table, n_genes=5, return_fig=True)
        figure.canvas.draw()
        assert "$x_1$" in figure.get_suptitle()

    def test_errors(self, table):
        with pytest.raises(ValueError, match="no column 'evidence'.*tl.explain"):
            pl.evidence(table.drop(columns="evidence"))
        with pytest.raises(ValueError, match="nothing to draw"):
            pl.evidence(table.assign(evidence=0.0))
        with pytest.raises(ValueError, match="n_genes=0"):
            pl.evidence(table, n_genes=0)


def test_data_in_the_place_of_the_model_are_a_clear_error(model, query):
    with pytest.raises(TypeError, match="model is a AnnData. Allowed: a TransAnno model, the folder"):
        tl.explain(query, 0)


def test_a_folder_stands_for_its_model(model, query, tmp_path):
    model.save(tmp_path / "model")
    expected = tl.explain(model, 0, adata=query)
    found = tl.explain(tmp_path / "model", 0, adata=query)
    np.testing.assert_allclose(found["evidence"], expected["evidence"].reindex(found.index), atol=1e-5)
