"""Small data with a real signal, models small enough to train in a tenth of a second, and nothing left behind."""

from __future__ import annotations

import tests.one_thread  # noqa: F401 - before what it is about is loaded

# isort: split
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import anndata as ad
import hypothesis
import matplotlib.pyplot as plt
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi
import torch

from transanno import TransAnno, TransAnnoPretrain
from transanno.training import _episodes

# The same examples in every run; `--hypothesis-profile=default` looks for new ones.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.load_profile("same")

# Unequal primes, so that a swapped axis shows.
N_OBS, N_QUERY, N_VARS = 97, 61, 53
GENES = [f"GENE{i:02d}" for i in range(N_VARS)]
TYPES = ["B cell", "NK cell", "T cell"]
BATCHES = ["batch1", "batch2", "batch3", "batch4"]
MIN_EPISODES = _episodes._MIN_EPISODES
SMALL = {"n_hidden": 16, "n_latent": 22, "n_networks": 2, "n_layers": 1, "n_heads": 2}
FAST = {"accelerator": "cpu", "devices": 1, "batch_size": 32, "enable_progress_bar": False}


def _start_afresh() -> None:
    """One seed, and one thread: matrices this small are slower with more, ten times so on a busy machine."""
    torch.set_num_threads(1)  # again and again, since some tests set another number
    if scvi.settings.seed != 0:  # only then, since it adds to an environment variable whenever it is set
        scvi.settings.seed = 0  # which decides how cells are split
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    """Every test starts from one seed. Fixtures that tests share are made before this, and start afresh themselves."""
    _start_afresh()


@pytest.fixture(autouse=True, scope="session")
def _short_epochs() -> Iterator[None]:
    """Few episodes in an epoch: most tests need a model that was trained, and not one that learned much."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_episodes, "_MIN_EPISODES", 6)
        yield


@pytest.fixture(scope="class")
def whole_epochs() -> Iterator[None]:
    """As many episodes in an epoch as users have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_episodes, "_MIN_EPISODES", MIN_EPISODES)
        yield


@pytest.fixture(autouse=True)
def _no_figure_stays_open() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def start_afresh() -> Callable[[], None]:
    """``start_afresh()`` in a fixture that tests share."""
    return _start_afresh


@pytest.fixture(scope="session")
def small() -> dict[str, int]:
    """Arguments of a small model."""
    return dict(SMALL)


@pytest.fixture(scope="session")
def fast() -> dict[str, Any]:
    """Arguments of a quick training run."""
    return dict(FAST)


def _profiles() -> np.ndarray:
    """Mean expression of every gene in every type; each type has eight marker genes."""
    rng = np.random.default_rng(42)
    mean = rng.gamma(1.0, 1.0, size=N_VARS)
    is_marker = np.zeros((len(TYPES), N_VARS), dtype=bool)
    for row, markers in zip(is_marker, rng.permutation(N_VARS)[: 8 * len(TYPES)].reshape(len(TYPES), 8), strict=True):
        row[markers] = True
    return mean * np.where(is_marker, 6.0, 1.0) + is_marker


def _make_adata(
    n_obs: int = N_OBS,
    *,
    seed: int = 0,
    batches: Sequence[str] = ("batch1", "batch2"),
    container: Callable = sp.csr_matrix,
    dtype: str = "float32",
) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    batch_effect = np.exp(0.3 * np.random.default_rng(7).normal(size=(len(BATCHES), N_VARS)))
    labels = np.r_[np.arange(min(n_obs, 3)), rng.choice(3, size=max(n_obs - 3, 0), p=[0.5, 0.3, 0.2])]
    batch = rng.integers(0, len(batches), size=n_obs)
    depth = rng.uniform(0.5, 2.0, size=(n_obs, 1))
    effect = batch_effect[[BATCHES.index(batches[code]) for code in batch]]
    counts = rng.poisson(depth * _profiles()[labels] * effect).astype(dtype)
    obs = pd.DataFrame(
        {"cell_type": np.array(TYPES)[labels], "batch": np.array(batches)[batch]},
        index=[f"cell{seed}_{i}" for i in range(n_obs)],
    )
    return ad.AnnData(container(counts), obs=obs, var=pd.DataFrame(index=GENES))


@pytest.fixture(scope="session")
def make_adata() -> Callable[..., ad.AnnData]:
    """Factory of labeled raw counts: ``make_adata(n_obs, seed=, batches=, container=, dtype=)``."""
    return _make_adata


