"""Cells per second and peak memory on the CPU, transanno by torch and by JAX against scANVI and CellTypist.

Every method runs in a process of its own, one after the other, on the same two cores and the same files, so that its
peak memory is its own and nobody competes for a core.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import os
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from benchmarks._data import (
    LABEL,
    RESULTS,
    load_pair,
    markdown_table,
    on_shared_genes,
    read_pairs,
    run_info,
    write_results,
)

PAIR = "P2_zheng_pbmc3k"
MIN_TRAIN, MIN_PREDICT, MAX_GIB = 2_000, 10_000, 2.0
EPISODE = 128  # cells, the default of train()
GIB = 2**30
_EXPORTED = "exported"
PACKAGES = ("transanno", "scvi-tools", "celltypist", "torch", "jax", "scikit-learn", "anndata", "numpy", "scipy")


@dataclass(frozen=True)
class Options:
    """What the command line sets."""

    n_cells: int = 20_000
    n_genes: int = 2_000
    max_epochs: int | None = None
    scanvi_epochs: int = 20
    repeats: int = 5
    cores: int = 2
    seed: int = 0


QUICK = Options(n_cells=5_000, max_epochs=5, scanvi_epochs=2, repeats=2)


@dataclass(frozen=True)
class Route:
    """A way to labels; ``from_counts`` if nothing was prepared before the clock starts."""

    name: str
    predict: Callable[[], np.ndarray]
    from_counts: bool
    is_refined: bool = False


# -- the methods -----------------------------------------------------------------------------------------------------


class TransAnnoMethod:
    """transanno with its defaults."""

    def __init__(self, reference: AnnData, query: AnnData, options: Options, folder: Path) -> None:
        import scvi

        from transanno import TransAnno

        scvi.settings.seed = options.seed
        self.reference, self.query, self.options, self.cls = reference, query, options, TransAnno
        self.folder = folder

    def fit(self) -> int:
        """-> cells visited."""
        self.cls.setup_anndata(self.reference, labels_key=LABEL)
        self.model = self.cls(self.reference)
        options = {"accelerator": "cpu", "enable_progress_bar": False}
        self.model.train(max_epochs=self.options.max_epochs, batch_size=EPISODE, **options)
        # Not cells × epochs: an epoch has at least 25 episodes, however few cells there are to draw from.
        n_episodes = self.model.trainer.global_step
        self.about = f"{n_episodes} episodes of {EPISODE} cells"
        return n_episodes * EPISODE

    def routes(self) -> list[Route]:
        """-> what is timed; the labels of the first are also scored."""
        self.model.export(self.folder / _EXPORTED)  # for JAX
        loaded = self._load_query()
        return [
            Route("`predict(query)`", lambda: self.model.predict(self.query), from_counts=True),
            Route("`load_query_data`, then `predict`", lambda: self._load_query().predict(), from_counts=True),
            Route("`predict()`, query loaded before", loaded.predict, from_counts=False),
            Route("the same, refined", lambda: loaded.predict(refine=True), from_counts=False, is_refined=True),
        ]

    def _load_query(self) -> Any:
        return self.cls.load_query_data(self.query, self.model, accelerator="cpu", unseen_labels="mask")


class JaxMethod:
    """The model that transanno trained before, by JAX: neither torch nor scvi-tools is imported."""

    def __init__(self, reference: AnnData, query: AnnData, options: Options, folder: Path) -> None:
        self.query, self.folder = query, folder

    def fit(self) -> None:
        from transanno.jax import load_predictor

        self.predictor = load_predictor(self.folder / _EXPORTED)

    def routes(self) -> list[Route]:
        """-> what is timed; the network is compiled in the first call."""
        return [
            Route("`predict(query)`", lambda: self.predictor.predict(self.query), from_counts=True),
            Route("the same, refined", self._refined, from_counts=True, is_refined=True),
        ]

    def _refined(self) -> np.ndarray:
        return self.predictor.predict(self.query, refine=True)


class ScanviMethod:
    """scANVI, for the throughput of an epoch: one epoch of scVI, then the given number of scANVI."""

    def __init__(self, reference: AnnData, query: AnnData, options: Options, folder: Path) -> None:
        import scvi

        scvi.settings.seed = options.seed
        self.reference, self.options, self.models = reference, options, scvi.model
        self.query = AnnData(query.X, obs=query.obs.assign(**{LABEL: "Unknown"}), var=query.var)
        self.models.SCVI.setup_anndata(reference, labels_key=LABEL)
        scvi_model = self.models.SCVI(reference)
        scvi_model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
        self.model = self.models.SCANVI.from_scvi_model(scvi_model, unlabeled_category="Unknown")

    def fit(self) -> int:
        epochs = self.options.scanvi_epochs
        self.model.train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False)
        self.about = f"{len(self.model.train_indices)} cells × {epochs} epochs, of more that it would need"
        return len(self.model.train_indices) * epochs

    def routes(self) -> list[Route]:
        # The warm-up registers the query.
        name = "`predict(query)`, query registered before"
        return [Route(name, lambda: self.model.predict(self.query), from_counts=False)]


class CelltypistMethod:
    """CellTypist trained on the reference: logistic regression, one type against the rest."""

    def __init__(self, reference: AnnData, query: AnnData, options: Options, folder: Path) -> None:
        import celltypist

        mend_celltypist(celltypist)
        self.celltypist, self.options = celltypist, options
        self.raw_query = query
        self.reference, self.query = _log_normalized(reference), _log_normalized(query)

    def fit(self) -> int:
        from joblib import parallel_config

        # Threads instead of processes: no start-up and no copies, so CellTypist is measured at its best.
        with parallel_config("threading"):
            self.model = self.celltypist.train(
                self.reference, labels=LABEL, n_jobs=self.options.cores, feature_selection=False
            )
        self.about = f"{self.reference.n_obs} cells, each counted once"
        return self.reference.n_obs

    def routes(self) -> list[Route]:
        from_counts = "normalization, then `annotate`"
        return [
            Route(from_counts, lambda: self._annotate(_log_normalized(self.raw_query)), from_counts=True),
            Route("`annotate`, query normalized before", lambda: self._annotate(self.query), from_counts=False),
        ]

    def _annotate(self, query: AnnData) -> np.ndarray:
        result = self.celltypist.annotate(query, model=self.model, majority_voting=False)
        return result.predicted_labels["predicted_labels"].to_numpy()


METHODS = {"transanno": TransAnnoMethod, "JAX": JaxMethod, "scANVI": ScanviMethod, "CellTypist": CelltypistMethod}


def mend_celltypist(celltypist: Any) -> None:
    """Let CellTypist 1.7.1 train with scikit-learn 1.8 and later, which removed the argument ``multi_class``."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    if "multi_class" in inspect.signature(LogisticRegression).parameters:
        return

    class OneVsRest(LogisticRegression):
        def __init__(self, *, C=1.0, solver="lbfgs", max_iter=100, multi_class="ovr", n_jobs=None):
            super().__init__(C=C, solver=solver, max_iter=max_iter)
            self.multi_class, self.n_jobs = multi_class, n_jobs

        def fit(self, X, y):
            binary = LogisticRegression(C=self.C, solver=self.solver, max_iter=self.max_iter)
            fitted = OneVsRestClassifier(binary, n_jobs=self.n_jobs).fit(X, y)
            self.classes_ = fitted.classes_
            self.coef_ = np.concatenate([one.coef_ for one in fitted.estimators_])
            self.intercept_ = np.concatenate([one.intercept_ for one in fitted.estimators_])
            return self

    sys.modules["celltypist.train"].LogisticRegression = OneVsRest


