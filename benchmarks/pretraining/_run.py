"""Tasks × arms × labels × seeds; what was computed before is taken from cells.jsonl."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import transanno
from benchmarks._data import LABEL, read_pairs, read_studies, run_info, upper_symbols
from benchmarks.accuracy._cells import append_rows, key_of, read_rows, source_digest
from benchmarks.accuracy._methods import SELECTED
from benchmarks.accuracy._scores import score
from benchmarks.accuracy._tasks import Task, make_task
from benchmarks.accuracy._transanno import annotate
from benchmarks.pretraining._config import ARMS, AT_HAND, LABELS, PLAIN, SAME_ORGAN, Config
from benchmarks.pretraining._pools import SOURCE, Pool, at_hand, other_files, pool_of

PACKAGES = ("transanno", "scvi-tools", "torch")
CORES = 1
_PRETRAINING_SEED = 0
_HIDDEN_GENES = ("masked_accuracy", "masked_accuracy_commonest")


@dataclass(frozen=True)
class Transfer:
    """One task with all ways of withholding labels; genes and cells are the same in all of them."""

    pair: str
    files: tuple[str, str]
    studies: tuple[str, str]
    """of the reference and the query, as the files"""
    tasks: dict[str, Task]
    """by the labels; symbols in upper case"""
    digests: dict[str, str]
    """of the tasks"""

    @property
    def genes(self) -> pd.Index:
        """The genes that models read."""
        task = next(iter(self.tasks.values()))
        return task.reference.var_names[task.reference.var[SELECTED].to_numpy()]


def make_transfer(config: Config, study: str) -> Transfer:
    """Study of a query -> its task; the same every time."""
    pair = config.tasks[study]
    described, studies = read_pairs()[pair], read_studies()
    files = described["ref"]["file"], described["query"]["file"]
    if studies[files[1]] != study:
        raise ValueError(f"The query of {pair} is of {studies[files[1]]}, not of {study}.")
    tasks = {
        labels: _upper(make_task(pair, {"pair": pair, **withheld}, n_genes=config.n_genes, one_batch=()))
        for labels, withheld in LABELS.items()
    }
    digests = {labels: task.digest for labels, task in tasks.items()}
    return Transfer(pair, files, (studies[files[0]], studies[files[1]]), tasks, digests)


def compute(config: Config, studies: Sequence[str], seeds: Sequence[int], path: Path, models: Path) -> None:
    """Append a row to ``path`` for everything that it lacks; pretrained models are kept in ``models``."""
    for study in studies:
        transfer = make_transfer(config, study)
        for arm in ARMS:
            done = {row["key"] for row in read_rows(path)}
            identities = [_identity(config, transfer, arm, labels, seed) for labels in LABELS for seed in seeds]
            missing = [identity for identity in identities if key_of(identity) not in done]
            if not missing:
                continue
            folder, about = _pretrained(config, transfer, arm, models)
            for identity in missing:
                row = {"key": key_of(identity), **identity, **about, **_run(transfer, identity, folder)}
                del row["files"]  # the same in hundreds of rows, and they follow from the config
                append_rows(path, [row])
                _say(row)


def _identity(config: Config, transfer: Transfer, arm: str, labels: str, seed: int) -> dict[str, Any]:
    """Everything that makes a cached row worthless when it changes."""
    info = run_info([], packages=PACKAGES)
    return {
        "task": f"{transfer.pair}, {labels}",
        **dict(zip(("reference_study", "query_study"), transfer.studies, strict=True)),
        **{"arm": arm, "labels": labels, "seed": seed, "cores": CORES},
        "data": transfer.digests[labels],
        "files": _files(config, transfer, arm),
        **{"max_cells": config.max_cells, "min_measured": config.min_measured},
        **{"python": info["python"], "versions": info["versions"], "source": source_digest()},
    }


def _files(config: Config, transfer: Transfer, arm: str) -> list[str]:
    """-> files of other studies that an arm may pretrain on."""
    return [] if arm in (PLAIN, AT_HAND) else other_files(config, transfer.files, same_organ=arm == SAME_ORGAN)


# -- pretraining, once per task and arm: it sees no labels --------------------------------------------------------------


def _pretrained(config: Config, transfer: Transfer, arm: str, models: Path) -> tuple[Path | None, dict[str, Any]]:
    """-> folder of the model, if there is anything to pretrain on, and what it rests on."""
    labels = next(iter(LABELS))
    folder = models / key_of(_identity(config, transfer, arm, labels, _PRETRAINING_SEED))
    if not (folder / "about.json").is_file():
        pool = _pool(config, transfer, arm)
        if pool is None:
            return None, {"pretraining_cells": 0, "pretraining_seconds": 0.0}
        start = time.perf_counter()
        model = transanno.tl.pretrain(
            pool.cells,
            batch_key=SOURCE,
            genes=transfer.genes,
            seed=_PRETRAINING_SEED,
            accelerator="cpu",
            enable_progress_bar=False,
        )
        seconds = time.perf_counter() - start
        model.save(folder, overwrite=True)
        about = {
            "pretraining_cells": pool.cells.n_obs,
            "pretraining_seconds": round(seconds, 2),
            "known_genes": float(transfer.genes.isin(model.genes).mean()),
            "unmeasured": pool.unmeasured,
            # Of the last pass over its cells; beside always guessing the commonest bin.
            **{name: float(model.history[f"{name}_train"].iloc[-1, 0]) for name in _HIDDEN_GENES},
            "megabytes": sum(file.stat().st_size for file in folder.rglob("*")) / 1e6,
        }
        (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")
    return folder, json.loads((folder / "about.json").read_text(encoding="utf-8"))


def _pool(config: Config, transfer: Transfer, arm: str) -> Pool | None:
    if arm == PLAIN:
        return None
    if arm == AT_HAND:
        task = next(iter(transfer.tasks.values()))
        return at_hand(task.reference, task.query)
    return pool_of(config, _files(config, transfer, arm), transfer.genes)


# -- training on labels -------------------------------------------------------------------------------------------------


def _run(transfer: Transfer, identity: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """-> scores of the default prediction and of the Transformer alone, which is all that pretraining changes."""
    task = transfer.tasks[identity["labels"]]
    info = run_info([], packages=())
    start = time.perf_counter()
    fitted = annotate(task.reference.copy(), seed=identity["seed"], cores=CORES, calibrate=False, pretrained=folder)
    fit_seconds = time.perf_counter() - start
    start = time.perf_counter()
    default = fitted[""](task.query.copy())
    predict_seconds = time.perf_counter() - start
    alone = fitted[", Transformer alone"](task.query.copy())
    scores, of_transformer = (_score(task, found.labels) for found in (default, alone))
    return {
        **{name: scores[name] for name in ("macro_f1", "accuracy", "n_scored")},
        "macro_f1_transformer": of_transformer["macro_f1"],
        "fit_seconds": round(fit_seconds, 2),
        "predict_seconds": round(predict_seconds, 2),
        **{name: info[name] for name in ("date", "cpu", "load_before")},
    }


def _score(task: Task, labels: np.ndarray) -> dict[str, Any]:
    return score(task.truth, labels, None, task.reference.obs[LABEL].to_numpy(dtype=object))


def _upper(task: Task) -> Task:
    """-> the same task with symbols in upper case, as the cells of other species have them."""
    return Task(task.name, upper_symbols(task.reference), upper_symbols(task.query), task.truth)


def _say(row: dict[str, Any]) -> None:
    seconds = row["fit_seconds"] + row["predict_seconds"]
    print(
        f"{row['task']} | {row['arm']} | seed {row['seed']}: macro-F1 {row['macro_f1']:.3f}, {seconds:.1f} s",
        file=sys.stderr,
        flush=True,
    )
