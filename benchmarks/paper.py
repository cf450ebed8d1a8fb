"""The paper's network and training against the defaults, on mouse pancreas: accuracy, macro-F1, time and memory.

One mouse of Baron et al. is the reference, the other the query, so no cell and no donor is on both sides. Every row
runs in a process of its own. TransAnno-Net as it was trained (16,906 genes, 100 epochs of pretraining) takes GPUs and
hours; ``--n-genes``, ``--pretrain-epochs`` and ``--finetune-epochs`` make it fit a CPU, and the report says what was
left of it.
"""

from __future__ import annotations

import argparse
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks._data import (
    LABEL,
    RESULTS,
    load_pair,
    markdown_table,
    on_shared_genes,
    read_pairs,
    run_info,
    write_results,
)
from benchmarks.speed import GIB, current_memory, peak_memory

PAIR = "P1_baron_m1_m2"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    model: str  # "paper" or "default"
    training: str
    is_pretrained: bool


ROWS = {
    "default": Row("views, default training", "default", "default", is_pretrained=False),
    "default-pretrained": Row("the same, pretrained on the reference", "default", "default", is_pretrained=True),
    "views-paper": Row("views, the paper's training", "default", "paper", is_pretrained=True),
    "paper": Row("Performer and Conv1D head, the paper's training", "paper", "paper", is_pretrained=True),
}


def measure(row: Row, n_genes: int, pretrain_epochs: int, finetune_epochs: int, seed: int) -> dict[str, Any]:
    """Runs in a fresh process -> scores, seconds and memory of one row."""
    warnings.simplefilter("ignore")
    import scvi

    from transanno import TransAnno, TransAnnoPretrain
    from transanno.metrics import evaluate
    from transanno.presets import PAPER
    from transanno.tl import select_genes

    scvi.settings.seed = seed
    reference, query = on_shared_genes(*load_pair(read_pairs()[PAIR]))
    genes = select_genes(reference, n_top_genes=n_genes)
    reference, query = reference[:, genes].copy(), query[:, genes].copy()
    before = current_memory()
    quiet = {"accelerator": "cpu", "enable_progress_bar": False}
    if row.model != "paper":  # fast enough for all of the paper's epochs
        pretrain_epochs, finetune_epochs = PAPER.pretrain["max_epochs"], PAPER.finetune["max_epochs"]
    of_paper = row.training == "paper"
    architecture = dict(PAPER.model) if row.model == "paper" else {}
    seconds, about = {"pretraining": 0.0}, {}
    start = time.perf_counter()
    if row.is_pretrained:
        TransAnnoPretrain.setup_anndata(reference)
        pretrained = TransAnnoPretrain(reference, **architecture)
        pretrained.train(**({**PAPER.pretrain, "max_epochs": pretrain_epochs} if of_paper else {}), **quiet)
        seconds["pretraining"] = time.perf_counter() - start
        accuracy = pretrained.get_reconstruction_accuracy(query)
        about = {key: float(accuracy[key]) for key in ("accuracy", "accuracy_commonest")}
        about["epochs"] = len(pretrained.history["train_loss"])
        start = time.perf_counter()
        model = TransAnno.from_pretrained(pretrained, reference, LABEL)
    else:
        TransAnno.setup_anndata(reference, LABEL)
        model = TransAnno(reference, **architecture)
    model.train(**({**PAPER.finetune, "max_epochs": finetune_epochs} if of_paper else {}), **quiet)
    seconds["fine-tuning"] = time.perf_counter() - start
    start = time.perf_counter()
    probabilities = model.predict(query, soft=True)
    seconds["prediction"] = time.perf_counter() - start
    summary = evaluate(query.obs[LABEL], query.obs["transanno"], probabilities=probabilities).summary
    return {
        "row": row.name,
        "n_reference": reference.n_obs,
        "n_query": query.n_obs,
        "n_genes": len(genes),
        "summary": {key: float(value) for key, value in summary.items()},
        "reconstruction": about,
        "finetune_epochs": len(model.history["train_loss"]),
        "seconds": seconds,
        "gib_above_data": (peak_memory() - before) / GIB,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks paper", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--n-genes", type=int, default=2_000)
    parser.add_argument("--pretrain-epochs", type=int, default=100, help="of the Performer's pretraining")
    parser.add_argument("--finetune-epochs", type=int, default=100, help="at most, of the Performer's fine-tuning")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    info = run_info(["paper", *(argv or [])], packages=["transanno", "scvi-tools", "torch"])
    results = []
    for name in arguments.rows:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            epochs = arguments.pretrain_epochs, arguments.finetune_epochs
            results.append(pool.submit(measure, ROWS[name], arguments.n_genes, *epochs, arguments.seed).result())
        print(f"{results[-1]['row']}: {results[-1]['summary']}", flush=True)
    columns = ["", "accuracy", "macro-F1", "AUC", "hidden genes", "commonest bin", "epochs", "pretrain s", "fine-tune s",
               "predict s", "GiB"]  # fmt: skip
    first = results[0]
    text = (
        f"{PAIR}: {first['n_reference']} reference and {first['n_query']} query cells, {first['n_genes']} genes, seed "
        f"{arguments.seed}, predictions not refined. The Performer had at most {arguments.pretrain_epochs} "
        f"epochs of pretraining and {arguments.finetune_epochs} of fine-tuning, the default network with the paper's training "
        "100 and 100 (with early stopping). The paper pretrains for 100 epochs, on 100,000 other cells; its learning rate "
        "rises over the first five, so scores after fewer say nothing about the method. *Hidden genes*: share of the "
        "query's hidden genes whose expression bin was predicted right after pretraining, each row by its own way of "
        "hiding; *commonest bin*: always guessing "
        "each gene's commonest one. *Epochs*: of pretraining + fine-tuning. *GiB*: peak memory above the loaded data."
    )
    table = markdown_table(columns, [_cells(result) for result in results])
    write_results("paper", arguments.out, info, [text, table], {"results": results})


def _cells(result: dict[str, Any]) -> list[str]:
    about, seconds = result["reconstruction"], result["seconds"]
    shares = [f"{about[key]:.3f}" if about else "–" for key in ("accuracy", "accuracy_commonest")]
    return [
        result["row"],
        f"{result['summary']['accuracy']:.3f}",
        f"{result['summary']['macro_f1']:.3f}",
        f"{result['summary']['macro_auc']:.3f}",
        *shares,
        f"{about['epochs'] if about else 0:.0f} + {result['finetune_epochs']}",
        *(f"{seconds[key]:.0f}" for key in ("pretraining", "fine-tuning", "prediction")),
        f"{result['gib_above_data']:.2f}",
    ]
