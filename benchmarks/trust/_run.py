"""A task -> what any limit would give, how well scores rank unknown cells, and calibration errors."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.metrics import roc_auc_score

from benchmarks._data import LABEL
from benchmarks.trust._grids import NOVELTY_GRID, PROBABILITY_GRID
from benchmarks.trust._peers import celltypist_doubt, neighbor_distance, scanvi_doubt
from benchmarks.trust._rows import read_rows
from benchmarks.trust._tasks import Task, tasks

MIN_UNKNOWN = 20
"""Fewer cells of types that the reference lacks say nothing about them."""


def compute(path: Path, *, max_cells: int, seed: int) -> None:
    """Run the tasks that ``path``, a file with a JSON object a line, has no row for."""
    rows = read_rows(path)
    done = {(row["task"], row["max_cells"], row["seed"]) for row in rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    for task in tasks(max_cells, seed):
        if (task.name, max_cells, seed) in done:
            continue
        row = {"max_cells": max_cells, "seed": seed, **measure(task, seed)}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{task.name}: {row['n_unknown']} of {row['n_query']} unknown, {row['auroc']}", flush=True)


def compute_scanvi(path: Path, rows: list[dict[str, Any]], *, max_cells: int, seed: int) -> None:
    """Run scANVI on the pairs of two studies of which a row has unknown cells and ``path`` nothing."""
    from transanno import tl

    wanted = {row["task"] for row in rows if row["auroc"] and row["reference_study"] != row["query_study"]}
    wanted -= {row["task"] for row in read_rows(path) if (row["max_cells"], row["seed"]) == (max_cells, seed)}
    for task in tasks(max_cells, seed):
        if task.left_out is not None or task.name not in wanted:
            continue
        shared = np.intersect1d(task.reference.var_names, task.query.var_names)
        genes = tl.select_genes(task.reference[:, shared].copy())
        doubt = scanvi_doubt(task.reference, task.query, genes, seed)
        is_known = task.query.obs[LABEL].isin(task.reference.obs[LABEL].unique()).to_numpy()
        row = {"task": task.name, "max_cells": max_cells, "seed": seed, "auroc": float(roc_auc_score(~is_known, doubt))}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"scANVI, {task.name}: {row['auroc']:.3f}", flush=True)


def measure(task: Task, seed: int) -> dict[str, Any]:
    """-> a row."""
    from transanno import TransAnno, tl

    reference, query = task.reference, task.query
    truth = query.obs.pop(LABEL).astype(str).to_numpy()
    model = tl.fit_reference(
        reference, LABEL, query_genes=query.var_names, seed=seed, accelerator="cpu", enable_progress_bar=False
    )
    codes = pd.Index(model.labels).get_indexer(truth)
    is_known = codes >= 0
    row: dict[str, Any] = {
        "task": task.name,
        "pair": task.pair,
        "left_out": task.left_out,
        "reference_study": task.reference_study,
        "query_study": task.query_study,
        "n_reference": reference.n_obs,
        "n_query": len(truth),
        "n_unknown": int((~is_known).sum()),
        "n_genes": len(model.genes),
    }
    if model.calibration_ is None:  # too few cells to hold any out
        return row | {"found": None, "false_discoveries": None, "auroc": {}}
    novelty, doubt, _ = _predict(TransAnno.load_query_data(query, model, accelerator="cpu"), query)
    row |= _unknown(novelty, is_known) | {"auroc": {}}
    if row["n_unknown"] >= MIN_UNKNOWN and is_known.any():
        scores = {
            "novelty": novelty,
            "max-softmax": doubt,
            "kNN distance": neighbor_distance(reference, query, model.genes),
            "CellTypist": celltypist_doubt(reference, query, model.genes),
        }
        row["auroc"] = {name: float(roc_auc_score(~is_known, score)) for name, score in scores.items()}
    if is_known.any():
        known = query[is_known].copy()
        query_model = TransAnno.load_query_data(known, model, accelerator="cpu")
        novelty, _, probabilities = _predict(query_model, known)
        row["called"] = _shares(novelty[:, None] > NOVELTY_GRID)
        row |= _sets(probabilities, codes[is_known])
        if task.left_out is None:
            row |= _calibration(query_model, codes[is_known])
    return row


def _predict(model: Any, query: AnnData) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Model of a query, and this -> novelty and 1 - confidence ``(n_obs,)``, probabilities ``(n_obs, n_labels)``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of fewer than 50 cells
        probabilities = model.predict(fdr=0.1, soft=True).to_numpy()
    return query.obs["transanno_novelty"].to_numpy(), 1.0 - probabilities.max(axis=1), probabilities


def _unknown(novelty: np.ndarray, is_known: np.ndarray) -> dict[str, list[float] | None]:
    """-> for every limit, share of the unknown cells that is found, and of known ones among all called."""
    if (~is_known).sum() < MIN_UNKNOWN:
        return {"found": None, "false_discoveries": None}
    is_called = novelty[:, None] > NOVELTY_GRID
    false = is_called[is_known].sum(axis=0) / np.maximum(is_called.sum(axis=0), 1)
    return {"found": _shares(is_called[~is_known]), "false_discoveries": _rounded(false)}


def _sets(probabilities: np.ndarray, codes: np.ndarray) -> dict[str, list[float]]:
    """-> for every limit, share of the sets that hold the type, their mean size, and share of empty ones."""
    sizes = np.stack([(probabilities >= limit).sum(axis=1) for limit in PROBABILITY_GRID], axis=1)
    own = probabilities[np.arange(len(codes)), codes]
    return {
        "coverage": _shares(own[:, None] >= PROBABILITY_GRID),
        "set_size": _rounded(sizes.mean(axis=0)),
        "empty": _shares(sizes == 0),
    }


def _calibration(model: Any, codes: np.ndarray) -> dict[str, Any]:
    """Model of a query of known types -> accuracy, calibration errors, and bins of the figure."""
    from transanno.predictions._temperature import calibration_error, reliability, temper

    calibration, model.calibration_ = model.calibration_, None
    raw, refined = (model.predict(soft=True, refine=refine, key_added=None).to_numpy() for refine in (False, True))
    versions = {
        "raw": raw,
        "calibrated": temper(raw, calibration.temperature),
        "refined": refined,
        "refined, calibrated": temper(refined, calibration.temperature_refined),
    }
    return {
        "accuracy": float((raw.argmax(axis=1) == codes).mean()),
        "temperature": calibration.temperature,
        "ece": {name: calibration_error(values, codes) for name, values in versions.items()},
        "bins": {
            name: {part: values.tolist() for part, values in reliability(versions[name], codes).items()}
            for name in ("raw", "refined, calibrated")
        },
    }


def _shares(is_true: np.ndarray) -> list[float]:
    """``(n_cells, n_limits)`` bool -> share of the cells for every limit."""
    return _rounded(is_true.mean(axis=0))


def _rounded(values: np.ndarray) -> list[float]:
    return np.round(values, 4).tolist()
