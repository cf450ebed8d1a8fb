"""What confidence, label sets and novelty are worth: within a study, across studies, and where a type was left out.

Within a study, 30% of the cells or one batch are the query; across studies, the pairs of ``pairs.json``. References and
queries of more than ``--max-cells`` cells are thinned to so many, of a study with many batches two are left out, and of the
types of a pair the four most frequent, so that all but scANVI takes minutes. Random queries are drawn ``--draws`` times, and
their rows are means. scANVI has the settings of ``accuracy.toml`` with scArches. The novelty score was chosen by leaving types out *within* the references of the pairs P1, P2 and P4
(docs/decisions/0009). That held-out cells of the same batches never raise confidence was decided after a look at the
calibration errors of the pairs, and the tail beyond the furthest held-out cell after a look at what `fdr` found in these tasks.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import celltypist
import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from benchmarks._data import BATCH, LABEL, RESULTS, ROOT, load_pair, markdown_table, read_pairs, run_info, write_results
from benchmarks.accuracy._config import read_config
from benchmarks.accuracy._methods import SELECTED
from benchmarks.accuracy._scvi import surgery
from benchmarks.speed import mend_celltypist

# Studies by the file of a pair, and which of their batches are left out in turn; batches of sorted cells are types.
STUDIES = {
    "pancreas": ("P1_baron_m1_m2", ["mouse1", "mouse2"]),
    "blood": ("P2_zheng_pbmc3k", []),
    "oligodendrocytes": ("P4_marques_region", ["zona incerta", "SN-VTA"]),
}
PAIRS = ["P1_baron_m1_m2", "P2_zheng_pbmc3k", "P3_cellmix3", "P4_marques_region"]
LEFT_OUT = ["P1_baron_m1_m2", "P2_zheng_pbmc3k", "P4_marques_region"]
MIN_CELLS, MAX_TYPES, COVERAGE, FDR = 20, 4, 0.9, 0.05
FIGURE = ROOT / "docs" / "_static" / "trust.png"
PACKAGES = ("transanno", "scvi-tools", "torch", "scikit-learn", "celltypist", "scanpy")
WITHIN, BATCHES, ACROSS = "random 30%", "left-out batch", "pair"
_SCORES = ("coverage", "set_size", "empty", "known_called_unknown")

Task = tuple[str, str, AnnData, AnnData]


def tasks(max_cells: int, seed: int, n_draws: int) -> Iterator[Task]:
    """-> kind, name, reference and query."""
    for name, (pair, batches) in STUDIES.items():
        reference, query = load_pair(read_pairs()[pair])
        study = reference if not batches else ad.concat([reference, query])
        for batch in batches:
            is_left_out = (study.obs[BATCH] == batch).to_numpy()
            parts = (study[~is_left_out], study[is_left_out])
            yield BATCHES, f"{name}, {batch}", *(thinned(part, max_cells, seed) for part in parts)
        n_cells = study.obs[LABEL].map(study.obs[LABEL].value_counts())
        common = study[(n_cells > 9).to_numpy()]
        for draw in range(seed, seed + n_draws):
            study = thinned(common, max_cells * 10 // 7, draw)
            train, test = train_test_split(np.arange(study.n_obs), test_size=0.3, random_state=draw)
            yield WITHIN, name, study[np.sort(train)].copy(), study[np.sort(test)].copy()
    for pair in PAIRS:
        yield ACROSS, pair, *(thinned(side, max_cells, seed) for side in load_pair(read_pairs()[pair]))


def without_types(max_cells: int, seed: int) -> Iterator[Task]:
    """-> pair, the type that is left out of the reference, reference and query."""
    for pair in LEFT_OUT:
        sides = [thinned(side, max_cells, seed) for side in load_pair(read_pairs()[pair])]
        reference, query = sides
        n_cells = query.obs[LABEL].value_counts()
        for name in n_cells.index[n_cells >= MIN_CELLS][:MAX_TYPES]:
            kept = reference[(reference.obs[LABEL] != name).to_numpy()].copy()
            if name in set(reference.obs[LABEL]) and kept.obs[LABEL].nunique() > 1:
                yield pair, name, kept, query.copy()


def thinned(cells: AnnData, n_cells: int, seed: int) -> AnnData:
    """-> at most so many of the cells, chosen at random."""
    return cells[np.sort(np.random.default_rng(seed).permutation(cells.n_obs)[:n_cells])].copy()


def fit(reference: AnnData, query: AnnData, kind: str, seed: int) -> tuple[Any, pd.Series]:
    """-> model of the query, and its labels, which it has not seen."""
    from transanno import TransAnno, tl

    truth = query.obs.pop(LABEL).astype(str)
    batch_key = BATCH if kind == BATCHES and reference.obs[BATCH].nunique() > 1 else None
    model = tl.fit_reference(
        reference,
        LABEL,
        batch_key=batch_key,
        query_genes=query.var_names,
        seed=seed,
        accelerator="cpu",
        enable_progress_bar=False,
    )
    return TransAnno.load_query_data(query, model, accelerator="cpu"), truth


def judge(task: Task, seed: int) -> dict[str, Any]:
    """-> calibration errors, coverage and size of sets, share of known cells called Unknown, bins of the figure."""
    from transanno.predictions._temperature import calibration_error, reliability, temper

    kind, name, reference, query = task
    model, truth = fit(reference, query, kind, seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model.predict(sets=True, coverage=COVERAGE, fdr=FDR)
    is_warned = any("unlike the reference" in str(warning.message) for warning in caught)
    codes = pd.Index(model.labels).get_indexer(truth)
    known = codes >= 0
    calibration, model.calibration_ = model.calibration_, None
    raw, refined = (model.predict(soft=True, refine=refine, key_added=None).to_numpy() for refine in (False, True))
    temperature = calibration.temperature
    versions = {
        "raw": raw,
        "calibrated": temper(raw, temperature),
        "refined": refined,
        "refined, calibrated": temper(refined, calibration.temperature_refined),
    }
    sets = query.obsm["transanno_sets"]
    return {
        "kind": kind,
        "task": name,
        "n_reference": reference.n_obs,
        "n_query": int(known.sum()),
        "accuracy": float((raw.argmax(axis=1) == codes)[known].mean()),
        "temperature": temperature,
        "held_out": calibration.held_out,
        "ece": {key: calibration_error(values[known], codes[known]) for key, values in versions.items()},
        "coverage": float(sets[np.arange(len(codes)), codes][known].mean()),
        "set_size": float(sets[known].sum(axis=1).mean()),
        "empty": float((sets[known].sum(axis=1) == 0).mean()),
        "known_called_unknown": float((query.obs["transanno"] == "Unknown").to_numpy()[known].mean()),
        "warned": is_warned,
        "bins": {
            key: {part: values.tolist() for part, values in reliability(versions[key][known], codes[known]).items()}
            for key in ("raw", "calibrated")
        },
    }


def average(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of :func:`judge` -> one for every task, the mean over its draws."""
    by_task = defaultdict(list)
    for row in rows:
        by_task[row["kind"], row["task"]].append(row)
    averaged = []
    for draws in by_task.values():
        mean = {key: np.mean([row[key] for row in draws]) for key in (*_SCORES, "accuracy", "temperature")}
        mean["ece"] = {key: np.mean([row["ece"][key] for row in draws]) for key in draws[0]["ece"]}
        averaged.append({**draws[0], **mean, "warned": np.mean([row["warned"] for row in draws])})
    return averaged