def _log_normalized(adata: AnnData) -> AnnData:
    """Counts -> log1p of counts per 10,000, in a new object."""
    import scanpy as sc

    normalized = AnnData(adata.X.copy(), obs=adata.obs, var=adata.var)
    sc.pp.normalize_total(normalized, target_sum=1e4)
    sc.pp.log1p(normalized)
    return normalized


# -- measuring -------------------------------------------------------------------------------------------------------


def measure(method: str, folder: Path, options: Options) -> dict[str, Any]:
    """Runs in a fresh process -> seconds, cells per second and memory of one method."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    reference, query = ad.read_h5ad(folder / "reference.h5ad"), ad.read_h5ad(folder / "query.h5ad")
    memory = {"data": current_memory()}
    _use_threads(options.cores)
    runner: Any = METHODS[method](reference, query, options, folder)
    memory["imports"] = peak_memory()

    busy, own, start = _busy_seconds(), time.process_time(), time.perf_counter()
    n_visited = runner.fit()
    fit_seconds = time.perf_counter() - start
    memory["fit"] = peak_memory()

    predictions, labels = [], []
    for route in runner.routes():
        entry, found = _time_route(route, query.n_obs, options.repeats)
        predictions.append(entry)
        labels.append(found)
    accuracy = _accuracy(query, reference, np.asarray(labels[0]))
    others = (_busy_seconds() - busy - (time.process_time() - own)) / (time.perf_counter() - start)
    return {
        "fit": None
        if n_visited is None
        else {
            "seconds": fit_seconds,
            "cells_visited": n_visited,
            "cells_per_second": n_visited / fit_seconds,
            "about": runner.about,
        },
        "predict": predictions,
        "accuracy": accuracy,
        "cores_used_by_others": max(others, 0.0),
        "memory": {**memory, "peak": peak_memory()},
    }


def _time_route(route: Route, n_cells: int, repeats: int) -> tuple[dict[str, Any], np.ndarray]:
    """-> how long the calls took, and the labels."""
    start = time.perf_counter()
    labels = route.predict()  # the warm-up
    seconds, first = [], time.perf_counter() - start
    for _ in range(repeats):
        start = time.perf_counter()
        route.predict()
        seconds.append(time.perf_counter() - start)
    kind = {"name": route.name, "from_counts": route.from_counts, "is_refined": route.is_refined}
    rate = n_cells / statistics.median(seconds)
    return {**kind, "first_seconds": first, "seconds": seconds, "cells_per_second": rate}, labels


def _accuracy(query: AnnData, reference: AnnData, labels: np.ndarray) -> float:
    """Share of right labels among query cells whose type the reference has: shows that a method did its work."""
    truth = query.obs[LABEL].astype(str).to_numpy()
    is_known = np.isin(truth, reference.obs[LABEL].astype(str).unique())
    return float((labels[is_known].astype(str) == truth[is_known]).mean())


def _busy_seconds() -> float:
    """Time that the cores of this process have been working since the machine started, for whomever."""
    cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    # user, nice, system, idle, iowait, irq, softirq, steal
    ticks = sum(sum(map(int, [*line[1:4], *line[6:9]])) for line in lines if line[0] in cores)
    return ticks / os.sysconf("SC_CLK_TCK")


def current_memory() -> int:
    """Resident memory of this process now, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes; ``ru_maxrss`` would begin with the parent's."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def _use_threads(cores: int) -> None:
    import torch

    torch.set_num_threads(cores)


