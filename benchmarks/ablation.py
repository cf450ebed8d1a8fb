"""What each part of the default model is worth: macro-F1 over many tasks, one part changed at a time.

Tasks are the published pairs in both directions, the same with ten labeled cells per type, treated against untreated
cells, and one sequencing library against the others. All variants see the same genes and the same seeds. The settings
of the package were chosen on this table's means, never on one row.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import anndata as ad
import numpy as np
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

N_CELLS_PER_TYPE = 10


@dataclass(frozen=True)
class Variant:
    """A change of the default model."""

    model: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    splitter: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    patch: Callable[[], Any] = nullcontext


def _random_gene_embeddings():
    return mock.patch("transanno.nn.SlotEncoder.initialize_genes", lambda self, expression: None)


def _no_wide_path():
    return mock.patch("transanno.models._wide_path.WIDE_SHARE", 0.0)


VARIANTS = {
    "default": Variant(),
    "no count thinning": Variant(plan={"min_count_fraction": 1.0}),
    "no gene masking": Variant(plan={"max_masked_fraction": 0.0}),
    "no masked-expression loss": Variant(plan={"reconstruction_weight": 0.0}),
    "no wide path": Variant(patch=_no_wide_path),
    "gene embeddings at full rate": Variant(plan={"gene_lr": 1.0}),
    "frozen gene embeddings": Variant(plan={"gene_lr": 0.0}),
    "60 epochs": Variant(train={"max_epochs": 60}),
    "random gene embeddings": Variant(patch=_random_gene_embeddings),
    "no Transformer layers": Variant(model={"n_layers": 0}),
    "two Transformer layers": Variant(model={"n_layers": 2}),
    "8 slots": Variant(model={"n_slots": 8}),
    "no class balance": Variant(splitter={"class_balance": 0.0}),
}


def tasks() -> Iterator[tuple[str, AnnData, AnnData]]:
    """-> name, reference, query; raw counts, labels in ``obs["cell_type"]``."""
    for name, pair in read_pairs().items():
        reference, query = load_pair(pair)
        yield name, reference, query
        if not name.endswith("fine"):
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


def _run(variant: Variant, reference: AnnData, query: AnnData, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """-> labels, and refined labels."""
    from transanno import TransAnno

    scvi.settings.seed = seed
    reference = reference.copy()
    with variant.patch():
        TransAnno.setup_anndata(reference, LABEL)
        model = TransAnno(reference, **variant.model)
        model.train(
            plan_kwargs=variant.plan,
            datasplitter_kwargs=variant.splitter,
            **variant.train,
            enable_progress_bar=False,
        )
    query_model = TransAnno.load_query_data(query, model, unseen_labels="mask")
    return query_model.predict(key_added=None), query_model.predict(refine=True, key_added=None)


def main(argv: list[str] | None = None) -> None:
    from transanno.tl import select_genes

    parser = argparse.ArgumentParser(prog="python -m benchmarks ablation", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds (default: 1)")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    scores: dict[str, dict[str, list[tuple[float, float]]]] = {}
    start = time.perf_counter()
    for name, reference, query in tasks():
        shared = reference.var_names[reference.var_names.isin(query.var_names)]
        genes = select_genes(reference[:, shared].copy())
        reference, query = reference[:, genes].copy(), query[:, genes].copy()
        row = scores.setdefault(name, {})
        logistic = LogisticRegression(C=1.0, max_iter=500).fit(_log_normalize(reference, genes), reference.obs[LABEL])
        truth, known = query.obs[LABEL], reference.obs[LABEL]
        row["logistic regression"] = [score(truth, logistic.predict(_log_normalize(query, genes)), known)]
        for label in arguments.variants:
            for seed in range(arguments.seeds):
                plain, refined = _run(VARIANTS[label], reference, query, seed)
                row.setdefault(label, []).append(score(truth, plain, known))
                row.setdefault(f"{label}, refined", []).append(score(truth, refined, known))
        print(
            f"{time.perf_counter() - start:6.0f} s  {name}: "
            + ", ".join(f"{k} {np.mean(v, axis=0)[0]:.3f}" for k, v in row.items()),
            flush=True,
        )
    _report(scores, arguments, argv)


def _report(scores: dict, arguments: argparse.Namespace, argv: list[str] | None) -> None:
    methods = list(next(iter(scores.values())))
    mean = {m: np.mean([np.mean(row[m], axis=0) for row in scores.values()], axis=0) for m in methods}
    worst = {m: min(np.mean(row[m], axis=0)[0] - np.mean(row["default"], axis=0)[0] for row in scores.values())
             for m in methods} if "default" in methods else dict.fromkeys(methods, float("nan"))  # fmt: skip
    summary = markdown_table(
        ["method", "mean macro-F1", "mean accuracy", "worst macro-F1 difference from the default"],
        [[m, f"{mean[m][0]:.3f}", f"{mean[m][1]:.3f}", f"{worst[m]:+.3f}"] for m in methods],
    )
    shown = [m for m in ("logistic regression", "default", "default, refined") if m in methods]
    detail = markdown_table(
        ["task (macro-F1)", *shown],
        [[name, *(f"{np.mean(row[m], axis=0)[0]:.3f}" for m in shown)] for name, row in scores.items()],
    )
    info = run_info(["ablation", *(argv or [])], packages=["transanno", "scvi-tools", "torch", "scikit-learn"])
    text = f"{len(scores)} tasks, {arguments.seeds} seed(s). Differences under about 0.01 are noise."
    write_results("ablation", arguments.out, info, [text, summary, detail], {"scores": scores})
