"""`transanno pretrain`."""

from __future__ import annotations

import argparse
import time

import pandas as pd
from anndata import AnnData

from transanno import tl
from transanno._cli._console import Console
from transanno._cli._outputs import check_model_folder
from transanno._cli._progress import progress_arguments
from transanno._io import read_h5ad, save_model
from transanno._seed import seeded
from transanno._validation import check_counts, check_layer, check_not_empty, check_obs_column, check_unique_genes
from transanno.models import TransAnnoPretrain


def pretrain(args: argparse.Namespace, console: Console) -> None:
    """Train on the highly variable genes of unlabeled cells, and save the model."""
    started = time.perf_counter()
    check_model_folder(args.save_model, overwrite=args.overwrite)
    console.step(f"Reading {args.data}")
    adata = _counts(read_h5ad(args.data, name="data"), args.layer, args.batch_key)
    adata = adata[:, tl.select_genes(adata, n_top_genes=args.n_top_genes, batch_key=args.batch_key)].copy()
    console.step(f"Training on {adata.n_obs} cells, {adata.n_vars} genes")
    with seeded(args.seed):
        TransAnnoPretrain.setup_anndata(adata, batch_key=args.batch_key)
        model = TransAnnoPretrain(adata)
        model.train(max_epochs=args.max_epochs, accelerator=args.accelerator, **progress_arguments(console))
    save_model(model, args.save_model)
    console.detail(
        f"Pretrained on {adata.n_obs} cells and {adata.n_vars} genes in {time.perf_counter() - started:.0f} s; "
        f"wrote {args.save_model}"
    )


def _counts(adata: AnnData, layer: str | None, batch_key: str | None) -> AnnData:
    """-> checked counts in ``X`` and the column of batches, without the rest."""
    check_not_empty(adata, name="data")
    check_unique_genes(adata.var_names, name="data")
    check_layer(adata, layer, name="data")
    if batch_key is not None:
        check_obs_column(adata, batch_key, argument="--batch-key", name="data")
    counts = adata.X if layer is None else adata.layers[layer]
    name = "data.X" if layer is None else f'data.layers["{layer}"]'
    if counts is None:
        raise ValueError(f"{name} is empty. Name the layer that holds the raw counts with --layer.")
    check_counts(counts, name=name)
    obs = adata.obs[[batch_key]].copy() if batch_key is not None else pd.DataFrame(index=adata.obs_names)
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=adata.var_names.astype(str)))
