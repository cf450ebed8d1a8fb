from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anndata as ad
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from transanno import metrics, pl
from transanno.pl._umap import color_map

TRUTH = ["T cell"] * 11 + ["B cell"] * 7 + ["$novel_1$"] * 3 + [None] * 2
PREDICTED = ["T cell"] * 9 + ["B cell", "NK cell"] + ["B cell"] * 7 + ["T cell"] * 2 + [None] + ["T cell"] * 2


@pytest.fixture
def annotated() -> ad.AnnData:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(TRUTH),
            "transanno": pd.Categorical(PREDICTED),
            "transanno_confidence": rng.uniform(0.3, 1.0, size=len(TRUTH)),
        },
        index=[f"cell{i}" for i in range(len(TRUTH))],
    )
    return ad.AnnData(obs=obs, obsm={"X_umap": rng.normal(size=(len(TRUTH), 2))})


def test_pairs_are_counted_as_scikit_learn_does(annotated: ad.AnnData) -> None:
    table = metrics.confusion_matrix(annotated.obs["cell_type"], annotated.obs["transanno"])
    # Most frequent true type first; types that are only predicted are columns and no rows.
    assert list(table.index) == ["T cell", "B cell", "$novel_1$"]
    assert list(table.columns) == ["T cell", "B cell", "$novel_1$", "NK cell"]
    pairs = [(t, p) for t, p in zip(TRUTH, PREDICTED, strict=True) if t is not None and p is not None]
    expected = confusion_matrix(*zip(*pairs, strict=True), labels=list(table.columns))
    np.testing.assert_array_equal(table.to_numpy(), expected[:3])


def test_percentages_are_of_rows(annotated: ad.AnnData) -> None:
    ax = pl.confusion_matrix(annotated, "cell_type").axes[0]
    np.testing.assert_allclose(np.asarray(ax.images[0].get_array()).sum(axis=1), 1.0)
    assert [text.get_text() for text in ax.texts] == ["82", "9", "9", "100", "100"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["T cell (11)", "B cell (7)", "$novel_1$ (2)"]


def test_numbers_of_cells_are_shown_without_normalization(annotated: ad.AnnData) -> None:
    ax = pl.confusion_matrix(annotated, "cell_type", normalize=False).axes[0]
    assert [text.get_text() for text in ax.texts] == ["9", "1", "1", "7", "2"]


def test_given_axes_are_drawn_on(annotated: ad.AnnData) -> None:
    figure = Figure()
    ax = figure.add_subplot()
    assert pl.confusion_matrix(annotated, "cell_type", ax=ax) is figure
    assert len(ax.images) == 1


def test_a_result_is_drawn_like_its_cells(annotated: ad.AnnData, evaluation: metrics.Evaluation) -> None:
    drawn = [pl.confusion_matrix(annotated, "cell_type"), pl.confusion_matrix(evaluation)]
    for of_cells, of_result in zip(*(figure.axes[0].texts for figure in drawn), strict=True):
        assert of_cells.get_text() == of_result.get_text()
    # No cell can be called an unseen type: it has a row and no column.
    seen = metrics.evaluate(annotated.obs["cell_type"], annotated.obs["transanno"], labels=["T cell", "B cell"])
    ax = pl.confusion_matrix(seen).axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()][-1] == "$novel_1$ (2)"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["T cell", "B cell", "NK cell"]


@pytest.fixture
def evaluation(annotated: ad.AnnData) -> metrics.Evaluation:
    return metrics.evaluate(annotated.obs["cell_type"], annotated.obs["transanno"])