def scanvi_confidence(reference: AnnData, query: AnnData, genes: pd.Index, seed: int) -> np.ndarray:
    """-> highest probability of every query cell, by scANVI carried to the query by scArches; a batch a side."""
    var = pd.DataFrame({SELECTED: True}, index=genes)
    cells = {
        name: AnnData(side[:, genes].X.copy(), obs=pd.DataFrame({BATCH: name}, index=side.obs_names), var=var)
        for name, side in {"reference": reference, "query": query}.items()
    }
    cells["reference"].obs[LABEL] = reference.obs[LABEL].astype(str).to_numpy()
    settings = read_config().methods["scANVI + scArches"].settings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        predict = surgery(cells["reference"], seed=seed, cores=1, **settings)[""]
        return np.asarray(predict(cells["query"]).confidence)


def detect(task: Task, seed: int, *, with_scanvi: bool) -> dict[str, Any]:
    """-> AUROC of telling the cells of the left-out type from known ones, and how well the rate of false ones is kept."""
    pair, name, reference, query = task
    labels = reference.obs[LABEL].astype(str)
    model, truth = fit(reference, query, pair, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model.predict(fdr=FDR)
    is_known = np.isin(truth, model.labels)
    # Cells of further types that the reference lacks are left out of the comparison.
    compared = is_known | (truth == name).to_numpy()
    cells = [_log_normalized(side, model.genes) for side in (reference, query)]
    regression = LogisticRegression(max_iter=200).fit(cells[0].X, labels)
    mend_celltypist(celltypist)
    other = celltypist.train(cells[0], labels=labels.to_numpy(), n_jobs=1, check_expression=False)
    match = celltypist.annotate(cells[1], model=other).probability_matrix.max(axis=1)
    scores = {
        "novelty": 1.0 - query.obs["transanno_novelty"],
        "max-softmax": 1.0 - query.obs["transanno_confidence"],
        "CellTypist prob match": 1.0 - match,
        "logistic regression": 1.0 - regression.predict_proba(cells[1].X).max(axis=1),
    }
    if with_scanvi:
        scores["scANVI"] = 1.0 - scanvi_confidence(reference, query, model.genes, seed)
    called = (query.obs["transanno"] == "Unknown").to_numpy()
    return {
        "pair": pair,
        "type": name,
        "n_unknown": int((~is_known & compared).sum()),
        "n_known": int(is_known.sum()),
        "auroc": {key: float(roc_auc_score(~is_known[compared], np.asarray(s)[compared])) for key, s in scores.items()},
        # All types that the reference lacks are truly unknown.
        "false_discovery_rate": float((called & is_known).sum() / max(called.sum(), 1)),
        "found": float(called[(truth == name).to_numpy()].mean()),
    }


def _log_normalized(cells: AnnData, genes: pd.Index) -> AnnData:
    cells = AnnData(cells.X.copy(), obs=cells.obs[[]].copy(), var=cells.var[[]].copy())
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    return cells[:, genes].copy()


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Reliability of raw and calibrated confidence, all tasks of a kind together."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    for axes, kind in zip(figure.subplots(1, 3, sharey=True), (WITHIN, BATCHES, ACROSS), strict=True):
        axes.plot([0.2, 1], [0.2, 1], color="0.7", linewidth=1, linestyle="--")
        for version, color in (("raw", "C1"), ("calibrated", "C0")):
            bins = pd.concat([pd.DataFrame(row["bins"][version]) for row in rows if row["kind"] == kind])
            position = (bins["confidence"] * 10).astype(int).clip(upper=9)
            weighted = bins[["confidence", "accuracy"]].mul(bins["n_cells"], axis=0).groupby(position).sum()
            n_cells = bins["n_cells"].groupby(position).sum()
            shown = weighted.div(n_cells, axis=0)[n_cells >= MIN_CELLS]
            axes.plot(shown["confidence"], shown["accuracy"], "o-", color=color, markersize=4, label=version)
        axes.set(title=kind, xlabel="confidence", xlim=(0.2, 1.02), ylim=(0.2, 1.02))
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("accuracy")
    figure.axes[0].legend(frameon=False)
    figure.savefig(path, dpi=150)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks trust", description=__doc__.splitlines()[0])
    parser.add_argument("--max-cells", type=int, default=500, help="cells of a reference, and of a query, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=5, help="draws of the random 30%% of a study")
    parser.add_argument(
        "--scanvi", action="store_true", help="detection by scANVI, too, which takes a minute a type or more"
    )
    parser.add_argument("--figure", type=Path, help=f"draw the picture of the user guide, {FIGURE.relative_to(ROOT)}")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    logging.getLogger("celltypist").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="celltypist|sklearn")
    info = run_info(["trust", *(argv or [])], packages=PACKAGES)
    rows = []
    for task in tasks(arguments.max_cells, arguments.seed, arguments.draws):
        rows.append(judge(task, arguments.seed))
        print({key: value for key, value in rows[-1].items() if key != "bins"}, flush=True)
    found = []
    for task in without_types(arguments.max_cells, arguments.seed):
        found.append(detect(task, arguments.seed, with_scanvi=arguments.scanvi))
        print(found[-1], flush=True)
    if arguments.figure is not None:
        draw(rows, arguments.figure)
    write_results("trust", arguments.out, info, _sections(average(rows), found), {"tasks": rows, "left_out": found})


def _sections(rows: list[dict[str, Any]], found: list[dict[str, Any]]) -> list[str]:
    errors, coverages = [], []
    for kind in (WITHIN, BATCHES, ACROSS):
        of_kind = [row for row in rows if row["kind"] == kind]
        mean = {key: np.mean([row[key] for row in of_kind]) for key in ("accuracy", "temperature")}
        mean |= {key: np.mean([row[key] for row in of_kind]) for key in _SCORES}
        mean |= {"ece": {key: np.mean([row["ece"][key] for row in of_kind]) for key in of_kind[0]["ece"]}}
        for name, row in [*((row["task"], row) for row in of_kind), ("**mean**", mean)]:
            values = [row["accuracy"], row["temperature"], *row["ece"].values()]
            errors.append([f"{kind}: {name}", *[f"{value:.3f}" for value in values]])
            values = [row[key] for key in _SCORES]
            warned = "" if row is mean else {0.0: "no", 1.0: "yes"}.get(row["warned"], "sometimes")
            coverages.append([f"{kind}: {name}", *[f"{value:.3f}" for value in values], warned])
    methods = list(found[0]["auroc"])
    detected = [
        [
            f"{row['pair']}: {row['type']}",
            str(row["n_unknown"]),
            *[f"{row['auroc'][method]:.3f}" for method in methods],
            f"{row['found']:.2f}",
            f"{row['false_discovery_rate']:.2f}",
        ]
        for row in found
    ]
    means = [np.mean([row["auroc"][method] for row in found]) for method in methods]
    last = [np.mean([row[key] for row in found]) for key in ("found", "false_discovery_rate")]
    detected.append(
        ["**mean**", "", *[f"{value:.3f}" for value in means], *[f"{value:.2f}" for value in last]],
    )
    return [
        __doc__.partition("\n\n")[2].strip(),
        "## Expected calibration error, of cells of known types",
        markdown_table(["query", "accuracy", "temperature", *rows[0]["ece"]], errors),
        f"## Label sets at a coverage of {COVERAGE}, and known cells called Unknown at an FDR of {FDR}",
        markdown_table(["query", "coverage", "mean size", "empty", "called Unknown", "shift warning"], coverages),
        "## A type left out of the reference: AUROC of telling its cells from those of known types",
        markdown_table(["left out", "cells", *methods, "found at FDR", "FDR attained"], detected),
        f"`found at FDR` is the share of the left-out type's cells called Unknown with `fdr={FDR}`; `FDR attained` that of "
        "known cells among all called so.",
    ]
