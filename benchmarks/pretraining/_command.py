"""The command line: what is not cached is run, then the report is written."""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from benchmarks._data import RESULTS, run_info
from benchmarks.pretraining._config import CONFIG, read_config
from benchmarks.pretraining._report import write_report


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks pretraining",
        description="Tasks × cells to pretrain on × labels × seeds; what was computed before is taken from cells.jsonl.",
    )
    parser.add_argument("--config", type=Path, default=CONFIG, help="tasks and organs (default: pretraining.toml)")
    parser.add_argument("--studies", nargs="+", metavar="STUDY", help="only these queries (default: all of the config)")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="instead of the config's")
    parser.add_argument("--models", type=Path, help="folder to keep pretrained models in (default: they are not kept)")
    parser.add_argument("--report-only", action="store_true", help="compute nothing; needs no data")
    parser.add_argument("--out", type=Path, default=RESULTS / "pretraining", help="folder of the cache and the report")
    given = parser.parse_args(arguments)
    config = read_config(given.config)
    unknown = set(given.studies or ()) - set(config.tasks)
    if unknown:
        parser.error(
            f"--studies: {', '.join(sorted(unknown))} not in the config, which has: {', '.join(config.tasks)}."
        )
    if not given.report_only:
        # Not at the top: a report needs neither the data nor torch.
        import torch

        from benchmarks.pretraining._run import CORES, compute

        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        torch.set_num_threads(CORES)
        with tempfile.TemporaryDirectory() as scratch:
            compute(
                config,
                studies=given.studies or list(config.tasks),
                seeds=given.seeds or config.seeds,
                path=given.out / "cells.jsonl",
                models=given.models or Path(scratch),
            )
    write_report(config, given.out, run_info(["pretraining", *arguments], packages=["transanno"]))
    return 0
