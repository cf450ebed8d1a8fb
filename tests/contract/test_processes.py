"""Training in two processes, on CPUs: shares of the cells, class balance, one calibration."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scvi
from sklearn.metrics import f1_score

from transanno import TransAnno, TransAnnoPretrain, tl

N_PROCESSES = 2
# What each process does, and writes into a file of its own.
SCRIPT = """
import sys
import anndata as ad
import numpy as np
import scvi
import torch
from lightning.pytorch import Callback
from transanno import TransAnno, TransAnnoPretrain, tl

torch.set_num_threads(1)
scvi.settings.seed = 0
several = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "enable_progress_bar": False}
found = {}


class Seen(Callback):
    def __init__(self):
        self.cells, self.labels = [], []

    def on_train_batch_start(self, trainer, plan, batch, batch_idx):
        if trainer.current_epoch == 0:
            x = batch["X"].to_dense() if batch["X"].layout != torch.strided else batch["X"]
            self.cells.append(x[:, 0].numpy())
            self.labels.append(batch["labels"].flatten().numpy() if "labels" in batch else x[:, 0].numpy())


def seen(name, callback):
    found[name + "_cells"], found[name + "_labels"] = map(np.concatenate, (callback.cells, callback.labels))
    found[name + "_sizes"] = np.array([len(each) for each in callback.cells])


# The first gene of every cell is its number.
numbered = ad.read_h5ad("numbered.h5ad")
TransAnno.setup_anndata(numbered, "cell_type", batch_key="batch")
for name, class_balance in (("as_they_are", 0.0), ("balanced", 1.0), ("episodes", "episodes")):
    model, callback = TransAnno(numbered, n_hidden=16, n_networks=2, n_layers=1, n_heads=2), Seen()
    model.train(
        1, train_size=1.0, batch_size=32, callbacks=[callback],
        datasplitter_kwargs={"class_balance": class_balance}, **several,
    )
    seen(name, callback)
model = TransAnno(numbered, n_hidden=16, n_networks=2, n_layers=1, n_heads=2)
model.train(2, train_size=0.8, batch_size=32, check_val_every_n_epoch=1, **several)
found["history"] = np.array([each.iloc[-1, 0] for name, each in model.history.items() if "validation" in name], dtype=float)
found["validation_cells"] = np.sort(model.validation_indices)
TransAnnoPretrain.setup_anndata(numbered, batch_key="batch")
pretrained, callback = TransAnnoPretrain(numbered, n_hidden=16, n_networks=2, n_layers=1, n_heads=2), Seen()
pretrained.train(1, train_size=0.9, batch_size=32, callbacks=[callback], check_val_every_n_epoch=1, **several)
seen("pretraining", callback)
reference, query = ad.read_h5ad("reference.h5ad"), ad.read_h5ad("query.h5ad")
model = tl.fit_reference(reference, "cell_type", batch_key="batch", n_top_genes=41, max_epochs=3, **several)
trainer = model.trainer
query_model = tl.annotate(query, model=model, accelerator="cpu")
np.savez(
    f"rank{trainer.global_rank}.npz",
    **found,
    weights=torch.cat([each.detach().flatten() for each in model.module.parameters()]).numpy(),
    predicted=query.obs["transanno"].astype(str).to_numpy().astype(str),
    temperature=model.calibration_.temperature,
    held_out=model.calibration_.n_cells,
    n_steps=trainer.global_step,
)
if trainer.is_global_zero:
    model.save("saved")
