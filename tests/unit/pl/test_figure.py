"""What all plots have in common."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import matplotlib.image
import pytest

from transanno import pl


@pytest.mark.parametrize("plot", [pl.umap, pl.confusion_matrix])
def test_notebooks_can_show_figures_without_pyplot(annotated: ad.AnnData, plot) -> None:
    assert plot(annotated, "cell_type")._repr_png_().startswith(b"\x89PNG")


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


@pytest.mark.parametrize("plot", [pl.umap, pl.confusion_matrix])
def test_missing_columns_are_named(annotated: ad.AnnData, plot) -> None:
    with pytest.raises(KeyError, match="Did you mean 'cell_type'"):
        plot(annotated, "celltype")
    with pytest.raises(KeyError, match="predicted_key='other' is not a column"):
        plot(annotated, "cell_type", "other")
