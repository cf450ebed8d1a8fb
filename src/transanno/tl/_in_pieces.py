"""References that are no AnnData but come in pieces, as one that is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transanno._constants import UNLABELED_CATEGORY
from transanno.checks._data import is_collection
from transanno.checks._progress import bars
from transanno.data._pieces import collection_in_one_file
from transanno.models._datamodule import data_module_in_one_file, is_data_module


@contextmanager
def as_one_object(
    value: Any, *, layer: str | None, name: str, unlabeled_category: str = UNLABELED_CATEGORY, has_bar: bool = True
) -> Iterator[Any]:
    """AnnCollection or data module -> AnnData whose counts are in a temporary file; anything else is handed on as it is."""
    if is_collection(value):
        opened = collection_in_one_file(value, layer=layer, name=name)
    elif is_data_module(value):
        opened = data_module_in_one_file(value, unlabeled_category=unlabeled_category)
    else:
        yield value
        return
    with bars(has_bar), opened as adata:
        yield adata
