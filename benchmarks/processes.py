"""Accuracy and time of models trained in one process and in two, on pairs.

torchrun starts the two, on the CPU, with the same script; torch has one thread in each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks._data import LABEL, RESULTS, ROOT, load_pair, markdown_table, read_pairs, run_info, score, write_results

_PAIRS = ["P1_baron_m1_m2", "D02_enge_baron", "D15_zanini_pbmc3k"]
_ABOUT = (
    '`tl.fit_reference(reference, ..., devices=2, strategy="ddp")` started by torchrun, against the same in one process; calibration by a '
    "twin included. Updates: of the weights, each by one minibatch of 128 cells for every process. Refined by `tl.annotate`."
)
MAX_DIFFERENCE = 0.02


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks processes", description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", nargs="+", default=_PAIRS, metavar="ID")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], metavar="N")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR")
    given = parser.parse_args(arguments)
    info = run_info(["processes", *arguments], packages=["transanno", "scvi-tools", "torch", "lightning"])
    rows = []
    for pair in given.pairs:
        for n_processes in (1, 2):
            for seed in given.seeds:
                rows.append(_in_processes(pair, n_processes, seed))
                print(rows[-1], file=sys.stderr, flush=True)
    means = {
        (pair, n): {
            key: sum(row[key] for row in rows if (row["pair"], row["n_processes"]) == (pair, n)) / len(given.seeds)
            for key in ("accuracy", "macro_f1", "n_updates", "seconds")
        }
        for pair in given.pairs
        for n in (1, 2)
    }
    table = [
        [
            pair,
            str(n),
            f"{of['accuracy']:.3f}",
            f"{of['macro_f1']:.3f}",
            f"{of['n_updates']:.0f}",
            f"{of['seconds']:.0f}",
        ]
        for (pair, n), of in means.items()
    ]
    header = ["pair", "processes", "accuracy", "macro-F1", "updates", "seconds"]
    write_results("processes", given.out, info, [_ABOUT, markdown_table(header, table)], {"rows": rows})
    worst = max(means[pair, 1]["macro_f1"] - means[pair, 2]["macro_f1"] for pair in given.pairs)
    return int(worst > MAX_DIFFERENCE)


def _in_processes(pair: str, n_processes: int, seed: int) -> dict[str, Any]:
    """Train on a pair's reference -> how well the query is annotated."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_processes}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    with tempfile.TemporaryDirectory() as folder:
        asked = json.dumps({"pair": pair, "n_processes": n_processes, "seed": seed})
        command = [*launch, "-m", "benchmarks.processes", asked]
        subprocess.run(
            command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        return json.loads((Path(folder) / "found.json").read_text())


def train(pair: str, n_processes: int, seed: int) -> None:
    """What every process does; the first one writes what it found."""
    import torch

    import transanno

    torch.set_num_threads(1)
    reference, query = load_pair(read_pairs()[pair])
    several: dict[str, Any] = {"devices": n_processes, "strategy": "ddp"} if n_processes > 1 else {}
    start = time.perf_counter()
    model = transanno.tl.fit_reference(
        reference,
        LABEL,
        query_genes=query.var_names,
        seed=seed,
        accelerator="cpu",
        enable_progress_bar=False,
        **several,
    )
    seconds = time.perf_counter() - start
    if not model.trainer.is_global_zero:
        return
    truth = query.obs[LABEL].copy()
    transanno.tl.annotate(query, model=model, accelerator="cpu")
    macro_f1, accuracy = score(truth, query.obs["transanno"].astype(str).to_numpy(), reference.obs[LABEL])
    found = {
        "pair": pair, "n_processes": n_processes, "seed": seed, "accuracy": accuracy, "macro_f1": macro_f1,
        "n_updates": model.trainer.global_step, "seconds": seconds,
    }  # fmt: skip
    Path("found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    train(**json.loads(sys.argv[1]))