def _limit_cores(cores: int) -> None:
    """Bind this process and those that it starts to the first cores; libraries read the variables when they load."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = str(cores)


# -- the data --------------------------------------------------------------------------------------------------------


def write_data(folder: Path, options: Options) -> dict[str, Any]:
    """Reference and query on the same highly variable genes -> two files, and their sizes."""
    from transanno.tl import select_genes

    reference, query = on_shared_genes(*load_pair(read_pairs()[PAIR]))
    genes = select_genes(reference, n_top_genes=options.n_genes)
    reference, query = reference[:, genes].copy(), query[:, genes].copy()
    query = enlarged(query, options.n_cells, np.random.default_rng(options.seed))
    reference.write_h5ad(folder / "reference.h5ad")
    query.write_h5ad(folder / "query.h5ad")
    return {"n_reference": reference.n_obs, "n_query": query.n_obs, "n_genes": reference.n_vars}


def enlarged(adata: AnnData, n_cells: int, rng: np.random.Generator) -> AnnData:
    """-> cells drawn with replacement, each with a share of its molecules drawn from U(0.5, 1)."""
    drawn = rng.integers(adata.n_obs, size=n_cells)
    counts = sp.csr_matrix(adata.X[drawn])
    kept = np.repeat(rng.uniform(0.5, 1.0, size=n_cells), np.diff(counts.indptr))
    counts.data = rng.binomial(counts.data.astype(np.int64), kept).astype(np.float32)
    counts.eliminate_zeros()
    obs = adata.obs.iloc[drawn].set_axis([f"cell{i}" for i in range(n_cells)])
    return AnnData(counts, obs=obs, var=adata.var)


# -- the report ------------------------------------------------------------------------------------------------------


def check_bars(results: dict[str, Any]) -> list[dict[str, Any]]:
    """-> the promises and whether they hold."""
    ours = results["transanno"]
    above_data = (ours["memory"]["peak"] - ours["memory"]["data"]) / GIB
    bars = [
        _bar("training, cells/s", ours["fit"]["cells_per_second"], MIN_TRAIN),
        _bar("prediction, slowest route, cells/s", min(_rates(ours)), MIN_PREDICT),
    ]
    if "CellTypist" in results:
        for from_counts, name in ((True, "from counts"), (False, "prepared")):
            theirs = max(_rates(results["CellTypist"], from_counts))
            bars.append(_bar(f"prediction {name}, cells/s, against CellTypist", min(_rates(ours, from_counts)), theirs))
    if "JAX" in results:
        rate, ours_rate = max(_rates(results["JAX"], True)), max(_rates(ours, True))
        bars.append(_bar("prediction from counts by JAX, cells/s, against torch", rate, ours_rate))
    memory = {"name": "peak memory above the data, GiB", "value": above_data, "limit": MAX_GIB}
    return [*bars, {**memory, "sign": "<", "passed": above_data < MAX_GIB}]


def _rates(result: dict[str, Any], from_counts: bool | None = None) -> list[float]:
    """-> cells per second of the routes of a kind, refinement left out: CellTypist has it, too, and it is off."""
    return [
        entry["cells_per_second"]
        for entry in result["predict"]
        if not entry["is_refined"] and from_counts in (None, entry["from_counts"])
    ]


def _bar(name: str, value: float, limit: float) -> dict[str, Any]:
    return {"name": name, "value": value, "limit": limit, "sign": "≥", "passed": value >= limit}


def report(results: dict[str, Any], bars: list[dict[str, Any]], data: dict[str, Any], options: Options) -> list[str]:
    """-> sections of the report."""
    fit, predict, memory = [], [], []
    for method, result in results.items():
        others = f"{result['cores_used_by_others']:.2f}"
        if result["fit"] is None:
            fit.append([method, "–", "–", "loads what transanno trained", others])
        else:
            seconds, rate = result["fit"]["seconds"], result["fit"]["cells_per_second"]
            fit.append([method, f"{seconds:.1f}", f"{rate:,.0f}", result["fit"]["about"], others])
        for entry in result["predict"]:
            times = entry["seconds"]
            predict.append(
                [
                    f"{method}: {entry['name']}",
                    f"{statistics.median(times):.2f}",
                    f"{min(times):.2f}-{max(times):.2f}",
                    f"{entry['first_seconds']:.2f}",
                    f"{entry['cells_per_second']:,.0f}",
                ]
            )
        above = [(result["memory"][stage] - result["memory"]["data"]) / GIB for stage in ("imports", "fit", "peak")]
        memory.append([method, *(f"{value:.2f}" for value in above)])
    verdicts = [
        [bar["name"], f"{bar['value']:,.5g}", f"{bar['sign']} {bar['limit']:,.5g}", "PASS" if bar["passed"] else "FAIL"]
        for bar in bars
    ]
    accuracy = ", ".join(f"{method} {result['accuracy']:.3f}" for method, result in results.items())
    about = (
        f"{options.cores} cores, {data['n_genes']:,} highly variable genes. Reference: {data['n_reference']:,} sorted PBMC "
        f"(10x v1). Query: {data['n_query']:,} cells drawn with replacement from pbmc3k, the molecules of each thinned "
        "binomially to a share from U(0.5, 1), raw counts in a sparse matrix."
    )
    about_training = (
        "From data in memory to a trained model; scANVI's number is the throughput of its epochs, not the time that it "
        "takes to train, and scVI before it is not counted. The last column should be near 0: two threads that wait for "
        "each other become many times slower when a third wants one of their cores."
    )
    about_prediction = (
        f"Median of {options.repeats} after a first call, in which JAX compiles. CellTypist takes log1p of counts per 10,000, the others take "
        "counts. Accuracy on the cells whose type the reference has, to show that the methods did their work and not to "
        f"compare them: {accuracy}."
    )
    about_memory = (
        "Largest resident memory of the process so far, less that after loading the data; the libraries are part of it."
    )
    return [
        about,
        "## Bars\n\n" + markdown_table(["bar", "measured", "wanted", ""], verdicts),
        "## Training\n\n"
        + markdown_table(["method", "seconds", "cells/s", "cells visited", "cores used by others"], fit),
        about_training,
        "## Prediction\n\n" + markdown_table(["method", "median s", "range s", "first call s", "cells/s"], predict),
        about_prediction,
        "## Memory\n\n"
        + markdown_table(["method", "libraries loaded, GiB", "after training, GiB", "whole run, GiB"], memory),
        about_memory,
    ]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks speed", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few epochs, 5,000 cells, 2 repeats: a smoke test")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a bar is missed")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="METHOD")
    parser.add_argument("--cells", type=int, dest="n_cells", help="cells of the query (default: 20000)")
    parser.add_argument("--genes", type=int, dest="n_genes", help="highly variable genes (default: 2000)")
    parser.add_argument("--epochs", type=int, dest="max_epochs", help="of transanno (default: what train() chooses)")
    parser.add_argument("--scanvi-epochs", type=int, help="epochs of scANVI (default: 20)")
    parser.add_argument("--repeats", type=int, help="timed predictions (default: 5)")
    parser.add_argument("--cores", type=int, help="cores to run on (default: 2)")
    parser.add_argument("--seed", type=int, help="of all that is drawn (default: 0)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for speed.md and speed.json")
    given = parser.parse_args(arguments)
    if "transanno" not in given.methods:
        parser.error("--methods has to include transanno, which the bars are about.")
    set_values = {key: value for key, value in vars(given).items() if key in asdict(QUICK) and value is not None}
    options = replace(QUICK if given.quick else Options(), **set_values)
    info = run_info(["speed", *arguments], packages=PACKAGES)
    _limit_cores(options.cores)
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        data = write_data(Path(scratch), options)
        for method in given.methods:
            print(f"{method} ...", file=sys.stderr, flush=True)
            with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as process:
                results[method] = process.submit(measure, method, Path(scratch), options).result()
    bars = check_bars(results)
    numbers = {"options": asdict(options), "data": data, "bars": bars, "results": results}
    write_results("speed", given.out, info, report(results, bars, data, options), numbers)
    return int(given.check and not all(bar["passed"] for bar in bars))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
