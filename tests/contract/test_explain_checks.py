"""`tl.explain` reads few cells, and refuses what prediction refuses."""

from __future__ import annotations

import numpy as np
import pytest

from transanno import TransAnno, tl


def logged_noise(adata):
    counts = adata.X.toarray()
    adata.X = np.log1p(counts * np.random.default_rng(0).uniform(0.5, 2, counts.shape)).astype("float32")
    return adata


def negative(adata):
    adata.X = adata.X.toarray()
    adata.X[0, 3] = -1
    return adata


def not_a_number(adata):
    adata.X = adata.X.toarray()
    adata.X[0, 3] = np.nan
    return adata


def zeros(adata):
    adata.X = adata.X * 0
    return adata


@pytest.mark.parametrize("damage", [logged_noise, negative, not_a_number, zeros])
def test_what_predict_refuses(model, query, damage):
    query = damage(query)
    with pytest.raises(ValueError) as of_predict:
        model.predict(query)
    with pytest.raises(ValueError) as of_explain:
        tl.explain(model, [0, 1], adata=query)
    assert str(of_explain.value) == str(of_predict.value)


def test_a_reference_without_counts(model, query, make_adata):
    with pytest.raises(ValueError, match="log1p-normalized"):
        tl.explain(model, [0, 1], adata=query, reference=logged_noise(make_adata(seed=9)))


@pytest.mark.filterwarnings("ignore")
def test_raw_is_taken_where_x_turns_out_not_to_be_restorable(model, make_adata):
    adata = make_adata(700, seed=5)
    logged = adata.X.toarray()
    logged = np.log1p(logged / logged.sum(axis=1, keepdims=True) * 1e4).astype("float32")
    adata.X = logged.copy()
    expected = model.predict(adata)
    adata.raw = adata.copy()
    # Only the cells that a sample looks at are whole multiples of a unit.
    others = np.setdiff1d(np.arange(700), np.unique(np.linspace(0, 699, 256).astype(int)))
    adata.X[others] *= np.random.default_rng(0).uniform(0.5, 2, (len(others), adata.n_vars)).astype("float32")
    np.testing.assert_array_equal(model.predict(adata), expected)
    assert len(tl.explain(model, others[:20], adata=adata)) > 0
    del adata.raw
    with pytest.raises(ValueError, match="log1p-normalized"):
        tl.explain(model, others[:20], adata=adata)


@pytest.mark.parametrize("what", ["predict", "load_query_data", "fit_reference"])
def test_without_x_the_cure_is_named(model, query, what):
    query.X = None
    with pytest.raises(ValueError, match=r"has no X\..*put them into X or a layer"):
        if what == "predict":
            model.predict(query)
        elif what == "load_query_data":
            TransAnno.load_query_data(query, model)
        else:
            tl.fit_reference(query, "cell_type", max_epochs=1)
