"""Seconds and peak memory of ``pp.align_genes`` on a large sparse matrix, against 30 s and three times the matrix.

Every format runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from benchmarks._data import RESULTS, markdown_table, run_info, write_results

MAX_SECONDS, MAX_MEMORY = 30.0, 3.0
MISSING = 0.1
GIB = 2**30
PACKAGES = ("transanno", "anndata", "numpy", "scipy")
FORMATS = {"csr": sp.csr_matrix, "csc": sp.csc_matrix}


def make_matrix(layout: str, n_obs: int, n_vars: int, density: float) -> sp.csr_matrix | sp.csc_matrix:
    """Counts, with one value in every stretch of ``1 / density`` genes (CSR) or cells (CSC)."""
    n_major, n_minor = (n_obs, n_vars) if layout == "csr" else (n_vars, n_obs)
    stretch = round(1 / density)
    starts = np.arange(0, n_minor - stretch + 1, stretch, dtype=np.int32)
    rng = np.random.default_rng(0)
    # Filled in place: a peak while it is made would hide that of the alignment.
    indices, data = np.empty((n_major, len(starts)), np.int32), np.empty((n_major, len(starts)), np.float32)
    for row in range(n_major):
        indices[row] = starts + rng.integers(0, stretch, len(starts), dtype=np.int32)
        data[row] = rng.integers(1, 100, len(starts), dtype=np.int32)
    indptr = np.arange(n_major + 1, dtype=np.int32) * np.int32(len(starts))
    return FORMATS[layout]((data.ravel(), indices.ravel(), indptr), shape=(n_obs, n_vars))


def measure(layout: str, n_obs: int, n_vars: int, density: float) -> dict[str, Any]:
    """-> seconds, and bytes of the matrix and of the peak, which holds it and the result."""
    from transanno import pp

    genes = np.array([f"gene{i}" for i in range(n_vars)])
    rng = np.random.default_rng(1)
    n_missing = int(MISSING * n_vars)
    known = rng.permutation(genes)[n_missing:]
    vocabulary = rng.permutation([*known, *(f"new{i}" for i in range(n_missing))])
    before = _memory("VmRSS")
    matrix = make_matrix(layout, n_obs, n_vars, density)
    n_bytes = matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes
    adata = AnnData(matrix, obs=pd.DataFrame(index=np.arange(n_obs).astype(str)), var=pd.DataFrame(index=genes))
    peak_before = _memory("VmHWM")
    start, start_cpu = time.perf_counter(), time.process_time()
    aligned = pp.align_genes(adata, vocabulary)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    return {
        "format": layout,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "matrix_bytes": n_bytes,
        "peak_before_bytes": peak_before - before,
        "peak_bytes": _memory("VmHWM") - before,
        "n_stored": int(aligned.X.nnz),
        "n_missing": int(aligned.var["is_missing"].sum()),
    }


def _memory(key: str) -> int:
    """Resident memory of this process in bytes: VmRSS, now, or VmHWM, the largest so far."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[key].split()[0]) * 1024


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks align", description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--genes", type=int, default=17_000)
    parser.add_argument("--density", type=float, default=0.05)
    parser.add_argument("--check", action="store_true", help="exit with 1 when a bar is missed")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for align.md and align.json")
    arguments = parser.parse_args(argv)
    info = run_info(["align", *(argv or [])], packages=PACKAGES)
    results = []
    for layout in FORMATS:
        with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as process:
            run = process.submit(measure, layout, arguments.cells, arguments.genes, arguments.density)
            results.append(run.result())
    rows, passed = [], True
    for result in results:
        share = result["peak_bytes"] / result["matrix_bytes"]
        result["passed"] = result["seconds"] < MAX_SECONDS and share < MAX_MEMORY
        passed &= result["passed"]
        rows.append(
            [
                result["format"].upper(),
                f"{result['matrix_bytes'] / GIB:.2f}",
                f"{result['seconds']:.1f}",
                f"{result['cpu_seconds']:.1f}",
                f"{result['peak_bytes'] / GIB:.2f}",
                f"{share:.2f}",
                "passed" if result["passed"] else "missed",
            ]
        )
    about = (
        f"{arguments.cells:,} cells × {arguments.genes:,} genes, density {arguments.density:.0%}, float32; a vocabulary of "
        f"as many genes in another order, {MISSING:.0%} of which the data lack. The peak holds the matrix itself and the "
        f"result. On a busy machine seconds exceed CPU seconds, of which one core is used. Wanted: less than {MAX_SECONDS:.0f} s and less than {MAX_MEMORY:.0f} times the matrix."
    )
    columns = ["format", "matrix, GiB", "seconds", "CPU seconds", "peak, GiB", "peak / matrix", "bars"]
    write_results("align", arguments.out, info, [about, markdown_table(columns, rows)], {"results": results})
    return int(arguments.check and not passed)
