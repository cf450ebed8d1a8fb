"""``python -m benchmarks`` lists the benchmarks, ``python -m benchmarks speed --quick`` runs one."""

from __future__ import annotations

import sys
from importlib import import_module

BENCHMARKS = {
    "speed": "training and prediction throughput and peak memory, by torch and JAX, against scANVI and CellTypist",
    "gpu": "training and prediction of 100,000 cells on a CUDA device, and what the paper's network fits on it",
    "scale": "time and peak memory of annotating queries on disk of 30,000 to 1,000,000 cells",
    "processes": "accuracy and time of models that two processes trained, against one",
    "memory": "peak memory of training on 30,000 and 100,000 cells, in memory and on disk",
    "accuracy": "tasks × methods × seeds, against linear models, CellTypist and scANVI; cached cell by cell",
    "ablation": "what each part of the default model is worth, over many tasks",
    "pretraining": "what pretraining on the data at hand, on other studies of the organ and on all others is worth",
    "masked": "masked-expression pretraining, against always guessing each gene's commonest bin",
    "paper": "the paper's network and training against the defaults, on mouse pancreas",
    "align": "time and peak memory of pp.align_genes on a large sparse matrix",
    "evidence": "textbook markers among the genes that decide, completeness, and votes of clusters",
    "trust": "unknown cells, label sets and calibration across studies, and the limits that the package ships",
    "models": "three models to share, trained, judged on other studies and described; one of them ships with the package",
    "report": "pictures of a report for the docs; needs Chromium",
    "adaptation": "training on the unlabeled query: predictions before and after",
}


def main() -> int:
    arguments = sys.argv[1:]
    if arguments and arguments[0] in BENCHMARKS:
        return import_module(f"benchmarks.{arguments[0]}").main(arguments[1:])
    print("usage: python -m benchmarks NAME [options]; python -m benchmarks NAME --help lists the options\n")
    for name, about in BENCHMARKS.items():
        print(f"  {name:<12}{about}")
    return 0 if not arguments or arguments[0] in ("-h", "--help") else 2


if __name__ == "__main__":
    sys.exit(main())
