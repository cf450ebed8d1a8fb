"""Technical batches of cells, in the codes of a model."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from transanno._constants import MISSING_CATEGORY, QUERY_CATEGORY
from transanno.data._labels import as_strings


def codes_in(values: np.ndarray, categories: Iterable[str]) -> np.ndarray:
    """Strings -> position in ``categories``, -1 where absent."""
    return pd.Index(list(categories), dtype=object).get_indexer(pd.Index(values, dtype=object))


def read_batches(obs: pd.DataFrame, batch_key: str) -> np.ndarray:
    """-> batch of every cell as str; a query without the column is one batch of its own."""
    if batch_key not in obs:
        return np.full(len(obs), QUERY_CATEGORY, dtype=object)
    return as_strings(obs[batch_key], missing=MISSING_CATEGORY)


def check_known_batches(values: np.ndarray, categories: list[str], *, can_map: bool = True) -> None:
    """Raise ValueError if a batch is unknown to the model."""
    unseen = sorted(set(values) - set(categories))
    if unseen:
        raise ValueError(
            f"{len(unseen)} batches are unknown to the model: {first_names(unseen)}. The model knows {first_names(categories)}. "
            + (
                "Use `TransAnno.load_query_data(adata, model)`, which adds new batches, and predict with the model that it "
                "returns."
                if can_map
                else "Rename them to batches that the model knows."
            )
        )


def encode_batches(
    obs: pd.DataFrame, categories: Iterable[object], *, batch_key: str | None, can_map: bool = True
) -> np.ndarray:
    """obs, batches that the model knows -> batch codes ``(n_obs,)`` for prediction; unknown batches are an error."""
    if batch_key is None:
        return np.zeros(len(obs), dtype=np.int64)
    known, values = [str(category) for category in categories], read_batches(obs, batch_key)
    check_known_batches(values, known, can_map=can_map)
    return codes_in(values, known).astype(np.int64)


def first_names(names: list[str], n: int = 5) -> str:
    shown = ", ".join(repr(name) for name in names[:n])
    return shown if len(names) <= n else f"{shown}, … ({len(names)} in all)"
