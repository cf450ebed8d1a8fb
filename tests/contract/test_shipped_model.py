"""The model that comes with the package, on cells of a study that it was not trained on."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from transanno import TransAnno, TransAnnoWarning
from transanno.cli import main
from transanno.data._demo import LABELS_KEY, load_demo
from transanno.saving._names import SHIPPED

# The names that the demo's data have for what the model calls otherwise.
BROAD = {
    "CD14+ Monocyte": "monocyte",
    "CD19+ B": "B",
    "CD56+ NK": "NK",
    "Dendritic": "dendritic",
    "CD4+/CD25 T Reg": "T",
    "CD4+/CD45RA+/CD25- Naive T": "T",
    "CD4+/CD45RO+ Memory": "T",
    "CD8+ Cytotoxic T": "T",
    "CD8+/CD45RA+ Naive Cytotoxic": "T",
    "B cell": "B",
    "CD14+ monocyte": "monocyte",
    "FCGR3A+ monocyte": "monocyte",
    "CD4 T cell": "T",
    "CD8 T cell": "T",
    "NK cell": "NK",
    "dendritic cell": "dendritic",
    "megakaryocyte": "megakaryocyte",
}


@pytest.fixture(scope="module")
def blood() -> TransAnno:
    return TransAnno.from_hub("blood", accelerator="cpu")


@pytest.fixture(scope="module")
def demo() -> ad.AnnData:
    return ad.concat(load_demo())


def test_it_is_small():
    assert sum(file.stat().st_size for file in (SHIPPED.parent / "blood").iterdir()) <= 2_000_000


def test_it_is_calibrated_and_says_what_it_was_trained_on(blood):
    assert blood.label_counts_["CD14+ monocyte"] == 480
    assert blood.calibration_.n_cells == 527
    assert len(blood.genes) == 1500


def test_demo_is_annotated_sensibly(blood, demo):
    """The floors are a little below what was found; the demo's dendritic cells are labeled by similarity, and a fifth is called monocytes."""
    with pytest.warns(TransAnnoWarning, match="genes"):  # half of them are not in the demo's selection
        predicted = blood.predict(demo, key_added=None)
    truth = demo.obs[LABELS_KEY].astype(str).map(BROAD)
    called = pd.Series(predicted, index=demo.obs_names).map(BROAD)
    is_right = (truth == called)[truth.notna()]  # it knows no progenitors
    recall = is_right.groupby(truth[truth.notna()]).mean()
    assert is_right.mean() > 0.87
    assert recall.index.tolist() == ["B", "NK", "T", "dendritic", "monocyte"]
    assert (recall > [0.97, 0.97, 0.87, 0.76, 0.93]).all(), recall


def test_command_line_gives_a_first_result_without_a_reference(demo, tmp_path, capsys):
    demo[:100].write_h5ad(tmp_path / "pbmc.h5ad")
    options = ["--query", str(tmp_path / "pbmc.h5ad"), "--out", str(tmp_path / "out.h5ad"), "--accelerator", "cpu"]
    assert main(["annotate", "--model", "blood", *options]) == 0
    assert set(ad.read_h5ad(tmp_path / "out.h5ad").obs["transanno"]) <= set(BROAD)
    assert "predicted type" in capsys.readouterr().out


def test_weights_are_single_precision_once_loaded(blood):
    weights = [weight for weight in blood.module.state_dict().values() if weight.is_floating_point()]
    assert {weight.dtype.itemsize for weight in weights} == {4}
    assert all(np.isfinite(weight.numpy()).all() for weight in weights)
