"""Time and peak memory of queries and references on disk of 30,000 to 1,000,000 cells, beside CellTypist and scANVI.

Cells are real ones, drawn with replacement and thinned, so that no two are alike; the files are kept in a temporary folder for the next
run. Everything is measured in a process of its own; what imports and a first small run take is in memory before.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import anndata as ad
from anndata import AnnData

from benchmarks._data import LABEL, RESULTS, load_pair, markdown_table, read_pairs, run_info, write_results
from benchmarks.memory import GIB, PAIR, _n_obs, _reset_peak, _status, make_reference
from benchmarks.memory import measure as measure_reference
from benchmarks.speed import mend_celltypist

_ABOUT = {
    "query": '`tl.annotate(query, model=...)` of queries opened with `backed="r"`. Refined: with the defaults; else `refine=False`.',
    "cluster": (
        "`tl.annotate(query, model=..., refine=False)` of queries opened with `read_lazy`, while a `distributed.Client` of two workers with "
        "one thread each, on the same two cores, is active; and without one. Memory is that of the session, without the workers'."
    ),
    "reference": (
        "`tl.fit_reference`, calibration by a twin included, with as many epochs as the table says; by default five from 80,000 cells on."
    ),
    "peers": (
        "The same cells, with the genes of the transanno model, all of them in memory. CellTypist: reading, normalization and `annotate` "
        "without majority voting. scANVI: one epoch of scVI and one of scANVI were run, and **extrapolated** to the numbers of epochs that "
        "scvi-tools takes by default. CellTypist was trained on the cells that the transanno model was, scANVI on those of the row."
    ),
}
_ABOVE = (
    "Above: peak of the process minus what it held before, which imports, the model and a first small run are part of."
)
_N_TRAINED, _SEED = 6_000, 1
# What a row says of the run that it is of.
_RUN = ("command", "date", "load_before")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks scale", description=__doc__.splitlines()[0])
    parser.add_argument("--what", choices=_ABOUT, default="query", help="default: query")
    parser.add_argument("--cells", nargs="+", type=int, default=[30_000, 100_000, 300_000], metavar="N")
    parser.add_argument(
        "--places", nargs="+", choices=["memory", "disk"], default=["memory", "disk"], help="of references"
    )
    parser.add_argument(
        "--max-epochs", type=int, default=None, metavar="N", help="of references; default: that of the package"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR")
    given = parser.parse_args(arguments)
    packages = ["transanno", "scvi-tools", "torch", "anndata", "pynndescent", "celltypist", "dask", "distributed"]
    info = run_info(["scale", *arguments], packages=packages)
    folder = Path(tempfile.gettempdir()) / "transanno-benchmark-scale"
    folder.mkdir(exist_ok=True)
    name, rows = "scale" if given.what == "query" else f"scale_{given.what}", []
    for n_cells in given.cells:
        path = folder / f"{n_cells}.h5ad"
        if not path.exists():
            unfinished = path.with_suffix(".part")
            make_reference(unfinished, n_cells, seed=_SEED)
            unfinished.replace(path)
        for function, *options in _runs(given, folder):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                rows.append(pool.submit(function, path, *options).result())
            print(rows[-1], file=sys.stderr, flush=True)
            rows[-1] |= {key: info[key] for key in _RUN}
            report(name, given.what, given.out, info, rows)
    plot(given.out)
    return 0


def report(name: str, what: str, folder: Path, info: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write these rows, and those of earlier runs that they do not repeat."""
    path = folder / f"{name}.json"
    earlier = json.loads(path.read_text()) if path.exists() else {"rows": []}
    of_all = {_measured(row): {**{key: earlier[key] for key in _RUN}, **row} for row in earlier["rows"]}
    of_all |= {_measured(row): row for row in rows}
    shown = [of_all[key] for key in sorted(of_all, key=lambda key: (int(key[1]), key))]
    runs = dict.fromkeys(
        f"- `{row['command']}`, {row['date']}, load average before {row['load_before']}" for row in shown
    )
    listed = "\n".join(["Rows of these runs:", "", *runs])
    write_results(name, folder, info, [f"{_ABOUT[what]} {_ABOVE}", listed, _table(shown)], {"rows": shown})


def _measured(row: dict[str, Any]) -> tuple[str, ...]:
    """-> what a row is of."""
    return tuple(str(row.get(key, "")) for key in ("what", "n_cells", "epochs", "counts", "refined", "workers"))


def _runs(given: argparse.Namespace, folder: Path) -> list[tuple[Any, ...]]:
    """-> functions of a file's path, and their further arguments."""
    if given.what == "query":
        return [(measure, _model(folder), refine) for refine in (False, True)]
    if given.what == "cluster":
        return [(measure_on_cluster, _model(folder), n_workers) for n_workers in (0, 2)]
    if given.what == "peers":
        return [(measure_celltypist, _model(folder)), (measure_scanvi, _model(folder))]
    return [(_reference, place == "disk", given.max_epochs) for place in given.places]


