"""Columns of obs as pandas may hold them, beside strings."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from transanno import pp, tl

N = 97
CODES = np.arange(N) % 2
HAS_GAP = np.arange(N) % 3 == 0

BATCHES = {
    "integers": CODES,
    "booleans": CODES == 0,
    "floats": CODES + 0.5,
    "floats with NaN": np.where(HAS_GAP, np.nan, CODES),
    "nullable integers": pd.array(np.where(HAS_GAP, None, CODES), dtype="Int64"),
    "nullable booleans": pd.array(CODES == 0, dtype="boolean"),
    "strings": pd.array(np.array(["a", "b"])[CODES], dtype="string"),
    "dates": pd.date_range("2024-01-01", periods=2)[CODES],
    "categories of integers": pd.Categorical(CODES, categories=range(5)),
    "categories with gaps": pd.Categorical(np.where(HAS_GAP, None, np.array(["a", "b"], object)[CODES])),
    "mixture": np.array([1, "a"], dtype=object)[CODES],
}


@pytest.fixture(scope="module", params=BATCHES)
def batches(request):
    return BATCHES[request.param]


def test_variable_genes_are_those_of_the_same_batches_as_strings(batches, reference):
    reference.obs["plain"] = pd.Series(batches).astype(object).where(lambda x: x.notna(), "gap").astype(str).to_numpy()
    expected = tl.select_genes(reference, n_top_genes=20, batch_key="plain")
    assert set(expected) != set(tl.select_genes(reference, n_top_genes=20))  # batches do matter
    reference.obs["batch"] = batches
    before = reference.obs["batch"].copy()
    assert list(tl.select_genes(reference, n_top_genes=20, batch_key="batch")) == list(expected)
    pd.testing.assert_series_equal(reference.obs["batch"], before)


def test_preprocess_takes_them(batches, reference):
    reference.obs["batch"] = batches
    assert pp.preprocess(reference, min_genes=1, n_top_genes=20, batch_key="batch").n_vars == 20


@pytest.mark.parametrize("name", ["nullable booleans"])
def test_annotate_and_pretrain_take_them(name, reference, query, fast):
    reference.obs["batch"] = BATCHES[name]
    arguments = {"batch_key": "batch", "n_top_genes": 20, "max_epochs": 1, **fast}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        tl.annotate(query, reference, labels_key="cell_type", calibrate=False, **arguments)
        tl.pretrain(reference, **arguments)
    assert query.obs["transanno"].notna().all()
