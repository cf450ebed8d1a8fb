"""Masked-expression pretraining against always guessing each gene's commonest bin, on cells that were left aside.

A network that does not beat this guess has learned which genes are high and nothing about cells. Both ways of hiding
genes are tried: the package's (a share of all genes) and TransAnno-Net's (15 % of the expressed ones).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import scvi
from anndata import AnnData

from benchmarks._data import BATCH, RESULTS, load_pair, markdown_table, read_pairs, run_info, write_results

MASKING = {
    "uniform": {"masking": "uniform"},
    "expressed": {"masking": "expressed", "min_count_fraction": 1.0},
}


def _parts(adata: AnnData, *, share: float, seed: int) -> tuple[AnnData, AnnData]:
    """-> cells to train on, and a share of them left aside."""
    order = np.random.default_rng(seed).permutation(adata.n_obs)
    n_aside = round(share * adata.n_obs)
    return adata[np.sort(order[n_aside:])].copy(), adata[np.sort(order[:n_aside])].copy()


def run(
    train: AnnData, aside: AnnData, query: AnnData, masking: str, seed: int, max_epochs: int | None
) -> dict[str, Any]:
    """Pretrain -> accuracy and the guess's on both sets of unseen cells, seconds."""
    from transanno import TransAnnoPretrain

    scvi.settings.seed = seed
    train = train.copy()
    TransAnnoPretrain.setup_anndata(train, batch_key=BATCH if train.obs[BATCH].nunique() > 1 else None)
    model = TransAnnoPretrain(train)
    start = time.perf_counter()
    model.train(max_epochs, train_size=1.0, plan_kwargs=MASKING[masking], enable_progress_bar=False)
    result: dict[str, Any] = {"masking": masking, "seed": seed, "seconds": time.perf_counter() - start}
    result["epochs"] = len(model.history["train_loss"])
    for name, cells in (("left aside", aside), ("query", query)):
        cells = cells.copy()
        if BATCH in cells.obs and not cells.obs[BATCH].isin(train.obs[BATCH]).all():
            cells.obs[BATCH] = train.obs[BATCH].iloc[0]  # prediction asks for a batch that the model knows
        result[name] = {key: float(value) for key, value in model.get_reconstruction_accuracy(cells).items()}
    return result


def main(argv: list[str] | None = None) -> None:
    from transanno.tl import select_genes

    parser = argparse.ArgumentParser(prog="python -m benchmarks masked", description=__doc__.splitlines()[0])
    parser.add_argument("--pair", default="P1_baron_m1_m2", choices=list(read_pairs()))
    parser.add_argument("--masking", nargs="+", default=list(MASKING), choices=list(MASKING))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, help="passes over the cells (default: the package's)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    reference, query = load_pair(read_pairs()[arguments.pair])
    shared = reference.var_names[reference.var_names.isin(query.var_names)]
    genes = select_genes(reference[:, shared].copy())
    train, aside = _parts(reference[:, genes], share=0.2, seed=0)
    query = query[:, genes].copy()
    results = [
        run(train, aside, query, masking, seed, arguments.epochs)
        for masking in arguments.masking
        for seed in arguments.seeds
    ]
    rows = []
    for result in results:
        for name in ("left aside", "query"):
            found = result[name]
            is_better = found["accuracy"] > found["accuracy_commonest"]
            rows.append(
                [
                    result["masking"],
                    str(result["seed"]),
                    name,
                    f"{found['n_hidden']:,.0f}",
                    f"{found['accuracy']:.4f}",
                    f"{found['accuracy_commonest']:.4f}",
                    "yes" if is_better else "**no**",
                    f"{result['epochs']}",
                    f"{result['seconds']:.0f}",
                ]
            )
    columns = ["hidden genes", "seed", "cells", "n hidden", "model", "commonest bin", "beats it", "epochs", "train s"]
    text = (
        f"{arguments.pair}: {train.n_obs} cells to pretrain on, {aside.n_obs} left aside, {query.n_obs} of the query, "
        f"{len(genes)} genes. Accuracy: share of hidden genes whose expression bin (0 to 5) was predicted right."
    )
    info = run_info(["masked", *(argv or [])], packages=["transanno", "scvi-tools", "torch"])
    write_results("masked", arguments.out, info, [text, markdown_table(columns, rows)], {"results": results})