def _model(folder: Path) -> Path:
    """-> folder of a model of some of the cells that queries are drawn from, trained once."""
    import transanno

    path = folder / "model"
    if not path.exists():
        options: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}
        transanno.tl.fit_reference(_trained_on(), LABEL, **options).save(path)
    return path


def _trained_on() -> AnnData:
    reference = load_pair(read_pairs()[PAIR])[0]
    return reference[:: max(1, reference.n_obs // _N_TRAINED)].copy()


def _timed(path: Path, run: Callable[[], Any], **about: Any) -> tuple[dict[str, Any], Any]:
    """-> how long it took, and how much memory above what there was before; and what it gave."""
    _reset_peak()
    before, start = _status("VmRSS"), time.perf_counter()
    given = run()
    seconds, n_cells = time.perf_counter() - start, _n_obs(path)
    row = {
        "n_cells": n_cells, "file_gib": path.stat().st_size / GIB, **about, "seconds": seconds, "cells_per_second": n_cells / seconds,
        "before_gib": before, "above_gib": _status("VmHWM") - before,
    }  # fmt: skip
    return row, given


def _accuracy(query: AnnData, predicted: Any) -> float:
    return float((query.obs[LABEL].to_numpy().astype(str) == predicted.astype(str)).mean())


def measure(path: Path, model: Path, refine: bool) -> dict[str, Any]:
    """Annotate a file."""
    import pynndescent  # noqa: F401  of large queries, and slow to import

    import transanno

    warnings.simplefilter("ignore")
    trained = transanno.TransAnno.load(model, False, accelerator="cpu")
    small = ad.read_h5ad(path, backed="r")[:: max(1, _n_obs(path) // 600)].to_memory()
    transanno.tl.annotate(small, model=trained, accelerator="cpu", refine=refine)
    query = ad.read_h5ad(path, backed="r")
    row, query_model = _timed(
        path, lambda: transanno.tl.annotate(query, model=trained, accelerator="cpu", refine=refine)
    )
    place = "stay on disk" if query_model.adata.n_obs < query.n_obs else "read into memory"
    accuracy = _accuracy(query, query.obs["transanno"].to_numpy())
    return {"what": "transanno", **row, "counts": place, "refined": refine, "accuracy": accuracy}


def measure_on_cluster(path: Path, model: Path, n_workers: int) -> dict[str, Any]:
    """Annotate a lazy query with so many workers; none: in this process."""
    from contextlib import ExitStack

    import distributed

    import transanno

    warnings.simplefilter("ignore")
    trained = transanno.TransAnno.load(model, False, accelerator="cpu")
    options: dict[str, Any] = {"model": trained, "accelerator": "cpu", "refine": False}
    transanno.tl.annotate(ad.read_h5ad(path, backed="r")[:600].to_memory(), **options)
    query = ad.experimental.read_lazy(path)
    with ExitStack() as stack:
        if n_workers:
            cluster = distributed.LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address=":0")
            client = stack.enter_context(distributed.Client(stack.enter_context(cluster)))
            client.run(__import__, "transanno")
        row, _ = _timed(path, lambda: transanno.tl.annotate(query, **options))
    accuracy = _accuracy(query, query.obs["transanno"].to_numpy())
    return {"what": "transanno", **row, "workers": n_workers, "accuracy": accuracy}


def _reference(path: Path, on_disk: bool, max_epochs: int | None) -> dict[str, Any]:
    """Train on a file."""
    found = measure_reference(path, on_disk, max_epochs)
    seconds = {"seconds": found["seconds"], "cells_per_second": found["n_cells"] / found["seconds"]}
    place = {
        "file_gib": path.stat().st_size / GIB,
        "counts": "on disk" if on_disk else "in memory",
        "epochs": max_epochs,
    }
    memory = {"before_gib": found["data_gib"], "above_gib": found["above_gib"]}
    return {"what": "transanno", "n_cells": found["n_cells"], **place, **seconds, **memory}


def measure_celltypist(path: Path, model: Path) -> dict[str, Any]:
    """Annotate a file with CellTypist."""
    import celltypist
    import scanpy as sc

    import transanno

    warnings.simplefilter("ignore")
    mend_celltypist(celltypist)
    genes = transanno.TransAnno.load(model, False, accelerator="cpu").genes

    def normalized(adata: AnnData) -> AnnData:
        adata = adata[:, genes].copy()  # CellTypist wants 10,000 counts of the genes that it is given
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
        return adata

    trained = celltypist.train(normalized(_trained_on()), labels=LABEL, n_jobs=1, feature_selection=False)
    small = ad.read_h5ad(path, backed="r")[:: max(1, _n_obs(path) // 600)].to_memory()
    celltypist.annotate(normalized(small), model=trained)
    row, result = _timed(path, lambda: celltypist.annotate(normalized(ad.read_h5ad(path)), model=trained))
    accuracy = _accuracy(ad.read_h5ad(path, backed="r"), result.predicted_labels["predicted_labels"].to_numpy())
    return {"what": "CellTypist, annotation", **row, "counts": "read into memory", "accuracy": accuracy}


def measure_scanvi(path: Path, model: Path) -> dict[str, Any]:
    """Train an epoch of scVI and one of scANVI on a file -> what the default numbers of epochs would take."""
    import scvi
    from scvi.model._utils import get_max_epochs_heuristic

    import transanno

    warnings.simplefilter("ignore")
    scvi.settings.seed = 0
    genes = transanno.TransAnno.load(model, False, accelerator="cpu").genes
    options: dict[str, Any] = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
    seconds: dict[str, float] = {}

    def train(name: str, trained: Any) -> Any:
        start = time.perf_counter()
        trained.train(**options)
        seconds[name] = time.perf_counter() - start
        return trained

    def fit() -> None:
        reference = ad.read_h5ad(path)[:, genes].copy()
        scvi.model.SCVI.setup_anndata(reference, labels_key=LABEL)
        first = train("scVI", scvi.model.SCVI(reference))
        train("scANVI", scvi.model.SCANVI.from_scvi_model(first, unlabeled_category="Unknown"))

    row, _ = _timed(path, fit)
    epochs = {"scVI": get_max_epochs_heuristic(row["n_cells"])}
    epochs["scANVI"] = int(min(10, max(2, round(epochs["scVI"] / 3.0))))
    extrapolated = sum(epochs[name] * seconds[name] for name in epochs)
    said = f"{epochs['scVI']} of scVI, {epochs['scANVI']} of scANVI: extrapolated from one each, {row['seconds']:.0f} s with reading"
    row |= {"seconds": extrapolated, "cells_per_second": row["n_cells"] / extrapolated}
    return {"what": "scANVI, training", **row, "counts": "read into memory", "epochs": said, "of_one_epoch": seconds}


_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "what": ("method", str),
    "n_cells": ("cells", "{:,}".format),
    "file_gib": ("file, GiB", "{:.2f}".format),
    "counts": ("counts", str),
    "refined": ("refined", lambda refined: "yes" if refined else "no"),
    "workers": ("workers", lambda n: str(n) if n else "none"),
    "epochs": ("epochs", lambda epochs: "default" if epochs is None else str(epochs)),
    "seconds": ("seconds", "{:,.0f}".format),
    "cells_per_second": ("cells/s", "{:,.0f}".format),
    "before_gib": ("process before, GiB", "{:.2f}".format),
    "above_gib": ("above, GiB", "{:.2f}".format),
}


def _table(rows: list[dict[str, Any]]) -> str:
    used = {key: column for key, column in _COLUMNS.items() if any(key in row for row in rows)}
    table = [[shown(row[key]) if key in row else "" for key, (_, shown) in used.items()] for row in rows]
    return markdown_table([name for name, _ in used.values()], table)


def plot(folder: Path) -> None:
    """Time and memory against cells, of all results that are there -> ``scale.png``."""
    from matplotlib.figure import Figure

    lines: dict[str, list[dict[str, Any]]] = {}
    for name in ("scale", "scale_reference", "scale_peers", "scale_cluster"):
        path = folder / f"{name}.json"
        for row in json.loads(path.read_text())["rows"] if path.exists() else []:
            lines.setdefault(_line(name, row), []).append(row)
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    axes = figure.subplots(1, 2)
    for label, rows in lines.items():
        rows = sorted(rows, key=lambda row: row["n_cells"])
        style = "--" if "extrapolated" in label else "-"
        for ax, key in zip(axes, ("seconds", "above_gib"), strict=True):
            ax.plot([row["n_cells"] for row in rows], [row[key] for row in rows], style, marker="o", label=label)
    for ax, title in zip(axes, ("seconds", "memory above what the process held, GiB"), strict=True):
        ax.set(xscale="log", yscale="log", xlabel="cells", title=title)
    axes[1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    figure.savefig(folder / "scale.png", dpi=130)


def _line(name: str, row: dict[str, Any]) -> str:
    if name == "scale":
        return f"annotate from disk, {'refined' if row['refined'] else 'not refined'}"
    if name == "scale_cluster":
        return f"annotate lazy, {row['workers']} workers" if row["workers"] else "annotate lazy"
    if name == "scale_reference":
        return f"fit_reference {row['counts']}" + (f", {row['epochs']} epoch" if row["epochs"] else "")
    return row["what"] + (" (extrapolated)" if "scANVI" in row["what"] else "")
