"""What all plots have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib
import matplotlib.image
import matplotlib.pyplot as plt
import pandas as pd
import pytest
import scanpy as sc
from matplotlib.axes import Axes

from transanno import metrics, pl

ON_CELLS = [pl.umap, pl.confusion_matrix]


@pytest.fixture(params=["umap", "confusion_matrix", "metrics", "evidence"])
def plot(request: pytest.FixtureRequest, annotated: ad.AnnData, evaluation: metrics.Evaluation) -> Callable[..., Any]:
    """-> each of the plots, with what it draws."""
    table = pd.DataFrame(
        {
            "evidence": [2.0, -1.0],
            "speaks_for": pd.Categorical(["B cell", "T cell"]),
            "absent": [False, True],
            **{name: [1.0, 0.0] for name in ("expression", "expression_label", "expression_against")},
        },
        index=["MS4A1", "CD3E"],
    )
    given = {
        "umap": (annotated, "cell_type"),
        "confusion_matrix": (annotated, "cell_type"),
        "metrics": (evaluation,),
        "evidence": (table,),
    }[request.param]
    return lambda **kwargs: getattr(pl, request.param)(*given, **kwargs)


def axes_in(returned: Any) -> list[Axes]:
    return [returned] if isinstance(returned, Axes) else list(getattr(returned, "values", lambda: returned)())


def test_pyplot_has_the_figure(plot: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert plot() is None
    assert len(plt.get_fignums()) == 1
    plt.savefig(tmp_path / "mine.png")
    pixels = matplotlib.image.imread(tmp_path / "mine.png")
    assert (pixels[..., :3] < 0.5).any()
    plot()
    assert len(plt.get_fignums()) == 2, "of two plots in a cell a notebook shows both"
    assert capsys.readouterr() == ("", "")


def test_axes_or_figure_are_returned_on_request(plot: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plt, "show", lambda: pytest.fail("shown"))
    axes = axes_in(plot(show=False))
    assert {ax.figure for ax in axes} == {plt.gcf()}
    assert all(ax.has_data() for ax in axes)
    assert plot(return_fig=True) is plt.gcf()


def test_showing_is_that_of_pyplot(plot: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()))
    plot()
    assert not shown, "a script is not held up"
    assert plot(show=True) is None
    assert shown == [plt.gcf()]
    sc.settings.autoshow = False
    try:
        assert axes_in(plot())
    finally:
        sc.settings.autoshow = True


def test_saved_figures_do_not_pile_up_in_a_script(plot: Callable[..., Any], tmp_path: Path) -> None:
    assert plot(save=tmp_path / "plot.png") is None
    assert plt.get_fignums() == []
    for kept in ({"show": False}, {"return_fig": True}):
        plot(save=tmp_path / "plot.png", **kept)
    assert len(plt.get_fignums()) == 2, "what is handed back is not closed"
    plt.close("all")
    with plt.ion():  # as in a notebook, which shows what is open at the end of the cell
        plot(save=tmp_path / "plot.png")
    assert len(plt.get_fignums()) == 1


def test_files_are_images_of_whole_figures(plot: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "plots" / "plot.png"
    plot(save=path)
    pixels = matplotlib.image.imread(path)
    assert min(pixels.shape[:2]) > 200
    # Nothing is cut off: the border is white all around.
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge[:, :3] == 1.0).all()
    plot(save=tmp_path / "plot.pdf")
    assert (tmp_path / "plot.pdf").read_bytes().startswith(b"%PDF")


def test_settings_of_the_user_stay(plot: Callable[..., Any]) -> None:
    with matplotlib.rc_context():
        sc.set_figure_params(fontsize=13)
        before = dict(matplotlib.rcParams)
        axes = axes_in(plot(show=False))
        assert dict(matplotlib.rcParams) == before
        plt.gcf().canvas.draw()
        lines = [line for ax in axes for line in (*ax.get_xgridlines(), *ax.get_ygridlines())]
        assert not any(line.get_visible() for line in lines), "a grid would lie on what is drawn"


def test_only_colors_are_written(annotated: ad.AnnData, snapshot, changed) -> None:
    annotated.obs["transanno"] = annotated.obs["transanno"].astype(object)
    before = snapshot(annotated)
    pl.umap(annotated, "cell_type")
    pl.confusion_matrix(annotated, "cell_type")
    assert set(annotated.uns) == {"cell_type_colors"}
    assert changed(before, annotated) <= {"uns", "uns/cell_type_colors"}


@pytest.mark.parametrize("plot_cells", ON_CELLS)
def test_missing_columns_are_named(annotated: ad.AnnData, plot_cells) -> None:
    with pytest.raises(KeyError, match="Did you mean 'cell_type'"):
        plot_cells(annotated, "celltype")
    with pytest.raises(KeyError, match="predicted_key='other' is not a column"):
        plot_cells(annotated, "cell_type", "other")
