"""The command line: tasks that are not cached are run, then the report is written."""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

from benchmarks._data import RESULTS, ROOT, run_info
from benchmarks.trust._report import write_report
from benchmarks.trust._rows import read_rows

FIGURE = ROOT / "docs" / "_static" / "trust.png"
PACKAGES = ("transanno", "scvi-tools", "torch", "scikit-learn", "celltypist", "scanpy")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks trust",
        description="Unknown cells, label sets and calibration on pairs of studies, limits chosen without the study that they "
        "are judged on; what was computed before is taken from trust.jsonl and scanvi.jsonl.",
    )
    parser.add_argument("--max-cells", type=int, default=3000, help="cells of a reference, and of a query, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scanvi", action="store_true", help="ranking by scANVI, too, a minute or two for a pair")
    parser.add_argument("--figure", action="store_true", help=f"draw {FIGURE.relative_to(ROOT)}")
    parser.add_argument("--report-only", action="store_true", help="compute nothing; needs no data")
    parser.add_argument("--out", type=Path, default=RESULTS / "trust", help="folder of the cache and the report")
    given = parser.parse_args(arguments)
    path = given.out / "trust.jsonl"
    info = run_info(["trust", *arguments], packages=PACKAGES)
    if not given.report_only:
        from benchmarks.trust._run import compute, compute_scanvi

        logging.disable(logging.WARNING)
        warnings.filterwarnings("ignore", module="celltypist|sklearn|lightning")
        compute(path, max_cells=given.max_cells, seed=given.seed)
    size = {"max_cells": given.max_cells, "seed": given.seed}
    rows = [row for row in read_rows(path) if size.items() <= row.items()]
    path = given.out / "scanvi.jsonl"
    if given.scanvi and not given.report_only:
        compute_scanvi(path, rows, **size)
    ranked = {row["task"]: row["auroc"] for row in read_rows(path) if size.items() <= row.items()}
    for row in rows:
        if row["task"] in ranked:
            row["auroc"]["scANVI"] = ranked[row["task"]]
    write_report(rows, given.out, info, FIGURE if given.figure else None)
    return 0
