"""`transanno check`."""

from __future__ import annotations

import argparse

from transanno._cli._console import Console
from transanno.data._files import read_h5ad
from transanno.models import TransAnno
from transanno.pp import check as check_data


def check(args: argparse.Namespace, console: Console) -> None:
    """Print what is wrong with a query, also in relation to a reference or a model; raise if models would refuse it."""
    source = None
    if args.reference is not None:
        console.step(f"Reading {args.reference}")
        source = read_h5ad(args.reference, name="reference")
    elif args.model is not None:
        console.step(f"Loading the model {args.model}")
        source = TransAnno.from_hub(args.model, accelerator="cpu")
    console.step(f"Reading {args.query}")
    query = read_h5ad(args.query, name="query")
    report = check_data(query, source, layer=args.layer, batch_key=args.batch_key, labels_key=args.labels_key)
    if console.is_terminal:
        console.result(report.headline)
        for table in report.tables():
            console.result(table.caption)
            console.table(table.header, table.rows)
    else:
        console.result(str(report))
    errors = [finding.name for finding in report.findings if finding.severity == "error"]
    if errors:
        raise ValueError(f"{args.query} cannot be annotated as it is: {', '.join(errors)}. See the table for the cure.")
