"""Time and peak memory of `tl.annotate` on queries on disk of 30,000 to 1,000,000 cells.

Queries are made from real cells, drawn with replacement and thinned, so that no two are alike, and are kept in a temporary folder for
the next run. Every one is annotated in a process of its own; what imports and a first small query take is in memory before.
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

from benchmarks._data import LABEL, RESULTS, load_pair, markdown_table, read_pairs, run_info, write_results
from benchmarks.memory import GIB, PAIR, _n_obs, _reset_peak, _status, make_reference

_ABOUT = (
    '`tl.annotate(query, model=...)` of queries opened with `backed="r"`. Above: peak of the process minus what it held before, '
    "which imports, the model and a first small query are part of. Refined: with the defaults; else `refine=False`."
)
_N_TRAINED, _SEED = 6_000, 1


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks scale", description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", type=int, default=[30_000, 100_000, 300_000], metavar="N")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR")
    given = parser.parse_args(arguments)
    info = run_info(["scale", *arguments], packages=["transanno", "scvi-tools", "torch", "anndata", "pynndescent"])
    folder = Path(tempfile.gettempdir()) / "transanno-benchmark-scale"
    folder.mkdir(exist_ok=True)
    rows = []
    for n_cells in given.cells:
        path = folder / f"{n_cells}.h5ad"
        if not path.exists():
            unfinished = path.with_suffix(".part")
            make_reference(unfinished, n_cells, seed=_SEED)
            unfinished.replace(path)
        for refine in (False, True):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                rows.append(pool.submit(measure, path, _model(folder), refine).result())
            print(rows[-1], file=sys.stderr, flush=True)
    write_results("scale", given.out, info, [_ABOUT, _table(rows)], {"rows": rows})
    return 0


def _model(folder: Path) -> Path:
    """-> folder of a model of some of the cells that queries are drawn from, trained once."""
    import transanno

    path = folder / "model"
    if not path.exists():
        reference = load_pair(read_pairs()[PAIR])[0]
        reference = reference[:: max(1, reference.n_obs // _N_TRAINED)].copy()
        options: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}
        transanno.tl.fit_reference(reference, LABEL, **options).save(path)
    return path


def measure(path: Path, model: Path, refine: bool) -> dict[str, Any]:
    """Annotate a file -> how long it took, and how much memory above what there was before."""
    import pynndescent  # noqa: F401  of large queries, and slow to import

    import transanno

    warnings.simplefilter("ignore")
    trained = transanno.TransAnno.load(model, False, accelerator="cpu")
    small = ad.read_h5ad(path, backed="r")[:: max(1, _n_obs(path) // 600)].to_memory()
    transanno.tl.annotate(small, model=trained, accelerator="cpu", refine=refine)
    query = ad.read_h5ad(path, backed="r")
    _reset_peak()
    before, start = _status("VmRSS"), time.perf_counter()
    query_model = transanno.tl.annotate(query, model=trained, accelerator="cpu", refine=refine)
    seconds, peak = time.perf_counter() - start, _status("VmHWM")
    return {
        "n_cells": query.n_obs,
        "n_genes": query.n_vars,
        "n_model_genes": len(trained.genes),
        "file_gib": path.stat().st_size / GIB,
        "refined": refine,
        "streamed": query_model.adata.n_obs < query.n_obs,
        "seconds": seconds,
        "cells_per_second": query.n_obs / seconds,
        "before_gib": before,
        "above_gib": peak - before,
        "accuracy": float((query.obs["transanno"].astype(str) == query.obs[LABEL].astype(str)).mean()),
    }


def _table(rows: list[dict[str, Any]]) -> str:
    header = [
        "cells",
        "genes",
        "file, GiB",
        "counts",
        "refined",
        "seconds",
        "cells/s",
        "process before, GiB",
        "above, GiB",
    ]
    table = [
        [
            f"{row['n_cells']:,}", f"{row['n_genes']:,}", f"{row['file_gib']:.2f}",
            "stay on disk" if row["streamed"] else "read into memory", "yes" if row["refined"] else "no",
            f"{row['seconds']:.0f}", f"{row['cells_per_second']:,.0f}", f"{row['before_gib']:.2f}", f"{row['above_gib']:.2f}",
        ]
        for row in rows
    ]  # fmt: skip
    return markdown_table(header, table)
