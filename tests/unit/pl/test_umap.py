from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from transanno import pl
from transanno.pl._umap import color_map


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


def test_missing_confidence_is_named(annotated: ad.AnnData) -> None:
    del annotated.obs["transanno_confidence"]
    with pytest.raises(KeyError, match="transanno_confidence"):
        pl.umap(annotated)


def test_missing_coordinates_come_with_the_cure(annotated: ad.AnnData) -> None:
    with pytest.raises(KeyError, match="basis='X_tsne' is not in adata.obsm, which holds: X_umap"):
        pl.umap(annotated, basis="X_tsne")
