from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from transanno.data._colors import complete_colors, read_colors, write_colors


def cells(*labels: str | None, colors: object = None) -> ad.AnnData:
    adata = ad.AnnData(
        np.ones((len(labels), 1)), obs=pd.DataFrame({"type": pd.Categorical(labels)}, index=list("abc")[: len(labels)])
    )
    if colors is not None:
        adata.uns["type_colors"] = colors
    return adata


@pytest.mark.parametrize("container", [list, tuple, np.array, lambda colors: np.array(colors, dtype=object)])
def test_colors_are_those_of_the_categories(container) -> None:
    adata = cells("T", "B", None, colors=container(["red", "#00ff00"]))
    assert read_colors(adata, "type") == {"B": "red", "T": "#00ff00"}


def test_colors_may_be_numbers() -> None:
    for colors in ([(1.0, 0.0, 0.0), (0.0, 1.0, 0.0)], np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])):
        assert read_colors(cells("T", "B", colors=colors), "type") == {"B": "#ff0000ff", "T": "#00ff00ff"}


def test_what_does_not_fit_is_no_color() -> None:
    for colors in (None, ["red"], "red", [1, 2], {"B": "red"}, np.ones((2, 2)), np.array("red")):
        assert read_colors(cells("T", "B", colors=colors), "type") == {}
    adata = cells("T", "B", colors=["red", "blue"])
    adata.obs["type"] = adata.obs["type"].astype(object)
    assert read_colors(adata, "type") == {}
    assert read_colors(adata, "other") == {}


@pytest.mark.parametrize("n_types", [3, 17, 20, 21, 37, 60])
def test_colors_can_be_told_apart_from_each_other_and_from_gray(n_types: int) -> None:
    colors = np.array([to_rgb(color) for color in complete_colors([f"type {i}" for i in range(n_types)], {}).values()])
    distance = np.abs(colors[:, None] - colors[None, :]).sum(axis=-1) + 9 * np.eye(n_types)
    assert distance.min() > 0.1
    assert (colors.max(axis=1) - colors.min(axis=1)).min() > 0.1


def test_new_types_get_no_color_that_is_taken() -> None:
    first = next(iter(complete_colors(["A", "B"], {}).values()))
    colors = complete_colors(["A", "B", "Unknown"], {"B": first.upper()})
    assert colors["B"] == first.upper()
    assert colors["A"] != first
    assert len(set(to_rgb(colors["Unknown"]))) == 1
    assert len(complete_colors([f"type {i}" for i in range(200)], {})) == 200


def test_fitting_colors_stay_and_others_follow_their_types() -> None:
    adata = cells("T", "B", colors=["red", "blue"])
    write_colors(
        adata,
        "type",
        adata.obs["type"].cat.categories.tolist(),
        {"B": "#000001", "T": "#000002"},
        {"B": "red", "T": "blue"},
    )
    assert adata.uns["type_colors"] == ["red", "blue"]
    write_colors(
        adata,
        "type",
        adata.obs["type"].cat.categories.tolist(),
        {"B": "#000001"},
        {"A": "green", "B": "red", "T": "blue"},
    )
    assert adata.uns["type_colors"] == ["#000001", "blue"]


def test_nothing_is_written_where_nothing_is_known() -> None:
    adata = cells("T", "B")
    write_colors(adata, "type", adata.obs["type"].cat.categories.tolist(), {}, {})
    assert "type_colors" not in adata.uns
