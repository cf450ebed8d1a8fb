"""What each part of the default model is worth: macro-F1 over many tasks, one part changed at a time.

Tasks are the published pairs in both directions, the same with ten labeled cells per type, treated against untreated
cells, and one sequencing library against the others. All variants see the same genes and the same seeds, and every one is
scored cell by cell, averaged with neighbors, and refined as ``tl.annotate`` does. The table says what a part is worth; the
settings of the package are judged by ``python -m benchmarks accuracy --nested``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import anndata as ad
import numpy as np
import scipy.sparse as sp
import scvi
from anndata import AnnData
from sklearn.linear_model import LogisticRegression

from benchmarks._data import (
    BATCH,
    LABEL,
    RESULTS,
    data_folder,
    load_pair,
    markdown_table,
    read_pairs,
    run_info,
    score,
    write_results,
)
from transanno import TransAnno
from transanno.data._counts import MatrixCounts
from transanno.nn import Shares
from transanno.predictions._neighbors import Surroundings
from transanno.predictions._refine import average_neighbors, learn_from_query
from transanno.tl import select_genes
from transanno.training._experts import SHARES

N_CELLS_PER_TYPE = 10
# Ways of predicting after the same training, in the order of the table; the last is the package's.
STAGES = ("cell by cell", "with neighbors", "refined")


@dataclass(frozen=True)
class Variant:
    """A change of the default model."""

    model: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    splitter: dict[str, Any] = field(default_factory=dict)
    shares: Shares = SHARES
    patch: Callable[[], Any] = nullcontext


def _without(*experts: str) -> Shares:
    """-> shares of the others, a sum of one."""
    others = SHARES._replace(**dict.fromkeys(experts, 0.0))
    return Shares(*(share / sum(others) for share in others))


def _concentration(value: float) -> Callable[[], Any]:
    """How even the compositions of episodes are -> patch."""
    return partial(mock.patch, "transanno.training._episodes._CONCENTRATION", value)


VARIANTS = {
    "default": Variant(),
    "no count thinning": Variant(plan={"min_count_fraction": 1.0}),
    "no gene noise": Variant(plan={"gene_noise": 0.0}),
    "no hidden genes": Variant(plan={"max_masked_fraction": 0.0}),
    "uneven compositions": Variant(patch=_concentration(0.3)),
    "even compositions": Variant(patch=_concentration(1000.0)),
    # Without episodes a small reference has few minibatches in an epoch; it gets as many in all.
    "cells as in the data": Variant(
        splitter={"class_balance": 0.0}, patch=partial(mock.patch, "transanno.models._train.MAX_EPOCHS", 400)
    ),
    "equal shares": Variant(shares=Shares(deep=1 / 3, linear=1 / 3, cosine=1 / 3)),
    "Transformer alone": Variant(shares=_without("linear", "cosine")),
    "no Transformer": Variant(shares=_without("deep")),
    "no cosine": Variant(shares=_without("cosine")),
    "one network": Variant(model={"n_networks": 1}),
    "random gene embeddings": Variant(
        patch=partial(mock.patch, "transanno.nn.ViewEncoder.initialize_genes", lambda self, expression: None)
    ),
    "no Transformer layers": Variant(model={"n_layers": 0}),
    "two Transformer layers": Variant(model={"n_layers": 2}),
}


def tasks() -> Iterator[tuple[str, AnnData, AnnData]]:
    """-> name, reference, query; raw counts, labels in ``obs["cell_type"]``."""
    pairs = read_pairs()
    ways = [(pair["ref"], pair["query"]) for pair in pairs.values()]
    for name, pair in pairs.items():
        reference, query = load_pair(pair)
        yield name, reference, query
        if not name.endswith("fine") and (pair["query"], pair["ref"]) not in ways:
            yield f"{name}, reversed", query, reference
        if not name.endswith("fine") and reference.n_obs > 500:
            yield f"{name}, {N_CELLS_PER_TYPE} per type", _few_labels(reference), query
    oligo = _read("mouse_brain_marques_oligo_c1.h5ad")
    oligo = oligo[oligo.obs["batch"] == "hypothalamus"]
    is_treated = (oligo.obs["treatment"] != "No").to_numpy()
    yield "marques untreated → treated", oligo[~is_treated].copy(), oligo[is_treated].copy()
    yield "marques treated → untreated", oligo[is_treated].copy(), oligo[~is_treated].copy()
    gut = _read("mouse_gut_mca_microwell.h5ad")
    for organ in sorted(gut.obs["batch"].unique()):
        cells = gut[gut.obs["batch"] == organ]
        smallest = cells.obs["library"].value_counts().loc[lambda n: n > 0].index[-1]
        is_query = (cells.obs["library"] == smallest).to_numpy()
        if not is_query.all():
            yield f"gut {organ}, one library", cells[~is_query].copy(), cells[is_query].copy()


def _read(name: str) -> AnnData:
    adata = ad.read_h5ad(data_folder() / name)
    adata.obs[LABEL] = adata.obs[LABEL].astype(str)
    adata.obs[BATCH] = adata.obs[BATCH].astype(str)
    return adata


def _few_labels(reference: AnnData) -> AnnData:
    rng = np.random.default_rng(0)
    labels = reference.obs[LABEL].to_numpy()
    kept = [rng.permutation(np.flatnonzero(labels == label))[:N_CELLS_PER_TYPE] for label in np.unique(labels)]
    return reference[np.sort(np.concatenate(kept))].copy()


def _log_normalize(adata: AnnData, genes) -> np.ndarray:
    counts = adata[:, genes].X.toarray()
    return np.log1p(counts * (1e4 / counts.sum(axis=1, keepdims=True).clip(min=1)))


def _run(variant: Variant, reference: AnnData, query: AnnData, seed: int) -> list[np.ndarray]:
    """Both on the same genes -> labels of every stage."""
    scvi.settings.seed = seed
    reference = reference.copy()
    with variant.patch():
        TransAnno.setup_anndata(reference, LABEL)
        model = TransAnno(reference, **variant.model)
        model.train(
            train_size=1.0,
            plan_kwargs=variant.plan,
            datasplitter_kwargs=variant.splitter,
            accelerator="cpu",
            enable_progress_bar=False,
        )
    query_model = TransAnno.load_query_data(query, model, accelerator="cpu", unseen_labels="mask")
    with query_model.module.classifier.weighted(variant.shares):
        own = query_model.predict(soft=True, key_added=None).to_numpy()
    around = Surroundings.of(MatrixCounts(sp.csr_matrix(query.X)), np.arange(query.n_obs))
    averaged = own if around is None else average_neighbors(own, around.neighbors)
    learned = own if around is None else learn_from_query(averaged, around.components)
    return [model.labels[each.argmax(axis=1)] for each in (own, averaged, learned)]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks ablation", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds (default: 1)")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--tasks", nargs="+", default=[""], help="only those whose name begins so (default: all)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    scores: dict[str, dict[str, list[tuple[float, float]]]] = {}
    start = time.perf_counter()
    for name, reference, query in tasks():
        if not name.startswith(tuple(arguments.tasks)):
            continue
        shared = reference.var_names[reference.var_names.isin(query.var_names)]
        genes = select_genes(reference[:, shared].copy())
        reference, query = reference[:, genes].copy(), query[:, genes].copy()
        row = scores.setdefault(name, {})
        logistic = LogisticRegression(C=1.0, max_iter=500).fit(_log_normalize(reference, genes), reference.obs[LABEL])
        truth, known = query.obs[LABEL], reference.obs[LABEL]
        row["logistic regression"] = [score(truth, logistic.predict(_log_normalize(query, genes)), known)]
        for label in arguments.variants:
            for seed in range(arguments.seeds):
                found = _run(VARIANTS[label], reference, query, seed)
                for stage, labels in zip(STAGES, found, strict=True):
                    row.setdefault(f"{label}, {stage}", []).append(score(truth, labels, known))
        print(
            f"{time.perf_counter() - start:6.0f} s  {name}: "
            + ", ".join(f"{key} {np.mean(row[key], axis=0)[0]:.3f}" for key in row if not key.endswith(STAGES[:2])),
            flush=True,
        )
    _report(scores, arguments, argv)


def _report(scores: dict, arguments: argparse.Namespace, argv: list[str] | None) -> None:
    # (macro-F1, accuracy), mean over seeds
    table = {name: {key: np.mean(each, axis=0) for key, each in row.items()} for name, row in scores.items()}
    stages = {label: [f"{label}, {stage}" for stage in STAGES] for label in arguments.variants}
    rows = []
    for label, keys in {"logistic regression": ["logistic regression"], **stages}.items():
        means = [np.mean([row[key] for row in table.values()], axis=0) for key in keys]
        macro_f1 = [f"{mean[0]:.3f}" for mean in means] + ["–"] * (len(STAGES) - len(keys))
        worst = "–"
        if "default" in stages:
            worst = f"{min(row[keys[-1]][0] - row[stages['default'][-1]][0] for row in table.values()):+.3f}"
        rows.append([label, *macro_f1, f"{means[-1][1]:.3f}", worst])
    summary = markdown_table(["variant", *STAGES, "accuracy", "worst difference"], rows)
    shown = ["logistic regression", *stages.get("default", [])]
    detail = markdown_table(
        ["task (macro-F1)", *shown],
        [[name, *(f"{row[key][0]:.3f}" for key in shown)] for name, row in table.items()],
    )
    info = run_info(["ablation", *(argv or [])], packages=["transanno", "scvi-tools", "torch", "scikit-learn"])
    text = (
        f"{len(scores)} tasks, {arguments.seeds} seed(s): means over all tasks of macro-F1, by stage, and of the accuracy of the "
        "last stage; worst difference of its macro-F1 from the default's. Differences under about 0.01 are noise."
    )
    write_results("ablation", arguments.out, info, [text, summary, detail], {"scores": scores})
