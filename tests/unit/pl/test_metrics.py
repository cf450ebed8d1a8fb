from __future__ import annotations

from pathlib import Path

import anndata as ad
import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from transanno import metrics, pl


def test_bars_are_the_scores(evaluation: metrics.Evaluation) -> None:
    by_name = pl.metrics(evaluation, show=False)
    assert list(by_name) == ["precision", "recall", "f1", "cells"]
    panels = list(by_name.values())
    assert [ax.get_title() for ax in panels] == ["precision", "recall", "F1", "cells"]
    for ax, column in zip(panels, ("precision", "recall", "f1", "support"), strict=True):
        np.testing.assert_allclose([bar.get_width() for bar in ax.patches], evaluation.per_class[column])
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["T cell", "B cell", "$novel_1$"]
    bottom, top = panels[0].get_ylim()
    assert bottom > top  # the most frequent type is the first row
    (line,) = panels[2].lines
    assert line.get_xdata()[0] == pytest.approx(evaluation.summary["macro_f1"])


def test_almost_all_is_not_all() -> None:
    result = metrics.evaluate(["T"] * 211 + ["B"] * 3, ["T"] * 210 + ["B"] * 4)
    assert [text.get_text() for text in pl.metrics(result, show=False)["recall"].texts] == ["0.99", "1.00"]


def test_title_holds_the_scores_over_all_types(annotated: ad.AnnData, evaluation) -> None:
    title = pl.metrics(evaluation, return_fig=True).get_suptitle()
    assert f"accuracy {evaluation.summary['accuracy']:.3f}" in title
    assert "AUC" not in title
    assert "coverage" not in title
    seen = metrics.evaluate(annotated.obs["cell_type"], annotated.obs["transanno"], labels=["T cell", "B cell"])
    assert (
        "without 2 cells of types that were not in the training data"
        in pl.metrics(seen, return_fig=True).get_suptitle()
    )


def test_cross_validation(evaluation: metrics.Evaluation) -> None:
    folds = {"1": evaluation, "2": metrics.evaluate(["T cell", "B cell"], ["T cell", "B cell"])}
    result = metrics.CrossValidation(
        folds, evaluation, pd.DataFrame(), pd.Series({"1": 0, "2": 0}), 0, pd.Series(dtype=int)
    )
    figure = pl.metrics(result, return_fig=True)
    mean, sd = result.summary.loc["accuracy", ["mean", "sd"]]
    assert f"accuracy {mean:.3f} ± {sd:.3f}" in figure.get_suptitle()
    (whiskers,) = figure.axes[2].collections
    widths = [path.vertices[1, 0] - path.vertices[0, 0] for path in whiskers.get_paths()]
    np.testing.assert_allclose(widths[:2], 2 * result.per_class["f1_sd"][:2])
    assert pl.confusion_matrix(result, show=False).images


@pytest.mark.parametrize("n_types", [2, 23])
def test_nothing_overlaps(n_types: int) -> None:
    names = [f"a rather long name of a cell type, number {i}" for i in range(n_types)]
    truth = np.repeat(names, np.arange(1, n_types + 1) ** 3 % 5003 + 1)
    figure = pl.metrics(metrics.evaluate(truth, truth), return_fig=True)
    figure.draw_without_rendering()
    panels = figure.axes
    for left, right in zip(panels[:-1], panels[1:], strict=True):
        assert max(text.get_window_extent().x1 for text in left.texts) < right.get_window_extent().x0
    for ax in panels:
        assert min(text.get_window_extent().x0 for text in ax.texts) > ax.get_window_extent().x1
    assert max(text.get_window_extent().x1 for text in panels[-1].texts) <= figure.bbox.x1


def test_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match="no cell is of a type that the model has seen"):
        pl.metrics(metrics.evaluate(["novel"], ["T cell"], labels=["T cell"]))


def test_file_is_an_image(evaluation: metrics.Evaluation, tmp_path: Path) -> None:
    pl.metrics(evaluation, save=tmp_path / "metrics.png")
    assert min(matplotlib.image.imread(tmp_path / "metrics.png").shape[:2]) > 200
