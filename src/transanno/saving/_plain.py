"""Python values as JSON and back, without pickle: what a saved model says about itself."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from transanno.predictions._calibration import Calibration
from transanno.predictions._novelty import NoveltySpace, TypeCenters
from transanno.predictions._unknown import NoveltyScale

# What a model knows beside its network.
_CLASSES = {cls.__name__: cls for cls in (Calibration, NoveltyScale, NoveltySpace, TypeCenters)}
# The one key of a JSON object that stands for something that JSON does not have.
_TAG = "__type__"


def to_json(value: Any) -> str:
    """Numbers, strings, lists, tuples, dictionaries, arrays, data frames and what a model knows -> text.

    Raises
    ------
    TypeError
        If there is anything else in it; it says where.
    """
    return json.dumps(_encode(value, ""), ensure_ascii=False)


def from_json(text: str) -> Any:
    """Text of :func:`to_json` -> the value; damaged text is a ValueError, KeyError or TypeError."""
    return _decode(json.loads(text))


def to_plain(value: Any) -> Any:
    """-> the same with arrays as lists, for readers that know nothing of our tags."""
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return to_plain(value.tolist())  # of an array of objects, items may be numpy's
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def _encode(value: Any, path: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, np.generic) and value.dtype.kind in "biufU":
        return value.item()
    if isinstance(value, list):
        return [_encode(item, f"{path}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return {_TAG: "tuple", "items": _encode(list(value), path)}
    if isinstance(value, Mapping):
        if all(type(key) is str for key in value) and _TAG not in value:
            return {key: _encode(item, f"{path}.{key}") for key, item in value.items()}
        pairs = [_encode([key, item], f"{path}[{key!r}]") for key, item in value.items()]
        return {_TAG: "dict", "items": pairs}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufUO":
        items = _encode(value.ravel().tolist(), path)
        return {_TAG: "array", "dtype": value.dtype.str, "shape": list(value.shape), "items": items}
    if type(value) in _CLASSES.values():
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {
            _TAG: type(value).__name__,
            "items": [_encode([name, fields[name]], f"{path}.{name}") for name in fields],
        }
    if isinstance(value, pd.DataFrame):
        columns = [_encode(value.iloc[:, i].to_numpy(), f"{path}[{name!r}]") for i, name in enumerate(value.columns)]
        names = [value.index.name, value.columns.name]
        index = _encode(value.index.to_numpy(), path)
        return {_TAG: "frame", "index": index, "columns": list(value.columns), "names": names, "items": columns}
    raise TypeError(
        f"{path.lstrip('.') or 'The value'} is a {type(value).__name__}, which cannot be saved: models are saved without "
        "pickle, so that opening one runs no code. Allowed: numbers, strings, None, lists, tuples, dictionaries, numpy "
        "arrays and data frames of these. Convert it, or rename the attribute so that it does not end in an underscore, "
        "and it is left out."
    )


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if _TAG not in value:
        return {key: _decode(item) for key, item in value.items()}
    items = [_decode(item) for item in value["items"]]
    if value[_TAG] == "tuple":
        return tuple(items)
    if value[_TAG] == "dict":
        return dict(items)
    if value[_TAG] in _CLASSES:
        return _CLASSES[value[_TAG]](**dict(items))
    if value[_TAG] == "array":
        array = np.empty(len(items), dtype=np.dtype(str(value["dtype"])))
        array[:] = items
        return array.reshape(value["shape"])
    if value[_TAG] == "frame":
        index_name, columns_name = value["names"]
        columns = pd.Index(value["columns"], name=columns_name)
        frame = pd.DataFrame(dict(enumerate(items)), index=pd.Index(_decode(value["index"]), name=index_name))
        return frame.set_axis(columns, axis=1)
    raise ValueError(f"unknown type {value[_TAG]!r}")
