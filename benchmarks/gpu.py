"""Training and prediction of 100,000 cells on a CUDA device, and what the paper's network fits on it.

The reference and the query are drawn from real cells and thinned, so that no two are alike. Where there is no CUDA device, nothing is run.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from benchmarks._data import (
    LABEL,
    RESULTS,
    load_pair,
    markdown_table,
    on_shared_genes,
    read_pairs,
    run_info,
    score,
    write_results,
)
from benchmarks.speed import GIB, PAIR, enlarged

_PAPER_GENES = 16_906
_REPEATS, _N_RESIDENT = 5, 16_384
_PRECISIONS = ("32-true", "bf16-mixed")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=100_000, metavar="N", help="of the reference, and of the query")
    parser.add_argument("--genes", type=int, default=2_000, metavar="N")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR")
    given = parser.parse_args(arguments)
    import torch

    if not torch.cuda.is_available():
        print("Not run: torch finds no CUDA device.", file=sys.stderr)
        return 0
    warnings.simplefilter("ignore")
    info = run_info(["gpu", *arguments], packages=["transanno", "scvi-tools", "torch", "lightning", "anndata"])
    card = torch.cuda.get_device_properties(0)
    info["cpu"] += f"; {card.name}, {card.total_memory / GIB:.0f} GiB"
    reference, query = make_data(given.cells, given.genes)
    results: dict[str, Any] = {"train": [], "predict": [], "bandwidth": {}, "paper": []}
    model: Any = None
    for device, precision in [("cpu", _PRECISIONS[0]), *(("gpu", precision) for precision in _PRECISIONS)]:
        row, trained = train(reference, query, device, precision)
        results["train"].append(row)
        model = trained if (device, precision) == ("gpu", _PRECISIONS[0]) else model
        print(row, file=sys.stderr, flush=True)
    results["predict"] = [predict(model, query, device) for device in ("cpu", "gpu")]
    print(results["predict"], file=sys.stderr, flush=True)
    results["bandwidth"] = bandwidth(model, query)
    print(results["bandwidth"], file=sys.stderr, flush=True)
    del model, trained
    for precision in _PRECISIONS:
        results["paper"].append(paper(precision))
        print(results["paper"][-1], file=sys.stderr, flush=True)
    write_results("gpu", given.out, info, report(results, given.cells, given.genes), results)
    return 0


def make_data(n_cells: int, n_genes: int) -> tuple[AnnData, AnnData]:
    """-> reference and query of so many cells each, on the same highly variable genes."""
    from transanno.tl import select_genes

    reference, query = on_shared_genes(*load_pair(read_pairs()[PAIR]))
    genes = select_genes(reference, n_top_genes=n_genes)
    rng = np.random.default_rng(0)
    return tuple(enlarged(adata[:, genes].copy(), n_cells, rng) for adata in (reference, query))


def train(reference: AnnData, query: AnnData, device: str, precision: str) -> tuple[dict[str, Any], Any]:
    """-> time of the default training, and the model."""
    import scvi
    import torch

    from transanno import TransAnno

    scvi.settings.seed = 0
    options = {"accelerator": device, "precision": precision, "enable_progress_bar": False}
    TransAnno.setup_anndata(reference, labels_key=LABEL)
    TransAnno(reference).train(max_epochs=1, limit_train_batches=2, **options)
    model = TransAnno(reference)
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    model.train(**options)
    seconds = time.perf_counter() - start
    n_steps = model.trainer.global_step
    row = {
        "device": device,
        "precision": precision,
        "seconds": seconds,
        "episodes": n_steps,
        "episodes_per_second": n_steps / seconds,
        "card_gib": torch.cuda.max_memory_allocated() / GIB if device == "gpu" else None,
    }
    _, accuracy = score(query.obs[LABEL], model.predict(query), reference.obs[LABEL])
    return row | {"accuracy": accuracy}, model


def predict(model: Any, query: AnnData, device: str) -> dict[str, Any]:
    """-> cells per second from counts in memory to labels."""
    model.to_device("cuda:0" if device == "gpu" else "cpu")
    model.predict(query)
    seconds = _timed(lambda: model.predict(query))
    return {"device": device, "seconds": seconds, "cells_per_second": query.n_obs / seconds}


def bandwidth(model: Any, query: AnnData) -> dict[str, Any]:
    """-> what the network alone does with counts that are on the card, against copying on it."""
    import torch

    model.to_device("cuda:0")
    module, size = model.module.eval(), model.module.encoder.inference_batch_size
    n_cells = min(_N_RESIDENT, query.n_obs)
    counts = torch.from_numpy(sp.csr_matrix(query.X[:n_cells]).toarray()).float().cuda()
    batch = torch.zeros(n_cells, 1, dtype=torch.long, device="cuda")

    def run() -> None:
        with torch.inference_mode():
            for start in range(0, n_cells, size):
                module.inference(counts[start : start + size], batch[start : start + size])
        torch.cuda.synchronize()

    source = torch.empty(2**30, dtype=torch.float32, device="cuda")  # 4 GiB, far more than any cache
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        torch.cuda.synchronize()

    run()
    copy()
    seconds, copied = _timed(run), _timed(copy)
    read = counts.numel() * counts.element_size() / seconds
    peak = 2 * source.numel() * source.element_size() / copied
    return {"cells_per_second": n_cells / seconds, "bytes_per_second": read, "card": peak, "share": read / peak}


def paper(precision: str) -> dict[str, Any]:
    """-> cells of the largest minibatch that the paper's network trains with, and cells per second then."""
    import torch

    largest, rate, size = 0, 0.0, 16
    failed: int | None = None
    while failed is None or failed - largest > max(largest // 4, 1):
        try:
            rate, largest = paper_rate(size, precision), size
        except torch.cuda.OutOfMemoryError:
            failed = size
        gc.collect()
        torch.cuda.empty_cache()
        size = 2 * largest if failed is None else (largest + failed) // 2
    return {"precision": precision, "largest": largest, "cells_per_second": float(rate)}


def paper_rate(size: int, precision: str) -> float:
    """Train on a few minibatches of so many cells -> cells per second."""
    from lightning.pytorch.callbacks import Callback

    from transanno import TransAnno
    from transanno.presets import PAPER

    n_steps, rng = 3, np.random.default_rng(0)
    counts = sp.random(n_steps * size, _PAPER_GENES, 0.1, "csr", np.float32, rng, lambda n: rng.integers(1, 20, n))
    adata = AnnData(counts)
    adata.obs[LABEL] = np.resize(["a", "b"], adata.n_obs)
    TransAnno.setup_anndata(adata, labels_key=LABEL)
    model = TransAnno(adata, **PAPER.model)
    times: list[float] = []

    class Clock(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            import torch

            torch.cuda.synchronize()
            times.append(time.perf_counter())

    options: dict[str, Any] = {
        "max_epochs": 1,
        "train_size": 1.0,
        "batch_size": size,
        "plan_kwargs": PAPER.finetune["plan_kwargs"],
    }
    model.train(
        **options, accelerator="gpu", precision=precision, enable_progress_bar=False, callbacks=[Clock()]
    )  # fmt: skip
    return size / statistics.median(np.diff(times))


def _timed(call: Callable[[], object]) -> float:
    """-> median seconds."""
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def report(results: dict[str, Any], n_cells: int, n_genes: int) -> list[str]:
    """-> sections of the report."""
    names = {"cpu": "CPU", "gpu": "GPU"}
    trained = [
        [
            f"{names[row['device']]}, {row['precision']}", f"{row['seconds']:.1f}", f"{row['episodes']:,}",
            f"{row['episodes_per_second']:.0f}", "–" if row["card_gib"] is None else f"{row['card_gib']:.2f}", f"{row['accuracy']:.3f}",
        ]
        for row in results["train"]
    ]  # fmt: skip
    predicted = [
        [names[row["device"]], f"{row['seconds']:.2f}", f"{row['cells_per_second']:,.0f}"] for row in results["predict"]
    ]
    largest = [[row["precision"], f"{row['largest']:,}", f"{row['cells_per_second']:,.1f}"] for row in results["paper"]]
    card = results["bandwidth"]
    return [
        f"{n_cells:,} cells and {n_genes:,} highly variable genes each: a reference drawn from sorted PBMC, a query drawn from pbmc3k.",
        "## Training, defaults of `train()`\n\n"
        + markdown_table(["", "seconds", "episodes", "episodes/s", "card, GiB", "accuracy on the query"], trained),
        "## `predict(query)`, from counts in memory to labels\n\n"
        + markdown_table(["", "seconds", "cells/s"], predicted),
        "## The network alone, counts on the card\n\n"
        f"{card['cells_per_second']:,.0f} cells/s. It reads {card['bytes_per_second'] / 1e9:,.0f} GB/s of counts, "
        f"{card['share']:.1%} of the {card['card'] / 1e9:,.0f} GB/s that copying on the card reaches.",
        f"## The paper's network, {_PAPER_GENES:,} genes\n\n"
        + markdown_table(["precision", "largest minibatch that trains, cells", "cells/s"], largest),
    ]