class TestMetrics:
    def test_bars_are_the_scores(self, evaluation: metrics.Evaluation) -> None:
        panels = pl.metrics(evaluation).axes
        assert [ax.get_title() for ax in panels] == ["precision", "recall", "F1", "cells"]
        for ax, column in zip(panels, ("precision", "recall", "f1", "support"), strict=True):
            np.testing.assert_allclose([bar.get_width() for bar in ax.patches], evaluation.per_class[column])
        assert [label.get_text() for label in panels[0].get_yticklabels()] == ["T cell", "B cell", "$novel_1$"]
        bottom, top = panels[0].get_ylim()
        assert bottom > top  # the most frequent type is the first row
        (line,) = panels[2].lines
        assert line.get_xdata()[0] == pytest.approx(evaluation.summary["macro_f1"])

    def test_almost_all_is_not_all(self) -> None:
        result = metrics.evaluate(["T"] * 211 + ["B"] * 3, ["T"] * 210 + ["B"] * 4)
        assert [text.get_text() for text in pl.metrics(result).axes[1].texts] == ["0.99", "1.00"]

    def test_title_holds_the_scores_over_all_types(self, annotated: ad.AnnData, evaluation) -> None:
        title = pl.metrics(evaluation).get_suptitle()
        assert f"accuracy {evaluation.summary['accuracy']:.3f}" in title
        assert "AUC" not in title
        assert "coverage" not in title
        seen = metrics.evaluate(annotated.obs["cell_type"], annotated.obs["transanno"], labels=["T cell", "B cell"])
        assert "without 2 cells of types that were not in the training data" in pl.metrics(seen).get_suptitle()

    def test_cross_validation(self, evaluation: metrics.Evaluation) -> None:
        folds = {"1": evaluation, "2": metrics.evaluate(["T cell", "B cell"], ["T cell", "B cell"])}
        result = metrics.CrossValidation(
            folds, evaluation, pd.DataFrame(), pd.Series({"1": 0, "2": 0}), 0, pd.Series(dtype=int)
        )
        figure = pl.metrics(result)
        mean, sd = result.summary.loc["accuracy", ["mean", "sd"]]
        assert f"accuracy {mean:.3f} ± {sd:.3f}" in figure.get_suptitle()
        (whiskers,) = figure.axes[2].collections
        widths = [path.vertices[1, 0] - path.vertices[0, 0] for path in whiskers.get_paths()]
        np.testing.assert_allclose(widths[:2], 2 * result.per_class["f1_sd"][:2])
        assert pl.confusion_matrix(result).axes[0].images

    @pytest.mark.parametrize("n_types", [2, 23])
    def test_nothing_overlaps(self, n_types: int) -> None:
        names = [f"a rather long name of a cell type, number {i}" for i in range(n_types)]
        truth = np.repeat(names, np.arange(1, n_types + 1) ** 3 % 5003 + 1)
        figure = pl.metrics(metrics.evaluate(truth, truth))
        figure.draw_without_rendering()
        panels = figure.axes
        for left, right in zip(panels[:-1], panels[1:], strict=True):
            assert max(text.get_window_extent().x1 for text in left.texts) < right.get_window_extent().x0
        for ax in panels:
            assert min(text.get_window_extent().x0 for text in ax.texts) > ax.get_window_extent().x1
        assert max(text.get_window_extent().x1 for text in panels[-1].texts) <= figure.bbox.x1

    def test_nothing_to_draw(self) -> None:
        with pytest.raises(ValueError, match="no cell is of a type that the model has seen"):
            pl.metrics(metrics.evaluate(["novel"], ["T cell"], labels=["T cell"]))

    def test_file_is_an_image(self, evaluation: metrics.Evaluation, tmp_path: Path) -> None:
        pl.metrics(evaluation, save=tmp_path / "metrics.png")
        assert min(matplotlib.image.imread(tmp_path / "metrics.png").shape[:2]) > 200


@pytest.mark.parametrize("plot", [pl.umap, pl.confusion_matrix])
def test_notebooks_can_show_figures_without_pyplot(annotated: ad.AnnData, plot) -> None:
    assert plot(annotated, "cell_type")._repr_png_().startswith(b"\x89PNG")


def test_a_type_has_one_color_in_all_panels(annotated: ad.AnnData) -> None:
    annotated.obs["transanno"] = annotated.obs["cell_type"]  # then both panels have to look alike
    figure = pl.umap(annotated, "cell_type")
    truth, prediction, confidence, _ = figure.axes
    assert truth.get_title() == "truth (cell_type)"
    assert prediction.get_title() == "prediction (transanno)"
    np.testing.assert_array_equal(truth.collections[0].get_facecolors(), prediction.collections[0].get_facecolors())
    colors = color_map(annotated.obs["cell_type"])
    shown = {text.get_text(): to_hex(handle.get_color()) for handle, text in _legend(prediction)}
    assert shown == colors
    assert confidence.collections[0].get_clim() == (0, 1)