@pytest.fixture
def reference() -> ad.AnnData:
    """97 labeled cells × 53 genes, three types, two batches."""
    return _make_adata()


@pytest.fixture
def query() -> ad.AnnData:
    """61 other cells × the same genes, the same batches."""
    return _make_adata(N_QUERY, seed=1)


@pytest.fixture
def new_batch_query() -> ad.AnnData:
    """61 other cells, one batch of the reference and one of their own."""
    return _make_adata(N_QUERY, seed=1, batches=("batch2", "batch3"))


def _make_mdata(n_obs: int = N_OBS, *, seed: int = 0, batches: Sequence[str] = ("batch1", "batch2")) -> mudata.MuData:
    """RNA and a protein modality with another number of features; labels and batches in ``mdata.obs``."""
    rna = _make_adata(n_obs, seed=seed, batches=batches)
    protein = ad.AnnData(
        np.random.default_rng(seed).poisson(3.0, size=(n_obs, 5)).astype("float32"),
        obs=pd.DataFrame(index=rna.obs_names),
        var=pd.DataFrame(index=[f"protein{i}" for i in range(5)]),
    )
    obs = rna.obs.copy()
    rna.obs = rna.obs[[]]
    # Version 0.3 warns that 0.4 will no longer copy columns of modalities; this is what 0.4 does.
    as_in_0_4 = mudata.set_options(pull_on_update=False) if hasattr(mudata, "set_options") else nullcontext()
    with as_in_0_4:
        mdata = mudata.MuData({"rna": rna, "protein": protein})
        for key in obs:
            mdata.obs[key] = obs[key].to_numpy()
    return mdata


@pytest.fixture(scope="session")
def make_mdata() -> Callable[..., mudata.MuData]:
    """Factory of MuData: ``make_mdata(n_obs, seed=, batches=)``."""
    return _make_mdata


@pytest.fixture(scope="session")
def saved_reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a trained reference model, made once."""
    _start_afresh()
    adata = _make_adata()
    TransAnno.setup_anndata(adata, "cell_type", batch_key="batch")
    model = TransAnno(adata, **SMALL)
    model.train(4, plan_kwargs={"lr": 5e-3}, **FAST)
    folder = tmp_path_factory.mktemp("saved") / "reference"
    model.save(folder)
    return folder


@pytest.fixture
def model(saved_reference: Path, reference: ad.AnnData) -> TransAnno:
    """Trained reference model of its own, on ``reference``."""
    return TransAnno.load(saved_reference, reference, accelerator="cpu")


@pytest.fixture(scope="session")
def saved_pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a pretrained model, made once."""
    _start_afresh()
    adata = _make_adata(seed=3)
    TransAnnoPretrain.setup_anndata(adata, batch_key="batch")
    model = TransAnnoPretrain(adata, **SMALL)
    model.train(3, **FAST)
    folder = tmp_path_factory.mktemp("saved") / "pretrained"
    model.save(folder)
    return folder


@pytest.fixture
def pretrained(saved_pretrained: Path) -> TransAnnoPretrain:
    """Pretrained model of its own, with its data."""
    return TransAnnoPretrain.load(saved_pretrained, _make_adata(seed=3), accelerator="cpu")


class _OriginalClassifier(torch.nn.Module):
    """The classifier of TransAnno-Net and scBERT, with the names its weights have in their checkpoints."""

    def __init__(self, n_tokens: int, n_hidden: int, n_labels: int) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(1, 1, (1, n_hidden))
        self.fc1 = torch.nn.Linear(n_tokens, 512)
        self.fc2 = torch.nn.Linear(512, 128)
        self.fc3 = torch.nn.Linear(128, n_labels)

    def forward(self, encodings: torch.Tensor) -> torch.Tensor:
        x = self.conv1(encodings[:, None]).relu().flatten(1)
        return self.fc3(self.fc2(self.fc1(x).relu()).relu())


# The original asserts that the width is a multiple of the number of heads; together they are wider than a token.
ORIGINAL = {"n_hidden": 33, "n_layers": 2, "n_heads": 3, "head_dim": 16, "n_features": 44}


