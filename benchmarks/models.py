"""Models for others: trained, judged on other studies, and written with their cards, ready to be shared."""

from __future__ import annotations

import argparse
import shutil
import tomllib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from benchmarks._data import (
    LABEL,
    RESULTS,
    ROOT,
    load_side,
    markdown_table,
    read_studies,
    run_info,
    write_results,
)

PACKAGES = ("transanno", "scvi-tools", "torch", "scikit-learn", "scanpy", "anndata", "numpy", "scipy")
SHIPPED = ROOT / "src" / "transanno" / "shipped"
SHIPPED_NAME = "blood"
MAX_SHIPPED_BYTES = 2_000_000


def read_config() -> dict[str, dict[str, Any]]:
    """-> what every model is made of, by name; SystemExit if one is judged on a study that it was trained on."""
    config = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    studies = read_studies()
    for name, model in config.items():
        if studies[model["reference"]["file"]] in {studies[judged["file"]] for judged in model["judged"]}:
            raise SystemExit(f"{name} is judged on the study that it is trained on.")
    return config


def load_cells(side: dict[str, Any]) -> AnnData:
    """A file, and how it names types -> cells with types in ``obs["cell_type"]``."""
    return load_side({"filter": None, **side}, LABEL)


def make_model(name: str, config: dict[str, Any], out: Path) -> dict[str, Any]:
    """Train, write, load what was written, judge it, and write it again with the scores on its card -> scores and sizes."""
    from transanno import TransAnno, tl
    from transanno.metrics import evaluate

    reference, folder = load_cells(config["reference"]), out / name
    genes = {"n_top_genes": config["n_top_genes"]} if "n_top_genes" in config else {}
    model = tl.fit_reference(reference, LABEL, accelerator="cpu", enable_progress_bar=False, **genes)
    row: dict[str, Any] = {"name": name, "n_cells": reference.n_obs, "n_genes": len(model.genes), "scores": {}}
    if config.get("half_precision", False):
        row["largest_change"] = halve(model, load_cells({"file": config["judged"][0]["file"]}))
    about = {key: config[key] for key in ("license", "description")}
    model.save_for_hub(folder, overwrite=True, **about)
    evaluation = {}
    for judged in config["judged"]:
        found, query = TransAnno.from_hub(folder, accelerator="cpu"), load_cells({"file": judged["file"]})
        truth = query.obs.pop(LABEL)
        tl.annotate(query, model=found, accelerator="cpu")
        called, known = (
            pd.Series(names).replace(judged.get("calls", {}))
            for names in (query.obs["transanno"].astype(str), found.labels)
        )
        scores = evaluate(truth, called, labels=known.unique(), unlabeled_category="")
        evaluation[judged["name"]] = scores
        keys = ("accuracy", "macro_f1", "n_cells", "n_cells_unseen")
        row["scores"][judged["name"]] = {key: float(scores.summary[key]) for key in keys}
    model.save_for_hub(folder, overwrite=True, evaluation=evaluation, **about)
    row["bytes"] = sum(file.stat().st_size for file in folder.iterdir())
    return row


def halve(model: Any, query: AnnData) -> float:
    """Round the weights to half precision, in which they are then saved -> largest change of a probability of the query."""
    del query.obs[LABEL]
    before = model.predict(query, soft=True, key_added=None)
    model.module.half().float()
    after = model.predict(query, soft=True, key_added=None)
    model.module.half()  # is saved so; a model that is loaded computes in single precision again
    return float(np.abs(before.to_numpy() - after.to_numpy()).max())


def ship(folder: Path) -> None:
    """Put a model into the package, and its checksum into the package's registry."""
    from transanno.data._files import MODEL_FILE
    from transanno.saving._checksums import sha256_of

    size = sum(file.stat().st_size for file in folder.iterdir())
    if size > MAX_SHIPPED_BYTES:
        raise SystemExit(
            f"{folder} takes {size:,} bytes, more than the {MAX_SHIPPED_BYTES:,} that may ship with the package."
        )
    shutil.copytree(folder, SHIPPED / folder.name, dirs_exist_ok=True)
    lines = [
        "# Models that come with the package; `python -m benchmarks models --ship` writes this file.",
        "",
        f"[{folder.name}]",
        f'folder = "{folder.name}"',
        f'sha256 = "{sha256_of(folder / MODEL_FILE)}"',
    ]
    (SHIPPED / "models.toml").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def report(rows: Sequence[dict[str, Any]]) -> list[str]:
    """-> sections of the report."""
    about = (
        "Every model is trained by `tl.fit_reference` and judged as it was written to disk, by `tl.annotate(query, model=folder)`, both with "
        "their defaults, on studies that it was not trained on. Scored are cells of types that the model knows, or that hold those that it knows: "
        "where a study tells T cells or monocytes apart no further, its calls are merged. "
        "`models.toml` says what was trained and judged on, and the cards have the scores of every type."
    )
    table = [
        [
            row["name"],
            judged,
            f"{scores['accuracy']:.3f}",
            f"{scores['macro_f1']:.3f}",
            f"{scores['n_cells']:.0f}",
            f"{scores['n_cells_unseen']:.0f}",
        ]
        for row in rows
        for judged, scores in row["scores"].items()
    ]
    sizes = [[row["name"], f"{row['n_cells']:,}", f"{row['n_genes']:,}", f"{row['bytes']:,}"] for row in rows]
    changes = [
        f"Weights of `{row['name']}` are stored in half precision; on the first study that it is judged on, that changes no probability "
        f"by more than {row['largest_change']:.1e}."
        for row in rows
        if "largest_change" in row
    ]
    return [
        about,
        markdown_table(
            ["model", "judged on", "accuracy", "macro-F1", "cells", "cells of unknown types, left out"], table
        ),
        markdown_table(["model", "cells", "genes", "bytes"], sizes),
        *changes,
    ]


def main(arguments: Sequence[str]) -> int:
    """Make the models, and write the report."""
    config = read_config()
    parser = argparse.ArgumentParser(prog="python -m benchmarks models", description=__doc__)
    parser.add_argument(
        "--names", nargs="+", choices=sorted(config), default=list(config), metavar="NAME", help="default: all"
    )
    parser.add_argument(
        "--models", type=Path, default=ROOT / "models", metavar="DIR", help="where to write them (default: %(default)s)"
    )
    parser.add_argument("--ship", action="store_true", help=f"put {SHIPPED_NAME!r} into the package")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, metavar="DIR", help="where to write the report (default: %(default)s)"
    )
    parsed = parser.parse_args(arguments)
    if parsed.ship and SHIPPED_NAME not in parsed.names:
        parser.error(f"--ship needs {SHIPPED_NAME} among --names")
    info = run_info(["models", *arguments], packages=PACKAGES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = [make_model(name, config[name], parsed.models) for name in parsed.names]
    if parsed.ship:
        ship(parsed.models / SHIPPED_NAME)
    write_results("models", parsed.out, info, report(rows), {"models": rows})
    return 0