"""


@pytest.fixture(scope="module")
def ranks(make_adata, tmp_path_factory) -> list[dict[str, np.ndarray]]:
    """What every process wrote."""
    folder = tmp_path_factory.mktemp("processes")
    numbered = make_adata(131, seed=2, container=np.asarray)
    numbered.X[:, 0] = np.arange(1, 132)
    numbered.write_h5ad(folder / "numbered.h5ad")
    make_adata(331, seed=5).write_h5ad(folder / "reference.h5ad")
    make_adata(211, seed=6).write_h5ad(folder / "query.h5ad")
    (folder / "script.py").write_text(SCRIPT)
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={N_PROCESSES}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, *torchrun, "script.py"], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[max(run.stderr.find("Traceback"), 0) :][:5000]
    assert (folder / "saved" / "model.pt").exists()
    return [dict(np.load(folder / f"rank{rank}.npz")) for rank in range(N_PROCESSES)]


def test_every_process_gets_its_share_of_the_cells(ranks):
    shares = [rank["as_they_are_cells"] for rank in ranks]
    assert all(len(np.unique(share)) == len(share) for share in shares)
    # 131 cells are five minibatches, of which one is seen twice so that both processes have three.
    sizes = np.concatenate([rank["as_they_are_sizes"] for rank in ranks])
    assert len(sizes) == 6
    assert set(np.concatenate(shares)) == set(range(1, 132))
    assert len(np.intersect1d(*shares)) == sizes.sum() - 131
    pretraining = [rank["pretraining_cells"] for rank in ranks]
    assert len(np.intersect1d(*pretraining)) == 0  # of 118 cells
    assert len(np.union1d(*pretraining)) == 118


def test_types_are_balanced_as_in_one_process(ranks):
    """By weights, all types are equally frequent; an episode has a random part of them."""
    labels = np.concatenate([rank["balanced_labels"] for rank in ranks])
    assert np.bincount(labels).min() > 0.2 * len(labels)
    assert not np.array_equal(ranks[0]["balanced_cells"], ranks[1]["balanced_cells"])
    for rank in ranks:
        assert len(rank["episodes_sizes"]) == 25
        episodes = np.split(rank["episodes_labels"], np.cumsum(rank["episodes_sizes"])[:-1])
        shares = np.array([np.bincount(each, minlength=3) for each in episodes]) / 32
        assert shares.std(axis=0).min() > 0.15
    assert not np.array_equal(ranks[0]["episodes_cells"], ranks[1]["episodes_cells"])


def test_all_processes_have_one_model_and_one_calibration(ranks):
    first, second = ranks
    for name in ("weights", "predicted", "temperature", "held_out", "n_steps"):
        np.testing.assert_array_equal(first[name], second[name])
    assert first["held_out"] > 50


def test_all_hold_out_the_same_cells_and_the_first_writes_the_history(ranks):
    np.testing.assert_array_equal(*(rank["validation_cells"] for rank in ranks))
    assert 20 <= len(ranks[0]["validation_cells"]) <= 27
    assert len(ranks[0]["history"]) >= 4
    assert np.isfinite(ranks[0]["history"]).all()


@pytest.mark.usefixtures("whole_epochs")
def test_the_model_predicts_as_well_as_one_of_a_single_process(ranks, make_adata):
    reference, query = make_adata(331, seed=5), make_adata(211, seed=6)
    alone = tl.fit_reference(
        reference, "cell_type", batch_key="batch", n_top_genes=41, max_epochs=3, accelerator="cpu",
        enable_progress_bar=False, calibrate=False,
    )  # fmt: skip
    tl.annotate(query, model=alone, accelerator="cpu")
    scores = [
        f1_score(query.obs["cell_type"], predicted, average="macro")
        for predicted in (query.obs["transanno"].astype(str), ranks[0]["predicted"])
    ]
    assert min(scores) > 0.9
    assert abs(scores[0] - scores[1]) < 0.04
    assert alone.trainer.global_step == ranks[0]["n_steps"]  # small references have episodes enough for both


@pytest.mark.parametrize("cls", [TransAnno, TransAnnoPretrain])
def test_no_seed_is_an_error(cls, reference, small, monkeypatch):
    """Every process would hold out other cells."""
    start: Callable[..., Any] = cls.setup_anndata
    start(reference, **({"labels_key": "cell_type"} if cls is TransAnno else {}))
    model = cls(reference, **small)
    monkeypatch.setattr(scvi.settings, "_seed", None)
    with pytest.raises(ValueError, match="Training in 2 processes without a seed"):
        model.train(1, accelerator="cpu", devices=2, strategy="ddp")
    assert not model.is_trained
