"""The command line: what is not cached is run, then the report is written."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks._data import RESULTS, run_info
from benchmarks.accuracy._config import CONFIG, Config, read_config
from benchmarks.accuracy._nested import write_nested
from benchmarks.accuracy._report import write_report


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks accuracy",
        description="Tasks × methods × seeds; what was computed before is taken from cells.jsonl.",
    )
    parser.add_argument("--config", type=Path, default=CONFIG, help="tasks and methods (default: accuracy.toml)")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="only these (default: all of the config)")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="only these (default: all that are enabled)")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="instead of the config's")
    parser.add_argument("--report-only", action="store_true", help="compute nothing; needs no data")
    parser.add_argument(
        "--nested", action="store_true", help="choose our setting without the study that it is judged on; needs no data"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "accuracy", help="folder of the cache and the report")
    given = parser.parse_args(arguments)
    config = read_config(given.config)
    tasks = _chosen(parser, "--tasks", given.tasks, list(config.tasks))
    enabled = [name for name, method in config.methods.items() if method.enabled]
    methods = _chosen(parser, "--methods", given.methods, list(config.methods), default=enabled)
    if given.nested and (given.tasks or given.methods or given.seeds):
        parser.error("--nested uses what the config lists: give it neither --tasks nor --methods nor --seeds.")
    if not (given.report_only or given.nested):
        _compute(config, tasks, methods, given.seeds, given.out)
    kept = ["accuracy", *(shlex.quote(Path(each).name if each == str(given.config) else each) for each in arguments)]
    info = run_info(kept, packages=["transanno"])
    if given.nested:
        write_nested(config, given.out, info)
        return 0
    # Settings to choose from are many, and nested.md has them.
    settings = config.nested.methods if config.nested is not None and not given.methods else ()
    write_report(config, tasks, [name for name in methods if name not in settings], given.out, info)
    return 0


def _chosen(
    parser: argparse.ArgumentParser,
    option: str,
    given: list[str] | None,
    known: list[str],
    default: list[str] | None = None,
) -> list[str]:
    unknown = set(given or ()) - set(known)
    if unknown:
        parser.error(f"{option}: {', '.join(sorted(unknown))} not in the config, which has: {', '.join(known)}.")
    return given or default or known


def _compute(
    config: Config, tasks: Sequence[str], methods: Sequence[str], seeds: Sequence[int] | None, out: Path
) -> None:
    # Not at the top: a report needs neither the data nor torch.
    from benchmarks.accuracy._cells import Cell, append_rows, is_done, key_of, read_rows, run_cell
    from benchmarks.accuracy._tasks import check_studies, make_task

    for name in tasks:
        check_studies(name, config.tasks[name], config.studies[name])
    path = out / "cells.jsonl"
    for name in tasks:
        task = make_task(name, config.tasks[name], n_genes=config.n_genes, one_batch=config.one_batch)
        with tempfile.TemporaryDirectory() as scratch:
            task.write(Path(scratch))
            for method in (config.methods[each] for each in methods):
                for seed in method.seeds if method.seeds is not None else (seeds or config.seeds):
                    cell = Cell(task, config.tasks[name], method, seed, config.cores)
                    if is_done(read_rows(path), key_of(cell.identity()), method.hours):
                        continue
                    rows = run_cell(cell, Path(scratch))
                    if config.nested is not None and method.name in config.nested.methods:
                        # Of many ways of predicting, scores are enough; calls of single cells would be megabytes.
                        rows = [{key: row[key] for key in row if key not in ("calls", "per_type")} for row in rows]
                    append_rows(path, rows)
                    for row in rows:
                        _say(row)


def _say(row: dict) -> None:
    result = row["status"] if row["status"] != "ok" else f"macro-F1 {row['macro_f1']:.3f}"
    seconds = f", {row['fit_seconds'] + row['predict_seconds']:.1f} s" if row["status"] == "ok" else ""
    error = f": {row['error']}" if row["status"] == "failed" else ""
    print(f"{row['task']} | {row['name']} | seed {row['seed']}: {result}{seconds}{error}", file=sys.stderr, flush=True)
