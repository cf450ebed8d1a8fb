"""`transanno pretrain`."""

from __future__ import annotations

import argparse
import time

from transanno import tl
from transanno._cli._console import Console
from transanno._cli._outputs import check_model_folder
from transanno._cli._progress import progress_arguments
from transanno.data._files import read_h5ad
from transanno.saving._save import save_model


def pretrain(args: argparse.Namespace, console: Console) -> None:
    """Train on the highly variable genes of unlabeled cells, and save the model."""
    started = time.perf_counter()
    check_model_folder(args.save_model, overwrite=args.overwrite)
    console.step(f"Reading {args.data}")
    adata = read_h5ad(args.data, name="data")
    console.step(f"Training on {adata.n_obs} cells")
    model = tl.pretrain(
        adata,
        batch_key=args.batch_key,
        layer=args.layer,
        n_top_genes=args.n_top_genes,
        max_epochs=args.max_epochs,
        seed=args.seed,
        accelerator=args.accelerator,
        **progress_arguments(console),
    )
    save_model(model, args.save_model)
    console.detail(
        f"Pretrained on {adata.n_obs} cells and {len(model.genes)} genes in {time.perf_counter() - started:.0f} s; "
        f"wrote {args.save_model}"
    )
