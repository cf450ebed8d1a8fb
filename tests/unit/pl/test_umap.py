from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from matplotlib.colors import to_hex

from transanno import pl


def make_types(n_types: int, *, letters: int = 10) -> ad.AnnData:
    """-> cells of so many types, in groups apart."""
    rng = np.random.default_rng(0)
    y = np.arange(7 * n_types) % n_types
    names = np.array([f"{'type'.ljust(letters - 3, 'x')} {i:02}" for i in range(n_types)])
    obs = pd.DataFrame(
        {"transanno": pd.Categorical(names[y]), "transanno_confidence": rng.random(len(y))},
        index=[f"cell{i}" for i in range(len(y))],
    )
    return ad.AnnData(obs=obs, obsm={"X_umap": 10 * rng.normal(size=(n_types, 2))[y] + rng.normal(size=(len(y), 2))})


def colors_in(ax) -> set[str]:
    return {to_hex(color) for color in ax.collections[0].get_facecolors()}


def legend_of(ax) -> dict[str, str]:
    legend = ax.get_legend()
    handles = zip(legend.legend_handles, legend.get_texts(), strict=True)
    return {text.get_text(): to_hex(handle.get_color()) for handle, text in handles}


def test_a_type_has_one_color_in_all_panels(annotated: ad.AnnData) -> None:
    annotated.obs["transanno"] = annotated.obs["cell_type"]  # then both panels have to look alike
    truth, prediction, confidence = pl.umap(annotated, "cell_type", show=False)
    assert truth.get_title() == "truth (cell_type)"
    assert prediction.get_title() == "prediction (transanno)"
    np.testing.assert_array_equal(truth.collections[0].get_facecolors(), prediction.collections[0].get_facecolors())
    assert list(legend_of(prediction)) == ["$novel_1$", "B cell", "T cell"]
    assert confidence.collections[0].get_clim() == (0, 1)
    assert annotated.uns["cell_type_colors"] == annotated.uns["transanno_colors"]


def test_truth_is_left_out_on_request(annotated: ad.AnnData) -> None:
    assert [ax.get_title() for ax in pl.umap(annotated, show=False)] == ["prediction (transanno)", "confidence"]


def test_colors_of_the_user_are_read_and_kept(annotated: ad.AnnData) -> None:
    annotated.uns["cell_type_colors"] = np.array(["#111111", "#222222", "#333333"], dtype=object)
    truth, prediction, _ = pl.umap(annotated, "cell_type", show=False)
    assert colors_in(truth) >= {"#111111", "#222222", "#333333"}
    assert legend_of(prediction).items() >= {"B cell": "#222222", "T cell": "#333333"}.items()
    assert annotated.uns["cell_type_colors"].tolist() == ["#111111", "#222222", "#333333"]
    written = dict(zip(annotated.obs["transanno"].cat.categories, annotated.uns["transanno_colors"], strict=True))
    assert written["B cell"] == "#222222"
    assert len(set(written.values())) == len(written)
    # What is written is what scanpy draws.
    ax = sc.pl.umap(annotated, color="transanno", show=False)
    assert colors_in(ax) - colors_in(prediction) == set()


def test_colors_that_do_not_fit_are_replaced(annotated: ad.AnnData) -> None:
    annotated.uns["transanno_colors"] = ["#111111"]
    pl.umap(annotated)
    assert len(annotated.uns["transanno_colors"]) == 3
    annotated.uns["transanno_colors"] = ["no", "color", "at all"]
    pl.umap(annotated)
    assert annotated.uns["transanno_colors"] == ["no", "color", "at all"], "it is theirs"


def test_a_view_stays_one(annotated: ad.AnnData) -> None:
    view = annotated[:15]
    pl.umap(view)
    assert view.is_view


def test_cells_without_a_type_are_gray(annotated: ad.AnnData) -> None:
    called = annotated.obs["transanno"].astype(object)
    called[:3], called[3:6] = "Unknown", "Unassigned"
    annotated.obs["transanno"] = pd.Categorical(called)
    prediction, _ = pl.umap(annotated, show=False)
    gray = {color for color in colors_in(prediction) if len({color[1:3], color[3:5], color[5:7]}) == 1}
    shown = legend_of(prediction)
    assert gray == {shown["Unknown"], shown["Unassigned"], to_hex("lightgray")}  # the last are missing


@pytest.mark.parametrize(("n_types", "is_named"), [(20, False), (37, True)])
def test_many_types_are_named_on_the_cells(n_types: int, is_named: bool) -> None:
    adata = make_types(n_types)
    prediction, _ = pl.umap(adata, show=False)
    assert len(set(adata.uns["transanno_colors"])) == n_types
    assert (prediction.get_legend() is None) == is_named
    assert [text.get_text() for text in prediction.texts] == list(adata.obs["transanno"].cat.categories) * is_named
    figure = prediction.figure
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in prediction.texts]
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
    frame = prediction.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.y1 <= frame.y1 and frame.y0 <= box.y0 for box in boxes)


def test_long_names_of_many_types_are_listed_below() -> None:
    adata = make_types(31, letters=50)
    prediction, _ = pl.umap(adata, show=False)
    figure = prediction.figure
    assert [text.get_text() for text in prediction.texts] == [str(i) for i in range(1, 32)]
    listed = [text.get_text() for text in figure.legends[0].get_texts()]
    assert listed == [f"{i}  {name}" for i, name in enumerate(adata.obs["transanno"].cat.categories, 1)]
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert box.y1 < min(ax.get_window_extent().y0 for ax in figure.axes)


def test_the_legend_takes_no_room_from_the_panels() -> None:
    short, long = (pl.umap(make_types(5, letters=n), show=False)[0] for n in (10, 70))
    for ax in (short, long):
        ax.figure.draw_without_rendering()
        legend, neighbor = ax.get_legend().get_window_extent(), ax.figure.axes[1].get_window_extent()
        assert legend.x1 < neighbor.x0
    assert short.get_window_extent().width == pytest.approx(long.get_window_extent().width, rel=0.05)


def test_arguments_of_scanpy_are_passed_on(annotated: ad.AnnData) -> None:
    truth, prediction, _ = pl.umap(
        annotated, "cell_type", basis="umap", legend_loc="on data", frameon=False, show=False
    )
    assert {text.get_text() for text in prediction.texts} == {"B cell", "NK cell", "T cell"}
    assert not truth.axison
    palette = ["#000001", "#000002", "#000003", "#000004"]
    truth, prediction, _ = pl.umap(annotated, "cell_type", palette=palette, show=False)
    assert list(legend_of(prediction).values()) == palette
    assert annotated.uns["cell_type_colors"] == palette[:3]
    assert colors_in(truth) <= {*palette, to_hex("lightgray")}
    with pytest.raises(TypeError, match="color cannot be given"):
        pl.umap(annotated, color="cell_type")


def test_missing_confidence_is_named(annotated: ad.AnnData) -> None:
    del annotated.obs["transanno_confidence"]
    with pytest.raises(KeyError, match="transanno_confidence"):
        pl.umap(annotated)


def test_missing_coordinates_come_with_the_cure(annotated: ad.AnnData) -> None:
    with pytest.raises(KeyError, match="basis='X_tsne' is not in adata.obsm, which holds: X_umap"):
        pl.umap(annotated, basis="X_tsne")
