"""What a user of Python sees: bars that say what they are, and warnings that concern them. Each fact once."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp

from transanno import TransAnno, TransAnnoWarning, tl

SESSION = """
import logging, sys, warnings
import anndata as ad
import torch
import transanno
from threadpoolctl import threadpool_info

def settings():
    names = [None, "scvi", "lightning.pytorch", "lightning.fabric", "transanno"]
    return warnings.filters[:], warnings.showwarning, [logging.getLogger(name).level for name in names]

def threads():
    return {each["filepath"]: each["num_threads"] for each in threadpool_info()} | {"torch": torch.get_num_threads()}

reference, query = ad.read_h5ad("reference.h5ad"), ad.read_h5ad("query.h5ad")
transanno.TransAnno  # what it loads changes settings of its own
before, threads_before = settings(), threads()
assert threads_before["torch"] == 1
options = {"batch_key": "batch", "max_epochs": 2, "accelerator": "cpu"}
model = transanno.tl.annotate(query, reference, labels_key="cell_type", **options)
model.save("model")
transanno.TransAnno.load("model", False, accelerator="cpu").predict(query)
query.obs["batch"] = "another"
query_model = transanno.TransAnno.load_query_data(query, "model")
query_model.train(1, accelerator="cpu", enable_progress_bar=False)
query_model.predict(refine=True)
assert settings() == before
assert threads_before.items() <= threads().items()  # numba sets them when it first runs something
"""


def test_a_session_prints_its_bars_and_leaves_settings_and_threads(make_adata, tmp_path) -> None:
    make_adata(307).write_h5ad(tmp_path / "reference.h5ad")
    make_adata(61, seed=1, batches=("batch3",)).write_h5ad(tmp_path / "query.h5ad")
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_NUM_THREADS"}
    run = subprocess.run(
        [sys.executable, "-c", SESSION], capture_output=True, text=True, cwd=tmp_path, timeout=300,
        env=environment | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    lines = [line for line in run.stdout.replace("\r", "\n").splitlines() if line]
    assert list(dict.fromkeys(line.split(":")[0] for line in lines)) == ["training 1/2", "calibration 2/2"]
    assert sum("100%" in line and "2/2 [" in line for line in lines) >= 2


def test_only_runs_that_follow_are_counted(reference, fast, capsys) -> None:
    """Too few cells for a twin."""
    shown = {**fast, "enable_progress_bar": True, "max_epochs": 1}
    tl.fit_reference(reference, "cell_type", **shown)
    assert "training: 100%" in capsys.readouterr().out
    tl.fit_reference(reference, "cell_type", calibrate=False, **shown)
    assert "training: 100%" in capsys.readouterr().out


class TestOneWarningPerFact:
    @pytest.fixture
    def damaged(self, make_adata):
        """Reference and query with several faults each."""
        reference, query = make_adata(307), make_adata(61, seed=1)
        reference.obs["batch"] = reference.obs["cell_type"]
        reference.obs["cell_type"] = reference.obs["cell_type"].where(np.arange(307) > 4)
        query.X = sp.csr_matrix(query.X.toarray() * (np.arange(61) > 4)[:, None])
        query.var_names = query.var_names.str.lower()
        sc.pp.normalize_total(reference, target_sum=1e4)
        sc.pp.log1p(reference)
        return reference, query

    def test_annotate(self, damaged, fast) -> None:
        reference, query = damaged
        with pytest.warns(TransAnnoWarning) as caught:
            tl.annotate(query, reference, labels_key="cell_type", batch_key="batch", max_epochs=1, **fast)
        told = [str(warning.message) for warning in caught]
        facts = ["holds no raw counts", "have no value", "nearly coincide", "without regard to case", "have no count"]
        assert [sum(fact in message for message in told) for fact in facts] == [1] * len(facts), told

    def test_cross_validate(self, damaged, fast) -> None:
        reference, _ = damaged
        with pytest.warns(TransAnnoWarning) as caught:
            tl.cross_validate(reference, "cell_type", batch_key="batch", n_splits=3, max_epochs=1, **fast)
        told = [str(warning.message) for warning in caught]
        assert sum("nearly coincide" in message for message in told) == 1, told
        assert sum("holds no raw counts" in message for message in told) <= 2, told  # of reference and held-out cells

    def test_setup_train_and_predict(self, damaged, fast) -> None:
        reference, _ = damaged
        reference.X = sp.csr_matrix(np.round(np.expm1(reference.X.toarray())))
        with pytest.warns(TransAnnoWarning) as caught:
            TransAnno.setup_anndata(reference, labels_key="cell_type")
            model = TransAnno(reference)
            model.train(1, **fast)
            model.predict()
        assert len([warning for warning in caught if "have no value" in str(warning.message)]) == 1
