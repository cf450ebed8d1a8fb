"""`transanno annotate` and, with data of its own, `transanno demo`."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from transanno import tl
from transanno._cli._console import Console
from transanno._cli._figures import write_figures
from transanno._cli._outputs import check_model_folder, check_output_file, check_output_folder
from transanno._cli._progress import progress_arguments, shows_bars
from transanno._constants import (
    CONFIDENCE_SUFFIX,
    GROUPS_SUFFIX,
    NOVEL_CATEGORY,
    SETS_SUFFIX,
    UNASSIGNED_CATEGORY,
)
from transanno.checks._data import check_obs_column, check_unique_genes
from transanno.data._demo import LABELS_KEY, load_demo
from transanno.data._files import compression_of, read_h5ad, write_h5ad
from transanno.data._labels import as_strings
from transanno.data._match_genes import missing_genes
from transanno.data._on_disk import has_matrices_on_disk, open_h5ad, write_copy
from transanno.data._writable import check_writable, rename_reserved
from transanno.metrics import evaluate
from transanno.models import TransAnno
from transanno.predictions._predict import Asked
from transanno.report._contents import Origin
from transanno.report._gather import gather
from transanno.report._page import write_page
from transanno.report._umap import Placed, place
from transanno.saving._save import save_model
from transanno.tl._map import fit_for_query


def annotate(args: argparse.Namespace, console: Console) -> None:
    """Train on the reference or load a model, predict the query, write it, and score it if it has labels."""
    started = time.perf_counter()
    check_output_file(args.out, "--out", ".h5ad", {"--query": args.query, "--reference": args.reference})
    if args.report is not None:
        check_output_file(args.report, "--report", ".html", {})
    if args.plots is not None:
        check_output_folder(args.plots, "--plots")
    if args.save_model is not None:
        check_model_folder(args.save_model, overwrite=args.overwrite)
    if args.model is not None:
        console.step(f"Loading the model {args.model}")
        model = TransAnno.from_hub(args.model, accelerator=args.accelerator)
        setup = model.registry["setup_args"]
        read = partial(open_h5ad, n_genes=len(model.genes))
        query = _read_query(args, console, protected=(setup["labels_key"], setup["batch_key"]), read=read)
        if args.labels_key is not None:
            check_obs_column(query, args.labels_key, argument="--labels-key", name="query")
    else:
        console.step(f"Reading {args.reference}")
        read = partial(open_h5ad, n_genes=args.n_top_genes)
        reference = read_h5ad(args.reference, name="reference", read=read)
        query = _read_query(args, console, protected=(args.labels_key, args.batch_key))
        model = _train(reference, query, args, console)
        del reference  # memory for the query
        if args.save_model is not None:
            save_model(model, args.save_model)
            console.step(f"Wrote {args.save_model}")
    model_key = model.registry["setup_args"]["labels_key"]
    labels_key = args.labels_key or model_key
    model = _predict(query, model, args, console, hidden={labels_key, model_key})
    if has_matrices_on_disk(query):
        uns = {
            f"{args.key_added}{suffix}": query.uns.get(f"{args.key_added}{suffix}")
            for suffix in (GROUPS_SUFFIX, "_colors")
        }
        obsm = {f"{args.key_added}{SETS_SUFFIX}": None} | dict(query.obsm)
        write_copy(args.query, args.out, obs=query.obs, obsm=obsm, uns=uns)
    else:
        write_h5ad(query, args.out, compression=compression_of(args.query))
    console.step(f"Wrote {args.out}")
    _print_result(query, model, labels_key, args.key_added, time.perf_counter() - started, console)
    if args.plots is not None or args.report is not None:
        placed = _place(query, console)
    if args.plots is not None:
        write_figures(query, placed, args.plots, labels_key, args.key_added, _unlabeled_category(model), console)
    if args.report is not None:
        _write_report(query, model, placed, args.report, args, console)


def demo(args: argparse.Namespace, console: Console) -> None:
    """Annotate the embedded data, with the defaults of ``annotate``."""
    started = time.perf_counter()
    check_output_folder(args.out, "--out")
    reference, query = load_demo()
    console.step(f"{reference.n_obs} reference cells, {query.n_obs} query cells, {query.n_vars} genes")
    model = tl.fit_reference(
        reference,
        LABELS_KEY,
        query_genes=query.var_names[~missing_genes(query.var)],
        max_epochs=args.max_epochs,
        seed=args.seed,
        accelerator=args.accelerator,
        **progress_arguments(console),
    )
    model = _predict(query, model, args, console, hidden={LABELS_KEY})
    write_h5ad(query, args.out / "annotated.h5ad")
    console.step(f"Wrote {args.out / 'annotated.h5ad'}")
    _print_result(query, model, LABELS_KEY, args.key_added, time.perf_counter() - started, console)
    placed = _place(query, console)
    write_figures(query, placed, args.out, LABELS_KEY, args.key_added, _unlabeled_category(model), console)
    _write_report(query, model, placed, args.out / "report.html", args, console)


def _read_query(
    args: argparse.Namespace,
    console: Console,
    *,
    protected: Iterable[str | None],
    read: Callable[[Path], AnnData] | None = None,
) -> AnnData:
    """-> query, whose columns of labels and batches the predictions must not replace."""
    console.step(f"Reading {args.query}")
    query = read_h5ad(args.query, name="query", read=read)
    if args.key_added in {*protected, args.labels_key}:
        raise ValueError(
            f"--key-added={args.key_added!r} is the column of the labels or the batches, which the predictions would "
            "replace. Name another column."
        )
    if args.key_added in query.obs:
        console.warn(f"The query has a column {args.key_added!r}; the predictions replace it in {args.out}.")
    # Of a file that is copied, nothing else is written.
    written = AnnData(obs=query.obs) if has_matrices_on_disk(query) else query
    for note in rename_reserved(written):
        console.warn(f"The query's {note}")
    check_writable(written, args.out, columns=(args.key_added,))
    query.obs = written.obs
    return query


def _train(reference: AnnData, query: AnnData, args: argparse.Namespace, console: Console) -> TransAnno:
    """-> model of the reference; afterwards ``args.layer`` is that of the query."""
    check_unique_genes(reference.var_names, name="reference")
    console.step(f"Training on {args.reference}")
    model, args.layer = fit_for_query(
        query,
        reference,
        args.labels_key,
        asked=Asked(unassigned_threshold=args.unassigned_threshold, fdr=args.fdr),
        batch_key=args.batch_key,
        layer=args.layer,
        unlabeled_category=args.unlabeled_category,
        n_top_genes=args.n_top_genes,
        pretrained=args.pretrained,
        max_epochs=args.max_epochs,
        seed=args.seed,
        accelerator=args.accelerator,
        **progress_arguments(console),
    )
    return model


def _predict(
    query: AnnData, model: TransAnno, args: argparse.Namespace, console: Console, *, hidden: set[str]
) -> TransAnno:
    """Write predictions and cell states into the query, whose labels are out of reach meanwhile -> its model."""
    console.step(f"Annotating {query.n_obs} cells")
    obs = query.obs.copy()
    query.obs = obs.drop(columns=list(hidden), errors="ignore")
    try:
        query_model = tl.annotate(
            query,
            model=model,
            layer=args.layer,
            refine=args.refine,
            unassigned_threshold=args.unassigned_threshold,
            fdr=args.fdr,
            key_added=args.key_added,
            seed=args.seed,
            accelerator=args.accelerator,
            enable_progress_bar=shows_bars(console),
        )
        found, hidden_columns = query.obs, obs.columns.intersection(list(hidden))
        is_kept = obs.columns.isin([*found.columns, *hidden_columns])  # what an earlier prediction left may be gone
        order = [*obs.columns[is_kept], *found.columns.difference(obs.columns, sort=False)]
        obs = found.assign(**{name: obs[name] for name in hidden_columns})[order]
    finally:
        query.obs = obs
    return query_model


def _place(query: AnnData, console: Console) -> Placed | str:
    """-> where cells are in figures, or why that is not known."""
    console.step("Computing a UMAP")
    return place(query)


def _write_report(
    query: AnnData, model: TransAnno, placed: Placed | str, path: Path, args: argparse.Namespace, console: Console
) -> None:
    """Write the annotation as a page that others can read."""
    names = {name: getattr(args, name, None) for name in ("query", "model", "reference")}  # the demo has none of these
    paths = {name: None if value is None else str(value) for name, value in names.items()}
    origin = Origin(paths["query"], paths["model"], paths["reference"], command=shlex.join(["transanno", *args.given]))
    title = f"Cell types of {'the demo' if names['query'] is None else names['query'].name}"
    contents = gather(
        query, model, key_added=args.key_added, layer=args.layer, title=title, origin=origin, placed=placed
    )
    write_page(contents, path)
    console.step(f"Wrote {path}")


def _print_result(
    query: AnnData, model: TransAnno, labels_key: str, key_added: str, seconds: float, console: Console
) -> None:
    """Print what was predicted, and how well if the query has labels."""
    n_shared = int((~model._registered_cells().is_missing & model._is_gene).sum())
    console.detail(
        f"{query.n_obs} cells annotated in {seconds:.0f} s; {n_shared} of the model's {len(model.genes)} genes are in "
        "the query.\n"
    )
    predicted = query.obs[key_added]
    confidence = query.obs[f"{key_added}{CONFIDENCE_SUFFIX}"].groupby(predicted, observed=True).mean()
    n_predicted = predicted.value_counts()
    rows = [[str(name), f"{n}", f"{confidence[name]:.2f}"] for name, n in n_predicted.items() if n]
    if not console.quiet:
        console.table(["predicted type", "cells", "mean confidence"], rows, numbers=2)
    if NOVEL_CATEGORY in n_predicted and f"{key_added}{GROUPS_SUFFIX}" in query.uns:
        _report_groups(query.uns[f"{key_added}{GROUPS_SUFFIX}"], console)
    if labels_key not in query.obs:
        return
    unlabeled_category = _unlabeled_category(model)
    truth = as_strings(query.obs[labels_key], missing=unlabeled_category)
    if not np.isin(truth, model.labels).any():
        console.detail(f"No scores: no cell has a label in obs[{labels_key!r}] that the model knows.")
        return
    # A cell that someone left unassigned has no type to be right about.
    truth[(truth == UNASSIGNED_CATEGORY) & ~np.isin(truth, model.labels)] = unlabeled_category
    scores = evaluate(truth, predicted, labels=model.labels, unlabeled_category=unlabeled_category)
    console.result(scores.headline if console.quiet else str(scores))


def _report_groups(groups: pd.DataFrame, console: Console) -> None:
    """Print the groups of cells that are called Unknown."""
    if len(groups) == 0:
        console.detail(f"No ten of the {NOVEL_CATEGORY} cells are alike.\n")
        return
    columns = (groups[column].astype(str) for column in ("group", "n_cells", "markers"))
    rows = [[group, n_cells, markers or "none"] for group, n_cells, markers in zip(*columns, strict=True)]
    header = [f"group of {NOVEL_CATEGORY} cells", "cells", "genes that are higher than in that type"]
    if not console.quiet:
        console.table(header, rows)


def _unlabeled_category(model: TransAnno) -> str:
    return model.registry["setup_args"]["unlabeled_category"]
