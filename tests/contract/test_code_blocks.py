"""Every Python block of the README, the guide and the tutorials, and every example of a docstring, runs as it is printed.

The blocks of a page run one after the other, in one namespace that starts with the objects that pages speak of. Models are made of
few passes over few cells.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
import torch

import transanno
from transanno import TransAnno, TransAnnoPretrain, presets

ROOT = Path(__file__).parents[2]
# What is printed there are steps inside the package, of which each has a test of its own.
_NOT_RUN = {"docs/architecture.md"}
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "tutorials").glob("*.md"))
    if "```python" in path.read_text(encoding="utf-8") and path.relative_to(ROOT).as_posix() not in _NOT_RUN
)


def examples() -> dict[str, str]:
    """-> source of the examples of every docstring of the package that has some, by name."""
    found = {}
    for info in pkgutil.walk_packages(transanno.__path__, "transanno."):
        if info.name.startswith("transanno.jax") and find_spec("jax") is None:
            continue
        module = importlib.import_module(info.name)
        found |= {test.name: test for test in doctest.DocTestFinder().find(module, info.name) if test.examples}
    return {name: "".join(example.source for example in test.examples) for name, test in found.items()}


EXAMPLES = examples()

pytestmark = pytest.mark.filterwarnings("ignore")  # of tiny data, and of other packages' plots


@pytest.fixture(scope="module")
def files(make_adata, make_original, start_afresh, tmp_path_factory) -> Path:
    """Folder with files of the names that pages read."""
    start_afresh()
    folder = tmp_path_factory.mktemp("pages")
    reference, query = with_columns(make_adata(401)), with_columns(make_adata(61, seed=1))
    reference.write_h5ad(folder / "reference.h5ad")
    query.write_h5ad(folder / "query.h5ad")
    quiet = {"accelerator": "cpu", "enable_progress_bar": False}
    transanno.tl.fit_reference(reference, "cell_type", max_epochs=8, **quiet).save(folder / "model")
    (folder / "genes.txt").write_text("\n".join(reference.var_names), encoding="utf-8")
    for name, n_labels in (("finetune_best.pth", 2), ("pretrain.pth", 0)):
        weights = make_original(reference.n_vars, n_labels).state_dict()
        torch.save({"model_state_dict": weights}, folder / name)
    if find_spec("jax") is not None:
        TransAnno.load(folder / "model", False, accelerator="cpu").export(folder / "exported")
    return folder


@pytest.fixture
def namespace(files, make_adata, make_mdata, tmp_path, monkeypatch, request) -> Iterator[dict[str, Any]]:
    """Objects of the names that pages use, in a folder with a copy of the files; a folder stands for the Hub."""
    (tmp_path / "models.toml").write_text(
        '[blood]\nfolder = "model"\n', encoding="utf-8"
    )  # which knows the cells' genes
    monkeypatch.setenv("TRANSANNO_MODELS", str(tmp_path / "models.toml"))
    if find_spec("huggingface_hub") is not None:
        request.getfixturevalue("local_hub")
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for cls in (TransAnno, TransAnnoPretrain):
        monkeypatch.setattr(cls, "train", briefly(cls.train))
    monkeypatch.setattr(presets, "PAPER", smaller(presets.PAPER))
    reference, query = (ad.read_h5ad(f"{name}.h5ad") for name in ("reference", "query"))
    model = transanno.tl.annotate(query, model="model")
    cells = model._registered_cells()
    served = {}
    if find_spec("jax") is not None:
        served = {"predictor": importlib.import_module("transanno.jax").load_predictor("exported")}
    yield {
        **served,
        "counts": cells.counts.rows(np.arange(query.n_obs)).toarray(),
        "y": np.arange(query.n_obs) % 3,
        "n_classes": 3,
        "transanno": transanno,
        "sc": sc,
        "reference": reference,
        "query": query,
        "atlas": with_columns(make_adata(89, seed=2)),
        "adata": deep_cells(),
        "lung": deep_cells(seed=1),
        "trachea": deep_cells(seed=2),
        "mdata": make_mdata(),
        "model": model,
        "query_model": model,
    }
    plt.close("all")


def with_columns(cells: ad.AnnData) -> ad.AnnData:
    """-> cells with donors and clusters, and one that a page names."""
    third, half = (np.arange(cells.n_obs) % n for n in (3, 2))
    cells.obs["donor"] = np.array(["donor1", "donor2", "donor3"])[third]
    cells.obs["leiden"] = np.array(["5", "6"])[half]
    cells.obs_names = ["AAACCTGAGCAT-1", *cells.obs_names[1:]]
    return cells


def deep_cells(seed: int = 0) -> ad.AnnData:
    """-> cells that pass quality control."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(1.0, 2.0, size=503), size=(83, 503)).astype("float32")
    half = np.arange(83) < 41
    obs = {"batch": np.where(half, "a", "b"), "donor": np.where(half, "d", "e")}
    obs["cell_type"] = np.where(np.arange(83) % 2, "B cell", "T cell")
    names = [f"cell{seed}_{i}" for i in range(83)]
    return ad.AnnData(
        sp.csr_matrix(counts),
        obs=pd.DataFrame(obs, index=names),
        var=pd.DataFrame(index=[f"GENE{i}" for i in range(503)]),
    )


def smaller(preset: presets.Preset) -> presets.Preset:
    """-> the same settings but for what makes them slow."""
    steps = {"batch_size": 32, "accumulate_grad_batches": 1}
    return replace(
        preset,
        model={**preset.model, "n_layers": 1, "n_hidden": 20},
        pretrain={**preset.pretrain, **steps},
        finetune={**preset.finetune, **steps},
    )


def briefly(train):
    """``train``, which takes a few steps whatever it is told; arguments that it does not have are errors, as ever."""

    @wraps(train)
    def train_briefly(*args, **kwargs):
        given = inspect.signature(train).bind(*args, **kwargs)
        given.arguments["max_epochs"] = 1
        return train(*given.args, **{"limit_train_batches": 3, **given.kwargs})

    return train_briefly


@pytest.mark.parametrize("page", PAGES)
def test_page(page, namespace):
    text = (ROOT / page).read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        run(block, page, namespace)


@pytest.mark.parametrize("name", EXAMPLES)
def test_docstring(name, namespace):
    run(EXAMPLES[name], name, namespace)


def run(code: str, name: str, namespace: dict[str, Any]) -> None:
    if "jax" in code or "predictor" in code:
        pytest.importorskip("jax", reason="jax, the extra 'jax', is not installed")
    if "_hub(" in code.replace("from_hub(", ""):
        pytest.importorskip("huggingface_hub", reason="huggingface_hub, the extra 'hub', is not installed")
    if "import optax" in code and find_spec("optax") is None:  # no extra brings it; tests/unit/jax runs these lines
        return
    if "read_lazy" in code:
        for package in ("dask", "distributed", "xarray"):
            pytest.importorskip(package, reason=f"{package}, of the extra 'dask', is not installed")
    for method, folder in (("save", "model"), ("export", "exported")):
        if f'.{method}("{folder}/")' in code:
            shutil.rmtree(folder)  # which other pages read
    exec(compile(code, name, "exec"), namespace)