def _legend(ax):
    legend = ax.get_legend()
    return list(zip(legend.legend_handles, legend.get_texts(), strict=True))


def test_truth_is_left_out_on_request(annotated: ad.AnnData) -> None:
    titles = [ax.get_title() for ax in pl.umap(annotated).axes]
    assert titles == ["prediction (transanno)", "confidence", ""]  # the last is the color bar


@pytest.mark.parametrize("n_types", [3, 17, 37])
def test_colors_are_distinct(n_types: int) -> None:
    colors = color_map(pd.Series([f"type {i}" for i in range(n_types)]))
    assert len(set(colors.values())) == n_types


def test_many_types_are_listed_below_the_panels(annotated: ad.AnnData) -> None:
    many = ad.concat([annotated] * 3, index_unique="-")
    many.obs["transanno"] = [f"type {i % 37}" for i in range(many.n_obs)]
    figure = pl.umap(many)
    assert len(figure.legends) == 1
    figure.draw_without_rendering()
    assert figure.legends[0].get_window_extent().y1 < min(ax.get_window_extent().y0 for ax in figure.axes)


@pytest.mark.parametrize("plot", [pl.umap, pl.confusion_matrix])
def test_files_are_images_of_whole_figures(annotated: ad.AnnData, tmp_path: Path, plot) -> None:
    path = tmp_path / "plots" / "plot.png"
    plot(annotated, "cell_type", save=path)
    pixels = matplotlib.image.imread(path)
    assert min(pixels.shape[:2]) > 300
    # Nothing is cut off: the border is white all around.
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge[:, :3] == 1.0).all()
    plot(annotated, "cell_type", save=tmp_path / "plot.pdf")
    assert (tmp_path / "plot.pdf").read_bytes().startswith(b"%PDF")


def test_pyplot_knows_none_of_the_figures(annotated: ad.AnnData) -> None:
    import matplotlib.pyplot as plt

    pl.umap(annotated, "cell_type")
    pl.confusion_matrix(annotated, "cell_type")
    assert plt.get_fignums() == []


def test_the_data_stay_as_they_are(annotated: ad.AnnData, snapshot, changed) -> None:
    before = snapshot(annotated)
    pl.umap(annotated, "cell_type")
    pl.confusion_matrix(annotated, "cell_type")
    assert changed(before, annotated) == set()


class TestInvalidInput:
    def test_cells_need_the_column_of_their_labels(self, annotated: ad.AnnData) -> None:
        with pytest.raises(ValueError, match="labels_key is missing"):
            pl.confusion_matrix(annotated)

    @pytest.mark.parametrize("plot", [pl.umap, pl.confusion_matrix])
    def test_missing_columns_are_named(self, annotated: ad.AnnData, plot) -> None:
        with pytest.raises(KeyError, match="Did you mean 'cell_type'"):
            plot(annotated, "celltype")
        with pytest.raises(KeyError, match="predicted_key='other' is not a column"):
            plot(annotated, "cell_type", "other")

    def test_missing_confidence_is_named(self, annotated: ad.AnnData) -> None:
        del annotated.obs["transanno_confidence"]
        with pytest.raises(KeyError, match="transanno_confidence"):
            pl.umap(annotated)

    def test_missing_coordinates_come_with_the_cure(self, annotated: ad.AnnData) -> None:
        with pytest.raises(KeyError, match="basis='X_tsne' is not in adata.obsm, which holds: X_umap"):
            pl.umap(annotated, basis="X_tsne")

    def test_no_pair_of_label_and_prediction_is_an_error(self, annotated: ad.AnnData) -> None:
        annotated.obs["cell_type"] = None
        with pytest.raises(ValueError, match="No cell has both"):
            pl.confusion_matrix(annotated, "cell_type")


def test_importing_the_package_loads_no_matplotlib() -> None:
    code = "import transanno, sys; assert not {'matplotlib', 'torch', 'scanpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
