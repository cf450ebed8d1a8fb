"""What the benchmarks read, published data sets, and what they write, a table and its numbers."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
LABEL, BATCH = "cell_type", "batch"


# -- data in ---------------------------------------------------------------------------------------------------------


def data_folder() -> Path:
    """-> folder with ``pairs.json`` and the data sets that it names; ends the program if there is none."""
    named = os.environ.get("TRANSANNO_DATA")
    folder = Path(named).expanduser() if named else ROOT.parent / "shared" / "data"
    if not (folder / "pairs.json").is_file():
        where = "the folder that TRANSANNO_DATA names" if named else "../shared/data, beside the repository,"
        raise SystemExit(
            f"No benchmark data: {where} has no pairs.json. The benchmarks run on published data sets that are not part "
            "of the repository; benchmarks/README.md says which. Set TRANSANNO_DATA to the folder that holds them."
        )
    return folder


def read_pairs() -> dict[str, dict[str, Any]]:
    """-> description of every reference -> query pair, by its id."""
    pairs = json.loads((data_folder() / "pairs.json").read_text(encoding="utf-8"))
    return {pair["id"]: pair for pair in pairs}


def read_studies() -> dict[str, str]:
    """-> study of every file: one experiment of one laboratory."""
    return json.loads((data_folder() / "studies.json").read_text(encoding="utf-8"))


def load_pair(pair: dict[str, Any]) -> tuple[AnnData, AnnData]:
    """Description of a pair -> reference and query, raw counts of their own genes, labels in ``obs["cell_type"]``."""
    reference, query = (load_side(pair[side], pair["label"]) for side in ("ref", "query"))
    return reference, query


def load_side(side: dict[str, Any], label: str) -> AnnData:
    """Side of a pair -> its cells with label and batch as text.

    ``label_map`` renames labels, so that both sides name a type alike; ``symbols: "upper"`` makes genes of two species
    comparable.
    """
    adata = ad.read_h5ad(data_folder() / side["file"])
    if side["filter"] is not None:
        adata = adata[_is_kept(adata, **side["filter"])].copy()
    adata.obs = adata.obs[[label, BATCH]].astype(str).set_axis([LABEL, BATCH], axis=1)
    adata.obs[LABEL] = adata.obs[LABEL].replace(side.get("label_map", {}))
    symbols = side.get("symbols")
    if symbols not in (None, "upper"):
        raise ValueError(f"The symbols of a side are {symbols!r}. Allowed: 'upper', or nothing.")
    return upper_symbols(adata) if symbols == "upper" else adata


def upper_symbols(adata: AnnData) -> AnnData:
    """-> symbols in upper case; of those that differ in case alone the first is kept."""
    upper = adata.var_names.str.upper()
    adata = adata[:, ~upper.duplicated()].copy()
    adata.var_names = upper.drop_duplicates()
    return adata


def on_shared_genes(reference: AnnData, query: AnnData) -> tuple[AnnData, AnnData]:
    """-> both restricted to the genes that both have, in the reference's order."""
    genes = reference.var_names[reference.var_names.isin(query.var_names)]
    return reference[:, genes].copy(), query[:, genes].copy()


def _is_kept(adata: AnnData, *, column: str, op: str, values: Sequence[str]):
    """Filter of ``pairs.json`` -> ``(n_obs,)`` bool."""
    is_listed = adata.obs[column].isin(values).to_numpy()
    if op not in ("in", "not in"):
        raise ValueError(f"The filter of a pair has op {op!r}. Allowed: 'in', 'not in'.")
    return is_listed if op == "in" else ~is_listed


def score(truth: pd.Series, predicted: np.ndarray, reference_labels: pd.Series) -> tuple[float, float]:
    """-> macro-F1 over the types that both sides have, and accuracy, of the query's cells of these types."""
    from transanno.metrics import evaluate

    # Here every cell has a label, whatever it is called.
    summary = evaluate(truth, predicted, labels=reference_labels.unique(), unlabeled_category="").summary
    return float(summary["macro_f1"]), float(summary["accuracy"])


# -- results out -----------------------------------------------------------------------------------------------------


def run_info(command: Sequence[str], *, packages: Iterable[str]) -> dict[str, Any]:
    """What a number depends on beside the code: command, date, machine, versions."""
    kept = list(command)
    if "--out" in kept:  # a path on this machine, and without influence
        del kept[kept.index("--out") : kept.index("--out") + 2]
    return {
        "command": " ".join(["python -m benchmarks", *kept]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        # Above 0 something else was running, and times are too long.
        "load_before": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in packages},
    }


def write_results(name: str, folder: Path, info: dict[str, Any], sections: Sequence[str], numbers: Any) -> None:
    """Print the report, and write it to ``{name}.md`` and the numbers to ``{name}.json``."""
    versions = ", ".join(f"{package} {number}" for package, number in info["versions"].items())
    header = "\n".join(
        [
            f"# Benchmark: {name}\n",
            f"- command: `{info['command']}`",
            f"- date: {info['date']}",
            f"- machine: {info['cpu']}, {info['cores']} cores, load average before the run {info['load_before']}",
            f"- versions: Python {info['python']}, {versions}",
        ]
    )
    report = "\n\n".join([header, *sections]) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(report, encoding="utf-8")
    (folder / f"{name}.json").write_text(json.dumps({**info, **numbers}, indent=2) + "\n", encoding="utf-8")
    print(report)


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """-> table with the first column left-aligned and numbers to the right."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
