"""Commands and options. Nothing heavy is imported here, so that ``--help`` is instant."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from transanno import __version__
from transanno._constants import (
    CONFIDENCE_SUFFIX,
    KEY_ADDED,
    LATENT_KEY,
    NOVEL_CATEGORY,
    UNASSIGNED_CATEGORY,
    UNLABELED_CATEGORY,
)

# Options of `annotate` that only training reads, with their defaults. The parser sets None, so that one that was
# given next to --model can be told from one that was not.
TRAINING_DEFAULTS = {
    "batch_key": None,
    "unlabeled_category": UNLABELED_CATEGORY,
    "n_top_genes": 2000,
    "max_epochs": None,
    "pretrained": None,
    "save_model": None,
}


class UsageError(ValueError):
    """Options that contradict each other or are missing."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. See `{self.prog} --help`.")


def make_parser() -> argparse.ArgumentParser:
    """-> parser of all commands."""
    parser = _Parser(
        prog="transanno",
        description="Cell-type annotation of single-cell RNA-seq with a Transformer.",
        epilog="Exit codes: 0 done, 1 unexpected error, 2 wrong input or options, 130 interrupted.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"transanno {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    _add_annotate(commands)
    _add_check(commands)
    _add_pretrain(commands)
    _add_demo(commands)
    return parser


def check_annotate(args: argparse.Namespace) -> None:
    """Raise UsageError if options do not go together, and fill in the defaults of training."""
    if args.reference is not None and args.labels_key is None:
        raise UsageError(
            "--labels-key is missing: name the column of the reference's obs that holds the cell types. "
            "See `transanno annotate --help`."
        )
    for option, default in TRAINING_DEFAULTS.items():
        if getattr(args, option) is None:
            setattr(args, option, default)
        elif args.model is not None:
            raise UsageError(
                f"--{option.replace('_', '-')} only goes with --reference: the model of --model was trained already. "
                "Leave one of the two out."
            )
    if args.overwrite and args.save_model is None:
        raise UsageError("--overwrite only goes with --save-model; other outputs are replaced anyway. Leave it out.")
    if not args.key_added or "/" in args.key_added:
        raise UsageError(f"--key-added={args.key_added!r} cannot be the name of a column. Pass one without slashes.")


def _add_annotate(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(
        commands,
        "annotate",
        "Annotate a query with the cell types of a labeled reference, or of a trained model.",
        "Writes the query as it is, with the types in obs[KEY], their probability in "
        f"obs[KEY{CONFIDENCE_SUFFIX}] and cell states in obsm[{LATENT_KEY}]. If the query has the labels column, "
        "accuracy and macro-F1 are printed; its labels have no influence on the predictions.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--reference", type=Path, metavar="H5AD", help="labeled cells with raw counts to train on")
    source.add_argument(
        "--model",
        metavar="NAME",
        help="trained model: the folder that --save-model wrote, a registered name such as blood, or organization/name on the "
        "Hugging Face Hub",
    )
    parser.add_argument("--query", type=Path, required=True, metavar="H5AD", help="cells with raw counts to annotate")
    parser.add_argument("--out", type=Path, required=True, metavar="H5AD", help="annotated query to write")
    parser.add_argument(
        "--labels-key",
        metavar="KEY",
        help="column of obs with the cell types; required with --reference, and with --model only for scores",
    )
    parser.add_argument("--layer", metavar="KEY", help="layer of raw counts in reference and query (default: X)")
    parser.add_argument(
        "--key-added", default=KEY_ADDED, metavar="KEY", help="column of obs to write (default: %(default)s)"
    )
    parser.add_argument(
        "--no-refine",
        dest="refine",
        action="store_false",
        help="do not refine by what the query's cells have in common",
    )
    parser.add_argument(
        "--unassigned-threshold",
        type=_probability,
        metavar="P",
        help=f"call cells whose highest probability is below P {UNASSIGNED_CATEGORY} (default: every cell gets a type)",
    )
    parser.add_argument(
        "--fdr",
        type=_probability,
        metavar="Q",
        help=f"call cells that are unlike the reference {NOVEL_CATEGORY}, with this share of known cells among them on "
        "average over queries, and print groups of them with markers (default: none)",
    )
    parser.add_argument("--plots", type=Path, metavar="DIR", help="folder for a UMAP and a confusion matrix as PNG")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="HTML",
        help="page to hand over: what was annotated by what, and how far to trust it",
    )
    _add_common(parser)

    training = parser.add_argument_group("training, with --reference")
    training.add_argument("--batch-key", metavar="KEY", help="column of obs with technical batches")
    training.add_argument(
        "--unlabeled-category",
        metavar="NAME",
        help=f"label of cells without a label, next to NaN (default: {UNLABELED_CATEGORY})",
    )
    training.add_argument("--n-top-genes", type=_at_least(1), metavar="N", help="highly variable genes (default: 2000)")
    training.add_argument(
        "--max-epochs", type=_at_least(1), metavar="N", help="passes over the reference (default: by its size)"
    )
    training.add_argument("--pretrained", type=Path, metavar="DIR", help="model of `transanno pretrain` to start from")
    training.add_argument("--save-model", type=Path, metavar="DIR", help="folder for the trained model")
    training.add_argument("--overwrite", action="store_true", help="replace a model in the folder of --save-model")


def _add_check(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(
        commands,
        "check",
        "Look at a query before it is annotated.",
        "Are these raw counts, which genes does it share with the reference or the model, also for each type, and are there "
        "empty, outlying or duplicated cells? Ends with 2 if the query cannot be annotated as it is. Nothing is written.",
    )
    parser.add_argument("--query", type=Path, required=True, metavar="H5AD", help="cells to look at")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--reference", type=Path, metavar="H5AD", help="labeled cells to compare with")
    source.add_argument("--model", metavar="NAME", help="trained model to compare with, as in annotate")
    parser.add_argument("--labels-key", metavar="KEY", help="column of obs with the cell types of the reference")
    parser.add_argument("--batch-key", metavar="KEY", help="column of obs with technical batches")
    parser.add_argument("--layer", metavar="KEY", help="layer of raw counts (default: X)")
    _add_output(parser)


def _add_pretrain(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(
        commands,
        "pretrain",
        "Train the encoder on cells without labels, for `transanno annotate --pretrained`.",
        "Some genes of every cell are hidden and predicted from the others; no labels are read.",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="H5AD", help="cells with raw counts")
    parser.add_argument("--save-model", type=Path, required=True, metavar="DIR", help="folder for the model")
    parser.add_argument("--overwrite", action="store_true", help="replace a model in the folder of --save-model")
    parser.add_argument("--batch-key", metavar="KEY", help="column of obs with technical batches")
    parser.add_argument("--layer", metavar="KEY", help="layer of raw counts (default: X)")
    parser.add_argument(
        "--n-top-genes", type=_at_least(1), default=2000, metavar="N", help="highly variable genes (default: 2000)"
    )
    parser.add_argument(
        "--max-epochs", type=_at_least(1), metavar="N", help="passes over the cells (default: by their number)"
    )
    _add_common(parser)


def _add_demo(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(
        commands,
        "demo",
        "Annotate real cells that come with scanpy; takes a minute and no download.",
        "700 blood cells of 10 types; a third of them is the query. Writes annotated.h5ad, confusion_matrix.png, "
        "umap.png and report.html, and prints accuracy and macro-F1.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--max-epochs", type=_at_least(1), metavar="N", help="passes over the reference (default: by its size)"
    )
    _add_common(parser)
    # What it shares with annotate, at the defaults of that.
    parser.set_defaults(layer=None, key_added=KEY_ADDED, refine=True, unassigned_threshold=None, fdr=None)


def _add_command(
    commands: argparse._SubParsersAction, name: str, summary: str, details: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name, help=summary[0].lower() + summary[1:].rstrip("."), description=f"{summary} {details}", allow_abbrev=False
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=_at_least(0), default=0, metavar="N", help="seed of all randomness (default: 0)")
    parser.add_argument(
        "--accelerator",
        choices=("auto", "cpu", "gpu", "mps"),
        default="auto",
        help="where to compute (default: a GPU if there is one)",
    )
    _add_output(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="print scores, warnings and errors only")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _at_least(minimum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if not minimum <= value < 2**32:  # numpy's bound for seeds
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {minimum} or more")
        return value

    return parse


def _probability(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value
