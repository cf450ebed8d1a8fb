"""One cell of the table: its key, its place in the cache, and its run."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._data import LABEL, ROOT, run_info
from benchmarks.accuracy._config import Method
from benchmarks.accuracy._scores import score
from benchmarks.accuracy._tasks import Task

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Cell:
    """What one result depends on."""

    task: Task
    definition: dict[str, Any]
    method: Method
    seed: int
    cores: int

    def identity(self) -> dict[str, Any]:
        """Everything that makes a cached result of this cell worthless when it changes."""
        info = run_info([], packages=self.method.packages)
        return {
            "task": self.task.name,
            "definition": self.definition,
            "data": self.task.digest,
            "method": self.method.name,
            "run": self.method.run,
            "settings": self.method.settings,
            "seed": self.seed,
            "cores": self.cores,
            "python": info["python"],
            "versions": info["versions"],
            "source": source_digest() if self.method.is_ours else None,
        }


def key_of(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]


@cache
def source_digest() -> str:
    """Hash of the package's source files."""
    spec = find_spec("transanno")
    assert spec is not None and spec.origin is not None
    folder, found = Path(spec.origin).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        found.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return found.hexdigest()[:16]


# -- the cache, one row per line ---------------------------------------------------------------------------------------


def read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def append_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)


def is_done(rows: Iterable[dict[str, Any]], key: str, hours: float) -> bool:
    """A crash is tried again; a timeout only with more time."""
    return any(
        row["key"] == key and (row["status"] == "ok" or (row["status"] == "timeout" and row["hours"] >= hours))
        for row in rows
    )


# -- the run -----------------------------------------------------------------------------------------------------------


def run_cell(cell: Cell, folder: Path) -> list[dict[str, Any]]:
    """Run in a process of its own -> a row per way of predicting, or one that says what went wrong."""
    identity, info = cell.identity(), run_info([], packages=cell.method.packages)
    common = {
        "key": key_of(identity),
        **identity,
        **{name: info[name] for name in ("date", "cpu", "load_before")},
        "n_reference": cell.task.reference.n_obs,
        "n_query": cell.task.query.n_obs,
        "hours": cell.method.hours,
    }
    request = {"run": cell.method.run, "settings": cell.method.settings, "seed": cell.seed, "cores": cell.cores}
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    answer = folder / "answer.json"
    answer.unlink(missing_ok=True)
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.accuracy._worker", str(folder)],
            cwd=ROOT,
            env={**os.environ, **dict.fromkeys(_THREADS, str(cell.cores))},
            timeout=cell.method.hours * 3600,
            capture_output=True,
            text=True,
        )
    except subprocess.TimeoutExpired:
        seconds = time.perf_counter() - start
        return [{**common, "name": cell.method.name, "status": "timeout", "wall_seconds": seconds}]
    if done.returncode != 0 or not answer.is_file():
        # Of a traceback only what was raised: the rest holds paths of this machine.
        error = (done.stderr.strip().splitlines() or [""])[-1].replace(str(ROOT), ".")[:300]
        return [{**common, "name": cell.method.name, "status": "failed", "exit_code": done.returncode, "error": error}]
    rows = []
    for suffix, outcome in json.loads(answer.read_text(encoding="utf-8")).items():
        labels, confidence = np.array(outcome.pop("labels"), dtype=object), outcome.pop("confidence")
        scores = score(
            cell.task.truth,
            labels,
            None if confidence is None else np.array(confidence),
            cell.task.reference.obs[LABEL].to_numpy(dtype=object),
        )
        rows.append({**common, "name": cell.method.name + suffix, "status": "ok", **outcome, **scores})
    return rows
