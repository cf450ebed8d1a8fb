from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from matplotlib.figure import Figure

from transanno import metrics, pl


def test_percentages_are_of_rows(annotated: ad.AnnData) -> None:
    ax = pl.confusion_matrix(annotated, "cell_type", show=False)
    np.testing.assert_allclose(np.asarray(ax.images[0].get_array()).sum(axis=1), 1.0)
    assert [text.get_text() for text in ax.texts] == ["82", "9", "9", "100", "100"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["T cell (11)", "B cell (7)", "$novel_1$ (2)"]


def test_numbers_of_cells_are_shown_without_normalization(annotated: ad.AnnData) -> None:
    ax = pl.confusion_matrix(annotated, "cell_type", normalize=False, show=False)
    assert [text.get_text() for text in ax.texts] == ["9", "1", "1", "7", "2"]


def test_given_axes_are_drawn_on(annotated: ad.AnnData) -> None:
    figure = Figure()
    ax = figure.add_subplot()
    assert pl.confusion_matrix(annotated, "cell_type", ax=ax, show=False) is ax
    assert pl.confusion_matrix(annotated, "cell_type", ax=figure.add_subplot(), return_fig=True) is figure
    assert len(ax.images) == 1


def test_a_result_is_drawn_like_its_cells(annotated: ad.AnnData, evaluation: metrics.Evaluation) -> None:
    drawn = [pl.confusion_matrix(annotated, "cell_type", show=False), pl.confusion_matrix(evaluation, show=False)]
    for of_cells, of_result in zip(*(ax.texts for ax in drawn), strict=True):
        assert of_cells.get_text() == of_result.get_text()
    # No cell can be called an unseen type: it has a row and no column.
    seen = metrics.evaluate(annotated.obs["cell_type"], annotated.obs["transanno"], labels=["T cell", "B cell"])
    ax = pl.confusion_matrix(seen, show=False)
    assert [label.get_text() for label in ax.get_yticklabels()][-1] == "$novel_1$ (2)"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["T cell", "B cell", "NK cell"]


def test_cells_need_the_column_of_their_labels(annotated: ad.AnnData) -> None:
    with pytest.raises(ValueError, match="labels_key is missing"):
        pl.confusion_matrix(annotated)


def test_no_pair_of_label_and_prediction_is_an_error(annotated: ad.AnnData) -> None:
    annotated.obs["cell_type"] = None
    with pytest.raises(ValueError, match="No cell has both"):
        pl.confusion_matrix(annotated, "cell_type")
