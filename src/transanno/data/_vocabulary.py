"""Gene vocabularies as files: a gene per line, or a JSON list."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from transanno.checks._data import check_unique_genes

VOCABULARY_FILE = "genes.txt"
"""File that holds the genes in the folder of a saved model."""


def read_vocabulary(path: str | Path) -> pd.Index:
    r"""Read a gene vocabulary, in the order of the file.

    Parameters
    ----------
    path
        Text file with a gene per line, JSON file (``.json``) with a list of genes, or the folder of a saved model,
        whose ``genes.txt`` is read.

    Returns
    -------
    Genes ``(n_vocabulary,)``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file holds anything but names of genes, none at all, or one twice.

    Examples
    --------
    >>> transanno.pp.read_vocabulary("model/genes.txt")
    """
    path = Path(path)
    file = path / VOCABULARY_FILE if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} does not exist. Pass a text file with a gene per line, a JSON file with a list of genes, or the "
            f"folder of a saved model that holds {VOCABULARY_FILE}."
        )
    try:
        text = file.read_text(encoding="utf-8-sig")  # without the mark that spreadsheets put first
        # Not `splitlines`: it breaks at characters that the writer leaves in a name.
        genes = json.loads(text) if _is_json(file) else text.rstrip("\n").split("\n")
    except ValueError as error:  # of decoding, JSON or UTF-8
        raise ValueError(
            f"{file} is neither a text file with a gene per line nor, as .json, a list of genes ({error}). "
            "transanno.pp.write_vocabulary writes such files."
        ) from error
    return _checked(genes, name=str(file))


def write_vocabulary(vocabulary: Iterable[str], path: str | Path) -> None:
    """Write a gene vocabulary; a file of that name is replaced.

    Parameters
    ----------
    vocabulary
        Genes, unique and in the order that matters.
    path
        File to write: a JSON list if its name ends in ``.json``, else a gene per line.

    Raises
    ------
    ValueError
        If there are no genes, one occurs twice, or a name is empty, has white space around it or spans lines or columns.

    Examples
    --------
    >>> transanno.pp.write_vocabulary(adata.var_names, "genes.txt")
    """
    path = Path(path)
    genes = _checked(list(vocabulary), name="vocabulary").tolist()
    if _is_json(path):
        path.write_text(json.dumps(genes, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
    else:
        write_lines(genes, path)


def write_lines(genes: Iterable[str], path: Path) -> None:
    """Genes as they are -> text file; saving a model must not fail at the name of a gene."""
    path.write_text("\n".join(genes) + "\n", encoding="utf-8", newline="\n")


def as_vocabulary(vocabulary: Any) -> pd.Index:
    """File, folder of a saved model, trained model or list of genes -> genes ``(n_vocabulary,)``."""
    if isinstance(vocabulary, str | Path):
        return read_vocabulary(vocabulary)
    # A model of ours, told by its genes: to import the models would load torch for a list of names.
    genes = getattr(vocabulary, "genes", None)
    if isinstance(genes, pd.Index):
        vocabulary = genes
    elif not isinstance(vocabulary, Iterable) or hasattr(vocabulary, "var_names"):
        raise TypeError(
            f"vocabulary is a {type(vocabulary).__name__}. Allowed: a file with a gene per line or a JSON list, the folder "
            "of a saved model, a trained model, or the genes themselves, such as adata.var_names."
        )
    return _checked(list(vocabulary), name="vocabulary")


def _is_json(path: Path) -> bool:
    return path.suffix.lower() == ".json"


def _checked(genes: Any, *, name: str) -> pd.Index:
    """Index of unique names, or an error; ``name`` is what to call them."""
    if not isinstance(genes, list) or not all(isinstance(gene, str) for gene in genes):
        raise ValueError(
            f"{name} does not hold a list of gene names. Allowed: names as strings, such as adata.var_names or a file "
            'with a gene per line, and in a JSON file a list of them, ["CD3D", "MS4A1"].'
        )
    bad = [gene for gene in genes if not gene or gene != gene.strip() or any(mark in gene for mark in "\t\r\n")]
    if bad or not genes:
        found = f"{len(bad)} entries that are no names of genes, first {bad[0]!r}" if bad else "no genes"
        raise ValueError(
            f"{name} holds {found}. A vocabulary is one name per gene, without further columns, empty lines or white "
            "space around the names. Take the column of names alone."
        )
    index = pd.Index(genes, dtype=object)
    check_unique_genes(index, name=name)
    return index
