"""Peak memory of `fit_reference` above the data: at most the counts of the model's genes, once, and 1 GiB.

References are made on disk from real cells, drawn with replacement and thinned, so that no two are alike. Every one is
trained on in a process of its own, its twin for calibration included; what the imports take is in memory before.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.io import sparse_dataset, write_elem

from benchmarks._data import LABEL, RESULTS, load_pair, markdown_table, read_pairs, run_info, write_results

PAIR = "P2_zheng_pbmc3k"
GIB, ALLOWED = 2**30, 1.0
_ABOUT = (
    "`tl.fit_reference`, calibration by a twin included. Above: peak of the process minus what it held before. Allowed: the "
    "counts of the model's genes, once, and 1 GiB."
)
_BLOCK = 10_000


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks memory", description=__doc__.splitlines()[0])
    parser.add_argument("--n-cells", nargs="+", type=int, default=[30_000, 100_000], metavar="N")
    parser.add_argument("--max-epochs", type=int, default=None, metavar="N", help="default: that of the package")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR")
    given = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n_cells in given.n_cells:
            path = Path(folder) / f"{n_cells}.h5ad"
            make_reference(path, n_cells, seed=0)
            for backed in (False, True):
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                    rows.append(pool.submit(measure, path, backed, given.max_epochs).result())
                print(rows[-1], file=sys.stderr, flush=True)
            path.unlink()
    info = run_info(["memory", *arguments], packages=["transanno", "scvi-tools", "torch", "anndata", "scipy"])
    write_results("memory", given.out, info, [_ABOUT, _table(rows)], {"rows": rows})
    return int(not all(row["holds"] for row in rows))


def make_reference(path: Path, n_cells: int, *, seed: int) -> None:
    """Draw and thin cells of a real data set -> h5ad file, written a block of cells at a time."""
    source = load_pair(read_pairs()[PAIR])[0]
    counts, rng = sp.csr_matrix(source.X), np.random.default_rng(seed)
    drawn = np.sort(rng.integers(0, source.n_obs, n_cells))
    obs = pd.DataFrame(
        {LABEL: source.obs[LABEL].astype(str).to_numpy()[drawn]}, index=[f"c{i}" for i in range(n_cells)]
    )
    obs[LABEL] = obs[LABEL].astype("category")
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        for start in range(0, n_cells, _BLOCK):
            block = counts[drawn[start : start + _BLOCK]].astype(np.float32)
            kept = np.repeat(rng.uniform(0.6, 1.0, block.shape[0]), np.diff(block.indptr))
            block.data = rng.binomial(block.data.astype(int), kept).astype(np.float32)
            block.eliminate_zeros()
            if start == 0:
                write_elem(file, "X", block)
            else:
                sparse_dataset(file["X"]).append(block)
        write_elem(file, "obs", obs)
        write_elem(file, "var", pd.DataFrame(index=source.var_names.astype(str)))
        for name in ("uns", "obsm", "varm", "obsp", "varp", "layers"):
            write_elem(file, name, {})


def measure(path: Path, backed: bool, max_epochs: int | None) -> dict[str, Any]:
    """Train on a file, in memory or on disk -> what it took above the data."""
    import transanno

    warnings.simplefilter("ignore")
    options: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}
    small = ad.read_h5ad(path, backed="r")[:: max(1, _n_obs(path) // 600)].to_memory()
    transanno.tl.fit_reference(small, LABEL, max_epochs=1, **options)  # imports and compiled functions
    reference = ad.read_h5ad(path, backed="r" if backed else None)
    _reset_peak()
    before, start = _status("VmRSS"), time.perf_counter()
    model = transanno.tl.fit_reference(reference, LABEL, max_epochs=max_epochs, **options)
    seconds, peak = time.perf_counter() - start, _status("VmHWM")
    chosen = model.adata.X
    counts = (chosen.data.nbytes + chosen.indices.nbytes + chosen.indptr.nbytes) / GIB
    above = peak - before
    return {
        "n_cells": reference.n_obs,
        "n_genes": reference.n_vars,
        "backed": backed,
        "data_gib": before,
        "counts_gib": counts,
        "above_gib": above,
        "allowed_gib": counts + ALLOWED,
        "holds": bool(above <= counts + ALLOWED),
        "seconds": seconds,
        "calibrated": model.calibration_ is not None,
    }


def _n_obs(path: Path) -> int:
    with h5py.File(path) as file:
        return int(file["X"].attrs["shape"][0])


def _reset_peak() -> None:
    """Let the peak of this process's memory start from what it is now."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> float:
    """-> a line of Linux' account of this process, in GiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024 / GIB


def _table(rows: list[dict[str, Any]]) -> str:
    header = [
        "cells",
        "genes",
        "data",
        "process before, GiB",
        "counts of the model's genes, GiB",
        "above, GiB",
        "allowed",
        "seconds",
    ]
    table = [
        [
            f"{row['n_cells']:,}", f"{row['n_genes']:,}", "on disk" if row["backed"] else "in memory", f"{row['data_gib']:.2f}",
            f"{row['counts_gib']:.2f}", f"{row['above_gib']:.2f}", f"{row['allowed_gib']:.2f}", f"{row['seconds']:.0f}",
        ]
        for row in rows
    ]  # fmt: skip
    return markdown_table(header, table)