def _make_original(n_vars: int, n_labels: int = 0) -> torch.nn.Module:
    """``performer-pytorch`` as TransAnno-Net configures it, but small and with random weights."""
    from performer_pytorch import PerformerLM

    original = PerformerLM(
        num_tokens=7,
        max_seq_len=n_vars + 1,
        dim=ORIGINAL["n_hidden"],
        depth=ORIGINAL["n_layers"],
        heads=ORIGINAL["n_heads"],
        dim_head=ORIGINAL["head_dim"],
        rotary_position_emb=False,
        attn_out_bias=True,
    )
    if n_labels:
        original.to_out = _OriginalClassifier(n_vars + 1, ORIGINAL["n_hidden"], n_labels)
    with torch.no_grad():
        for parameter in original.parameters():  # norms and biases, too, must not be what they start as
            parameter.add_(0.1 * torch.randn_like(parameter))
    return original.eval()


@pytest.fixture(scope="session")
def make_original() -> Callable[..., torch.nn.Module]:
    """Factory of the independent implementation: ``make_original(n_vars, n_labels=0)``."""
    return _make_original


@pytest.fixture(scope="session")
def original_sizes() -> dict[str, int]:
    """Arguments of the Performer that ``make_original`` makes."""
    return dict(ORIGINAL)


def _dense(matrix: Any) -> np.ndarray:
    if matrix is None:
        return np.zeros(0)
    if hasattr(matrix, "to_memory"):
        matrix = matrix.to_memory()
    return matrix.toarray() if sp.issparse(matrix) else np.asarray(matrix)


def _snapshot(adata: ad.AnnData) -> dict[str, Any]:
    """Everything a user can see of an AnnData, copied."""
    parts: dict[str, Any] = {
        "type(X)": type(adata.X).__name__,
        "dtype(X)": getattr(adata.X, "dtype", None),
        "X": _dense(adata.X).copy(),
        "obs_names": list(adata.obs_names),
        "var_names": list(adata.var_names),
        "var": adata.var.copy(),
        "uns": {key: repr(value) for key, value in adata.uns.items()},
        "is_view": adata.is_view,
        "isbacked": adata.isbacked,
    }
    for key in adata.obs:
        parts[f"obs[{key}]"] = adata.obs[key].copy()
    for name in ("layers", "obsm", "varm", "obsp"):
        for key in getattr(adata, name):
            if key is not None:
                parts[f"{name}[{key}]"] = _dense(getattr(adata, name)[key]).copy()
    if adata.raw is not None:
        parts["raw"] = _dense(adata.raw.X).copy()
        parts["raw.var_names"] = list(adata.raw.var_names)
    return parts


def _is_same(before: Any, after: Any) -> bool:
    if isinstance(before, np.ndarray):
        return before.dtype == after.dtype and np.array_equal(before, after)
    if isinstance(before, pd.DataFrame | pd.Series):
        return before.equals(after)
    return before == after


@pytest.fixture(scope="session")
def snapshot() -> Callable[[ad.AnnData], dict[str, Any]]:
    """``snapshot(adata)`` -> copy of all its parts, for ``changed``."""
    return _snapshot


@pytest.fixture(scope="session")
def changed() -> Callable[[dict[str, Any], ad.AnnData], set[str]]:
    """``changed(snapshot, adata)`` -> names of the parts that were added, lost or altered."""

    def compare(before: dict[str, Any], adata: ad.AnnData) -> set[str]:
        after = _snapshot(adata)
        names = before.keys() | after.keys()
        return {
            name for name in names if name not in before or name not in after or not _is_same(before[name], after[name])
        }

    return compare


@pytest.fixture
def local_hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder that stands for the Hugging Face Hub: ``organization/name`` is a folder in it."""
    package = pytest.importorskip("huggingface_hub", reason="huggingface_hub, the extra 'hub', is not installed")
    hub = tmp_path_factory.mktemp("hub")

    def create_repo(api: Any, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        (hub / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def upload_folder(api: Any, *, repo_id: str, folder_path: Path, commit_message: str) -> str:
        shutil.copytree(folder_path, hub / repo_id, dirs_exist_ok=True)
        return f"https://huggingface.co/{repo_id}/commit/1"

    def snapshot_download(repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        if not (hub / repo_id).is_dir():
            raise package.errors.LocalEntryNotFoundError("no network in tests")
        folder = tmp_path_factory.mktemp("download")
        for name in allow_patterns:
            if (hub / repo_id / name).is_file():
                shutil.copy(hub / repo_id / name, folder)
        return str(folder)

    monkeypatch.setattr(package.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(package.HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(package, "snapshot_download", snapshot_download)
    return hub
