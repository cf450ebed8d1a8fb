"""JSON there and back."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transanno.saving._plain import from_json, to_json, to_plain

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
keys = st.text() | st.integers() | st.just("__type__")
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner), max_leaves=20
)


@given(values)
def test_round_trip(value):
    assert from_json(to_json(value)) == value


@pytest.mark.parametrize("dtype", ["bool", "int8", "int64", "uint16", "float16", "float32", "float64", "<U4", "object"])
@pytest.mark.parametrize("shape", [(0,), (6,), (2, 3), ()], ids=str)
def test_arrays_keep_type_and_shape(dtype, shape):
    array = np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)
    found = from_json(to_json(array))
    np.testing.assert_array_equal(found, array)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)


@pytest.mark.parametrize("dtype", ["float64", "object"])
def test_frames_keep_index_and_names(dtype):
    frame = pd.DataFrame({"loss": np.array([1.5, np.nan, 2.0], dtype=dtype)}, index=pd.Index([0, 2, 5], name="epoch"))
    pd.testing.assert_frame_equal(from_json(to_json(frame)), frame)


def test_text_is_json_without_tags_where_none_are_needed():
    assert json.loads(to_json({"a": [1, None, np.float32(0.5)]})) == {"a": [1, None, 0.5]}
    assert to_plain({"a": np.array([1, 2]), "b": (np.int64(3),)}) == {"a": [1, 2], "b": [3]}
    assert type(to_plain(np.array([np.str_("a")], dtype=object))[0]) is str


@pytest.mark.parametrize(
    "value", [print, object(), {1, 2}, b"x", 1j, np.array([1j])], ids=lambda value: type(value).__name__
)
def test_anything_else_is_refused_with_its_place(value):
    with pytest.raises(TypeError, match=r"^model\.part\[1\] is a .*without pickle"):
        to_json({"model": {"part": [0, value]}})


@pytest.mark.parametrize("text", ['{"__type__": "code", "items": []}', '{"__type__": "array"}', "{"])
def test_damage_is_an_error(text):
    with pytest.raises((ValueError, KeyError)):
        from_json(text)
