"""Accuracy on reference -> query pairs, transanno against nearest neighbors and logistic regression."""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from benchmarks._data import (
    LABEL,
    RESULTS,
    load_pair,
    markdown_table,
    on_shared_genes,
    read_pairs,
    run_info,
    score,
    write_results,
)

N_GENES, N_COMPONENTS, N_NEIGHBORS = 2_000, 50, 15
PACKAGES = ("transanno", "scvi-tools", "torch", "scikit-learn", "scanpy", "anndata", "numpy", "scipy")

# What a method gives: predicted labels, and the seconds from counts to labels.
Outcome = tuple[np.ndarray, float]


# -- transanno -------------------------------------------------------------------------------------------------------


def run_transanno(reference: AnnData, query: AnnData, seed: int) -> dict[str, Outcome]:
    """-> labels as predicted and refined, from one trained model."""
    from transanno import tl

    start = time.perf_counter()
    model = tl.annotate(
        query, reference, labels_key=LABEL, refine=False, seed=seed, accelerator="cpu", enable_progress_bar=False
    )
    plain = query.obs["transanno"].astype(str).to_numpy(), time.perf_counter() - start
    start = time.perf_counter()
    labels = model.predict(refine=True, key_added=None)
    # annotate() also gives the cell states, so the sum is what annotate(refine=True) takes and a little more.
    refined = labels.astype(str), plain[1] + time.perf_counter() - start
    return {"transanno, refined": refined, "transanno": plain}


# -- baselines, all deterministic ------------------------------------------------------------------------------------


def run_baselines(reference: AnnData, query: AnnData) -> dict[str, Outcome]:
    """Both on the shared genes -> labels of every baseline; normalization and gene selection count as fitting."""
    start = time.perf_counter()
    x, x_query = _expression(reference, query)
    labels = reference.obs[LABEL].astype(str).to_numpy()
    shared_seconds = time.perf_counter() - start
    methods: dict[str, Callable[[], np.ndarray]] = {
        "logistic regression (C=1)": lambda: LogisticRegression(max_iter=1000).fit(x, labels).predict(x_query),
        "kNN on PCA": lambda: _nearest_neighbors(x, labels, x_query),
        "kNN on PCA, z-scored": lambda: _nearest_neighbors(*_scaled(x, labels, x_query)),
    }
    outcomes = {}
    for name, predict in methods.items():
        start = time.perf_counter()
        predicted = predict()
        outcomes[name] = predicted, shared_seconds + time.perf_counter() - start
    return outcomes


def _expression(reference: AnnData, query: AnnData) -> tuple[np.ndarray, np.ndarray]:
    """-> log1p of counts per 10,000 at the genes that vary most in the reference, ``(n_obs, n_genes)`` each."""
    from transanno.tl import select_genes

    genes = select_genes(reference, n_top_genes=N_GENES)
    return _log_normalized(reference, genes), _log_normalized(query, genes)


def _log_normalized(adata: AnnData, genes: pd.Index) -> np.ndarray:
    normalized = AnnData(adata.X.copy(), var=adata.var)
    sc.pp.normalize_total(normalized, target_sum=1e4)
    sc.pp.log1p(normalized)
    x = normalized[:, genes].X
    return x.toarray() if sp.issparse(x) else np.asarray(x)


def _scaled(x: np.ndarray, labels: np.ndarray, x_query: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both by mean and deviation of the reference, clipped at 10 as is usual with scanpy."""
    scaler = StandardScaler().fit(x)
    return scaler.transform(x).clip(max=10), labels, scaler.transform(x_query).clip(max=10)


def _nearest_neighbors(x: np.ndarray, labels: np.ndarray, x_query: np.ndarray) -> np.ndarray:
    pca = PCA(min(N_COMPONENTS, len(x) - 1), svd_solver="covariance_eigh").fit(x)
    neighbors = KNeighborsClassifier(N_NEIGHBORS).fit(pca.transform(x), labels)
    return neighbors.predict(pca.transform(x_query))


def run_pair(pair: dict[str, Any], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """-> one row per method and seed; baselines draw nothing and have one row."""
    reference, query = load_pair(pair)
    rows = []

    def add(method: str, seed: int | None, labels: np.ndarray, seconds: float) -> None:
        macro_f1, accuracy = score(query.obs[LABEL], labels, reference.obs[LABEL])
        row = {"pair": pair["id"], "method": method, "seed": seed, "seconds": seconds}
        rows.append({**row, "macro_f1": macro_f1, "accuracy": accuracy})

    for seed in seeds:
        for method, outcome in run_transanno(reference, query, seed).items():
            add(method, seed, *outcome)
    for method, outcome in run_baselines(*on_shared_genes(reference, query)).items():
        add(method, None, *outcome)
    return rows


# -- the report ------------------------------------------------------------------------------------------------------


def report(rows: list[dict[str, Any]], pairs: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """-> sections of the report."""
    about = (
        f"Transanno: `tl.annotate` with its defaults, seeds {', '.join(map(str, seeds))}, mean (± standard deviation) over "
        f"them; refined is `refine=True`. The others get log1p of counts per 10,000, normalized over the shared genes, at "
        f"the {N_GENES:,} genes that vary most in the reference; {N_NEIGHBORS} nearest neighbors on {N_COMPONENTS} "
        "components fitted on the reference.\nOnly query cells whose type the reference has are scored. "
        "`P4_marques_region_fine` has the cells of `P4_marques_region` with finer labels."
    )
    table = pd.DataFrame(rows)
    return [
        about,
        "## Macro-F1\n\n" + _section(table, pairs, "macro_f1", "{:.3f}", with_mean=True),
        "## Accuracy\n\n" + _section(table, pairs, "accuracy", "{:.3f}", with_mean=True),
        "## Seconds, fit and predict\n\n" + _section(table, pairs, "seconds", "{:.1f}", with_mean=False),
    ]


def _section(table: pd.DataFrame, pairs: Sequence[str], value: str, style: str, *, with_mean: bool) -> str:
    """One measure -> table of methods × pairs."""
    rows = []
    for method, of_method in table.groupby("method", sort=False):
        by_pair = of_method.groupby("pair")[value]
        mean, deviation = by_pair.mean(), by_pair.std(ddof=1)
        cells = [style.format(mean[pair]) for pair in pairs]
        if with_mean:
            cells = [
                cell if np.isnan(deviation[pair]) else f"{cell} ± {style.format(deviation[pair])}"
                for cell, pair in zip(cells, pairs, strict=True)
            ]
            cells.append(style.format(mean.mean()))
        rows.append([str(method), *cells])
    return markdown_table(["method", *pairs, *(["mean"] if with_mean else [])], rows)


def main(arguments: Sequence[str]) -> int:
    known = read_pairs()
    parser = argparse.ArgumentParser(prog="python -m benchmarks pairs", description=__doc__)
    parser.add_argument(
        "--pairs", nargs="+", choices=list(known), default=list(known), metavar="PAIR", help=", ".join(known)
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of transanno (default: 0)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for pairs.md and pairs.json")
    given = parser.parse_args(arguments)
    info = run_info(["pairs", *arguments], packages=PACKAGES)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    rows = []
    for name in given.pairs:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += run_pair(known[name], given.seeds)
    write_results("pairs", given.out, info, report(rows, given.pairs, given.seeds), {"rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
