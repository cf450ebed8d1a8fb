"""Make saved_model_format4/, a small model as it is saved, some counts, and what the model says about them.

Run with Python 3.11 and scvi-tools 1.4.2, only when the format or the network has changed on purpose:

    python tests/golden/make_saved_model.py
"""

from __future__ import annotations

import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scvi

from transanno import TransAnno

FOLDER = Path(__file__).parent / "saved_model_format4"
N_OBS, N_QUERY, N_VARS = 83, 19, 31
TYPES = np.array(["alpha", "beta", "delta"])


def make_cells(n_obs: int, rng: np.random.Generator, profiles: np.ndarray) -> ad.AnnData:
    """Counts with eight genes that mark each type."""
    labels = rng.integers(0, len(TYPES), size=n_obs)
    counts = rng.poisson(rng.uniform(0.5, 2.0, size=(n_obs, 1)) * profiles[labels])
    obs = {"cell_type": TYPES[labels], "batch": np.array(["batch1", "batch2"])[rng.integers(0, 2, size=n_obs)]}
    return ad.AnnData(
        counts.astype("float32"),
        obs=pd.DataFrame(obs, index=[f"cell{i}" for i in range(n_obs)]),
        var=pd.DataFrame(index=[f"GENE{i:02d}" for i in range(N_VARS)]),
    )


def main() -> None:
    """Train, save, predict."""
    if scvi.__version__ != "1.4.2":
        raise SystemExit(f"scvi-tools is {scvi.__version__}; this fixture has to come from 1.4.2.")
    rng = np.random.default_rng(0)
    profiles = rng.gamma(1.0, 1.0, size=N_VARS) * np.where(rng.random((len(TYPES), N_VARS)) < 0.25, 6.0, 1.0)
    reference, query = make_cells(N_OBS, rng, profiles), make_cells(N_QUERY, rng, profiles)
    scvi.settings.seed = 0
    TransAnno.setup_anndata(reference, "cell_type", batch_key="batch")
    model = TransAnno(reference, n_hidden=8, n_latent=10, n_networks=2, n_layers=1, n_heads=2)
    model.train(5, batch_size=32, plan_kwargs={"lr": 5e-3}, accelerator="cpu", enable_progress_bar=False)
    frame = model.predict(query, soft=True)

    shutil.rmtree(FOLDER, ignore_errors=True)
    model.save(FOLDER / "model")
    np.savez_compressed(
        FOLDER / "expected.npz",
        counts=query.X.astype("uint16"),
        batch=query.obs["batch"].to_numpy().astype("U"),
        obs_names=query.obs_names.to_numpy().astype("U"),
        genes=query.var_names.to_numpy().astype("U"),
        classes=frame.columns.to_numpy().astype("U"),
        probabilities=frame.to_numpy(),
        latent=model.get_latent_representation(query),
    )
    accuracy = (model.predict(query) == query.obs["cell_type"].to_numpy()).mean()
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    print(f"accuracy {accuracy:.2f}, {size / 1000:.0f} kB in {FOLDER.name}")


if __name__ == "__main__":
    main()
