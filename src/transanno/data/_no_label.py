"""Labels that are none: usual spellings of "no label" that would become cell types, and types that differ by white space."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np

from transanno.checks._warn import warn
from transanno.data._batches import first_names

# Without brackets, quotes and other punctuation, and in lower case.
_SPELLINGS = frozenset(
    [
        "",
        *"""nan na n/a none null nil missing nat unknown unk unlabeled unlabelled unassigned unannotated unclassified undef nd
        undefined undetermined unspecified unidentified uncharacterized unavailable unresolved unclear ambiguous blank tbd nocall
        npnan pdna""".split(),
        *(f"not {word}" for word in ("available applicable assigned annotated labeled labelled known determined classified").split()),
        *("not reported", "not provided", "no label", "no annotation", "no data", "no call", "missing value", "to be determined"),
        *("na character", "na integer", "na real", "cell type unknown"),
        *(
            f"{word} {what}"
            for word in ("unknown", "unassigned", "unlabeled", "unlabelled")
            for what in ("cell", "cells", "type", "cell type")
        ),
    ]
)  # fmt: skip
# Of spreadsheets.
_ERROR = re.compile(r"^#(ref|value|n/a|name|null|num|div/0)[!?]?$")
# More types than this, for as few cells each, are no types but numbers, or names of cells.
_MAX_TYPES, _MIN_CELLS = 20, 3
_N_NAMED = 5


def no_label_text(labels: np.ndarray, unlabeled_category: str, *, where: str) -> str:
    """Labels of cells, str -> what to know of those that may be none, "" if there is nothing."""
    names, counts = np.unique(labels.astype(str), return_counts=True)
    sizes = {str(name): int(n) for name, n in zip(names, counts, strict=True) if name != unlabeled_category}
    found = (_no_labels(sizes, unlabeled_category, where), _alike(sizes, where), _too_many(sizes, where))
    return " ".join(filter(None, found))


def warn_of_no_labels(labels: np.ndarray, unlabeled_category: str, *, where: str) -> None:
    """Warn of labels that usually mean none, of types that differ by white space or case alone, and of too many types."""
    text = no_label_text(labels, unlabeled_category, where=where)
    if text:
        warn(text)


def is_no_label(name: str) -> bool:
    """Whether a label usually means that there is none."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).replace("_", " ").casefold().strip()  # NotAssigned
    if _ERROR.match(text) or text == "-1":
        return True
    # What is added behind: Unknown (low), Unknown 2.
    candidates = (text, text.replace("-", " "), re.sub(r"(?<=\w)\s*[(\[].*[)\]]$|\s+\d+$", "", text))
    return any(_plain(candidate) in _SPELLINGS for candidate in candidates)


def _plain(text: str) -> str:
    """-> words alone: [Unknown] and "n.a." are unknown and na."""
    return " ".join(re.sub(r"[^\w\s/]", "", text).split())


def _no_labels(sizes: Mapping[str, int], unlabeled_category: str, where: str) -> str:
    found = [name for name in sizes if is_no_label(name)]
    if not found:
        return ""
    n_cells = sum(sizes[name] for name in found)
    column = f"adata.{where}"
    cure = f"set these labels to NaN, {column} = {column}.where(~{column}.isin({_listing(found)}))" if len(found) > 1 else (
        f"pass unlabeled_category={found[0]!r}, or set these labels to NaN"
    )  # fmt: skip
    return (
        f"{n_cells} cells of {where} have a label that usually means none: "
        f"{', '.join(f'{name!r} ({sizes[name]})' for name in found[:_N_NAMED])}. It is taken for a cell type, which other cells "
        f"can be called, too. Where these cells have no type, {cure}; NaN and {unlabeled_category!r} mean unlabeled."
    )


def _alike(sizes: Mapping[str, int], where: str) -> str:
    groups: dict[str, list[str]] = {}
    for name in sizes:
        groups.setdefault(" ".join(name.casefold().split()), []).append(name)
    pairs = [names for names in groups.values() if len(names) > 1]
    if not pairs:
        return ""
    shown = "; ".join(_listing(names)[1:-1] for names in pairs[:_N_NAMED])
    return (
        f"Some labels of {where} differ by white space or case alone: {shown}. They are taken for different types; give those "
        "that are one type the same name."
    )


def _too_many(sizes: Mapping[str, int], where: str) -> str:
    n_cells = sum(sizes.values())
    if len(sizes) <= _MAX_TYPES or n_cells >= _MIN_CELLS * len(sizes):
        return ""
    return (
        f"{where} holds {len(sizes):,} labels for {n_cells:,} cells, {first_names(list(sizes))}: these look like numbers or names of cells "
        "and not like cell types. Name the column of the types."
    )


def _listing(names: Iterable[str]) -> str:
    return repr([str(name) for name in names])
