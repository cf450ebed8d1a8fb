"""One method on one task in a process of its own: its memory is its own, and its crash ends nothing else.

``python -m benchmarks.accuracy._worker FOLDER`` reads the task and ``request.json`` there and writes ``answer.json``.
The query's labels are in none of these files.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from importlib import import_module
from pathlib import Path

import anndata as ad

from benchmarks.speed import peak_memory

GIB = 2**30


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    reference, query = (ad.read_h5ad(folder / f"{side}.h5ad") for side in ("reference", "query"))
    data_gib = peak_memory() / GIB
    module, function = request["run"].split(":")
    method = getattr(import_module(f"benchmarks.accuracy.{module}"), function)

    start = time.perf_counter()
    fitted = method(reference, seed=request["seed"], cores=request["cores"], **request["settings"])
    fit_seconds = time.perf_counter() - start

    answers = {}
    for name, predict in fitted.items():
        start = time.perf_counter()
        labels, confidence = predict(query.copy())
        seconds = time.perf_counter() - start
        answers[name] = {
            "labels": [str(label) for label in labels],
            "confidence": None if confidence is None else [float(value) for value in confidence],
            "fit_seconds": fit_seconds,
            "predict_seconds": seconds,
            "peak_gib": peak_memory() / GIB,
            "data_gib": data_gib,
        }
    (folder / "answer.json").write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
