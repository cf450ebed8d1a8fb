"""What has no influence on a prediction: order of genes and cells, minibatch size, genes the model does not know."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transanno import TransAnno

TOLERANCE = 1e-5
N_QUERY, N_VARS = 61, 53

quick = settings(max_examples=30, deadline=None, database=None)
seeds = st.integers(0, 2**32 - 1)


PERFORMER = {"encoder": "performer", "n_hidden": 18, "n_layers": 1, "n_heads": 2, "head_dim": 7}


@pytest.fixture(scope="module", params=["slots", "performer"])
def trained(request, make_adata, small, fast) -> TransAnno:
    torch.manual_seed(0)
    np.random.seed(0)
    adata = make_adata()
    TransAnno.setup_anndata(adata, "cell_type", batch_key="batch")
    model = TransAnno(adata, **(small if request.param == "slots" else PERFORMER))
    model.train(1 if request.param == "slots" else 5, plan_kwargs={"lr": 5e-3}, **fast)
    return model


@pytest.fixture(scope="module")
def cells(make_adata) -> ad.AnnData:
    return make_adata(N_QUERY, seed=1)


@pytest.fixture(scope="module")
def expected(trained, cells) -> pd.DataFrame:
    frame = trained.predict(cells, soft=True, key_added=None)
    assert frame.to_numpy().std(axis=0).min() > 1e-3  # else everything below would hold of itself
    return frame


def assert_same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    pd.testing.assert_index_equal(found.index, expected.index)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@quick
@given(seed=seeds)
def test_order_of_genes_has_no_influence(seed, trained, cells, expected):
    order = np.random.default_rng(seed).permutation(N_VARS)
    assert_same(trained.predict(cells[:, order].copy(), soft=True, key_added=None), expected)


@quick
@given(seed=seeds, n_cells=st.integers(1, N_QUERY))
def test_order_and_company_of_cells_have_no_influence(seed, n_cells, trained, cells, expected):
    chosen = np.random.default_rng(seed).permutation(N_QUERY)[:n_cells]
    assert_same(trained.predict(cells[chosen].copy(), soft=True, key_added=None), expected.iloc[chosen])
    assert_same(trained.predict(cells, indices=chosen, soft=True, key_added=None), expected.iloc[chosen])


@quick
@given(batch_size=st.integers(1, 2 * N_QUERY))
def test_minibatch_size_has_no_influence(batch_size, trained, cells, expected):
    assert_same(trained.predict(cells, soft=True, batch_size=batch_size, key_added=None), expected)


@quick
@given(seed=seeds, n_extra=st.integers(1, 31))
def test_genes_that_the_model_does_not_know_have_no_influence(seed, n_extra, trained, cells, expected):
    rng = np.random.default_rng(seed)
    extra = rng.poisson(20.0, size=(N_QUERY, n_extra)).astype("float32")
    names = [*cells.var_names, *(f"EXTRA{i}" for i in range(n_extra))]
    order = rng.permutation(len(names))
    padded = ad.AnnData(
        sp.csr_matrix(sp.hstack([cells.X, extra]).tocsr()[:, order]),
        obs=cells.obs.copy(),
        var=pd.DataFrame(index=np.array(names)[order]),
    )
    assert_same(trained.predict(padded, soft=True, key_added=None), expected)


@quick
@given(seed=seeds, share=st.floats(0.5, 0.95))
def test_missing_genes_are_masked_wherever_they_are(seed, share, trained, cells):
    """Lacking a gene is the same as the module's mask, and not the same as counting zero of it."""
    kept = np.random.default_rng(seed).permutation(N_VARS)[: int(share * N_VARS)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Only .* genes the model knows were found")
        found = trained.predict(cells[:, kept].copy(), soft=True, key_added=None)
    is_missing = torch.ones(N_VARS, dtype=torch.bool)
    is_missing[torch.from_numpy(kept)] = False
    batch = torch.from_numpy((cells.obs["batch"] == "batch2").to_numpy().astype(int))[:, None]
    with torch.inference_mode():
        logits = trained.module.inference(torch.from_numpy(cells.X.toarray()), batch, is_missing)["logits"]
    np.testing.assert_allclose(found, logits.softmax(dim=1), rtol=0, atol=TOLERANCE)


@quick
@given(seed=seeds, depth=st.floats(0.01, 50.0))
def test_rows_sum_to_one_for_any_counts(seed, depth, trained, cells):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.3, depth, size=(7, N_VARS))).astype("float32")
    counts[0] = 0  # a cell without any count
    counts[1, rng.integers(N_VARS)] = 1e6
    random = ad.AnnData(sp.csr_matrix(counts), obs=cells.obs.iloc[:7].copy(), var=cells.var.copy())
    frame = trained.predict(random, soft=True, key_added=None)
    assert ((frame >= 0) & (frame <= 1)).all(axis=None)
    np.testing.assert_allclose(frame.sum(axis=1), 1.0, rtol=0, atol=1e-12)


@quick
@given(factor=st.integers(2, 50))
def test_depth_of_sequencing_alone_has_no_influence(factor, trained, cells, expected):
    deeper = cells.copy()
    deeper.X = deeper.X * factor
    assert_same(trained.predict(deeper, soft=True, key_added=None), expected)
