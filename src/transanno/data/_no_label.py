"""Labels that are none: usual spellings of "no label" that would become cell types, and types that differ by white space."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping

import numpy as np

_SPELLINGS = frozenset(
    """nan na n/a n.a. <na> #n/a none null nil missing nat unknown unk unlabeled unlabelled unassigned unannotated unclassified
    undefined undetermined unspecified unidentified uncharacterized unavailable tbd ? ?? - -- .""".split()
)
_WORDS = frozenset(
    [
        "",
        *(
            "not available",
            "not applicable",
            "not assigned",
            "not annotated",
            "not labeled",
            "not labelled",
            "not known",
        ),
        *(
            "no label",
            "no annotation",
            "no data",
            "to be determined",
            "cell type unknown",
            "unknown cell",
            "unknown cells",
        ),
        *("unknown cell type", "unknown type", "unassigned cell", "unassigned cells"),
    ]
)
_N_NAMED = 5


def no_label_text(labels: np.ndarray, unlabeled_category: str, *, where: str) -> str:
    """Labels of cells, str -> what to know of those that may be none, "" if there is nothing."""
    names, counts = np.unique(labels.astype(str), return_counts=True)
    sizes = {str(name): int(n) for name, n in zip(names, counts, strict=True) if name != unlabeled_category}
    return " ".join(filter(None, (_no_labels(sizes, unlabeled_category, where), _alike(sizes, where))))


def warn_of_no_labels(labels: np.ndarray, unlabeled_category: str, *, where: str) -> None:
    """Warn of labels that are usual spellings of "no label", and of types that differ by white space or case alone."""
    text = no_label_text(labels, unlabeled_category, where=where)
    if text:
        warnings.warn(text, UserWarning, stacklevel=2)


def is_no_label(name: str) -> bool:
    """Whether a label usually means that there is none."""
    text = " ".join(name.replace("_", " ").casefold().split())
    return text in _SPELLINGS or text in _WORDS


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


def _listing(names: Iterable[str]) -> str:
    return repr([str(name) for name in names])
