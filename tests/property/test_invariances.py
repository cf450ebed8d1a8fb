"""What has no influence on a prediction: order of genes and cells, minibatch size, genes the model does not know.

Cells are compared with the mean of their data set: which cells are predicted (``indices``) matters as little as in which
minibatch they are, but the cells of the data set do.
"""

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

from transanno import TransAnno, TransAnnoWarning

TOLERANCE = 1e-5
N_QUERY, N_VARS = 61, 53

quick = settings(max_examples=30, deadline=None, database=None)
seeds = st.integers(0, 2**32 - 1)


PERFORMER = {"encoder": "performer", "n_hidden": 18, "n_layers": 1, "n_heads": 2, "head_dim": 7}


@pytest.fixture(scope="module", params=["views", "performer"])
def trained(request, make_adata, small, fast, start_afresh) -> TransAnno:
    start_afresh()
    adata = make_adata()
    TransAnno.setup_anndata(adata, "cell_type", batch_key="batch")
    model = TransAnno(adata, **(small if request.param == "views" else PERFORMER))
    model.train(1, plan_kwargs={"lr": 5e-3}, **fast)
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
@given(seed=seeds)
def test_order_of_cells_has_no_influence(seed, trained, cells, expected):
    order = np.random.default_rng(seed).permutation(N_QUERY)
    assert_same(trained.predict(cells[order].copy(), soft=True, key_added=None), expected.iloc[order])


@quick
@given(seed=seeds, n_cells=st.integers(0, 2 * N_QUERY), batch_size=st.none() | st.integers(1, 2 * N_QUERY))
def test_which_cells_are_predicted_in_which_minibatch_has_no_influence(
    seed, n_cells, batch_size, trained, cells, expected
):
    chosen = np.random.default_rng(seed).integers(0, N_QUERY, n_cells)  # some of them twice
    arguments = {"indices": chosen, "batch_size": batch_size, "key_added": None}
    assert_same(trained.predict(cells, soft=True, **arguments), expected.iloc[chosen])
    states = trained.get_latent_representation(cells)
    arguments.pop("key_added")
    np.testing.assert_allclose(trained.get_latent_representation(cells, **arguments), states[chosen], atol=1e-4)


@quick
@given(seed=seeds, n_cells=st.integers(1, N_QUERY))
def test_cells_of_a_loader_are_compared_with_the_reference_whoever_they_come_with(seed, n_cells, trained, cells):
    """In minibatches of any company: their own data set is not known."""
    order = np.random.default_rng(seed).permutation(N_QUERY)
    batch = torch.from_numpy((cells.obs["batch"] == "batch2").to_numpy().astype(int))[:, None]
    counts = torch.from_numpy(cells.X.toarray())
    minibatches = [{"X": counts[rows], "batch": batch[rows]} for rows in np.split(order, [n_cells]) if len(rows)]
    found = trained.predict(dataloader=minibatches, soft=True)
    alone = trained.predict(dataloader=[{"X": counts, "batch": batch}], soft=True)
    np.testing.assert_allclose(found, alone.iloc[order], rtol=0, atol=TOLERANCE)


@quick
@given(seed=seeds, n_cells=st.integers(1, 9))
def test_queries_of_any_size_are_predicted(seed, n_cells, trained, cells):
    query = cells[np.random.default_rng(seed).permutation(N_QUERY)[:n_cells]].copy()
    frame = trained.predict(query, soft=True, key_added=None)
    assert np.isfinite(frame).all(axis=None)
    np.testing.assert_allclose(frame.sum(axis=1), 1.0, rtol=0, atol=1e-12)


@settings(quick, max_examples=9)
@given(
    seed=seeds,
    baseline=st.sampled_from(["average", "silent"]),
    pair=st.sampled_from([("B cell", "T cell"), ("NK cell", None), ("T cell", "NK cell")]),
)
def test_contributions_of_genes_sum_to_the_difference_from_the_baseline(seed, baseline, pair, trained, cells):
    """Of any cells, to any contrast: with the mean of the data set and the distance from it as they are."""
    if trained.module.encoder.has_gene_tokens:
        return  # whose bins have no gradient: see tests/unit/nn/test_attribution.py
    chosen = np.random.default_rng(seed).permutation(N_QUERY)[:3]
    label, against = pair
    table = trained.get_gene_attributions(
        cells, chosen, np.arange(3), label=label, against=against, baseline=baseline, n_steps=96
    )
    module, nothing = trained.module.eval(), torch.zeros(1, N_VARS, dtype=torch.bool)
    expression = module.normalize(torch.from_numpy(cells.X.toarray()), nothing)
    center = (expression.sum(dim=0) + 5 * module.mean_expression) / (N_QUERY + 5)
    batch = torch.from_numpy((cells.obs["batch"] == "batch2").to_numpy().astype(int))[chosen]
    length = (expression[chosen] - center).norm(dim=1)
    context = module.context(nothing, center)._replace(length=length)
    weights = np.where(trained.labels == label, 1.0, -0.5 if against is None else -1.0 * (trained.labels == against))
    start = torch.zeros(N_VARS) if baseline == "silent" else module.mean_expression
    ends = []
    with torch.inference_mode():
        for x in (expression[chosen], start.expand(3, -1)):
            encoded = module.encoder(x, nothing, module.batch_embedding(batch), context)
            ends.append(module.classifier(encoded, x, nothing, context).numpy() @ weights)
    np.testing.assert_allclose(table.sum(axis=1), ends[0] - ends[1], rtol=2e-3, atol=2e-3)


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
    counts = torch.from_numpy(cells.X.toarray())
    center = trained.module.normalize(counts, is_missing[None, :]).sum(dim=0) + 5 * trained.module.mean_expression
    with torch.inference_mode():
        logits = trained.module.inference(counts, batch, is_missing, center / (N_QUERY + 5))["logits"]
    np.testing.assert_allclose(found, logits.softmax(dim=1), rtol=0, atol=TOLERANCE)


@quick
@given(seed=seeds, depth=st.floats(0.01, 50.0))
def test_rows_sum_to_one_for_any_counts(seed, depth, trained, cells):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.3, depth, size=(7, N_VARS))).astype("float32")
    counts[0] = 0  # a cell without any count
    counts[1, rng.integers(N_VARS)] = 1e6
    random = ad.AnnData(sp.csr_matrix(counts), obs=cells.obs.iloc[:7].copy(), var=cells.var.copy())
    with pytest.warns(TransAnnoWarning, match="have no count in any gene of the model"):
        frame = trained.predict(random, soft=True, key_added=None)
    np.testing.assert_allclose(frame.iloc[0], 1 / frame.shape[1])  # nothing is known of it
    assert ((frame >= 0) & (frame <= 1)).all(axis=None)
    np.testing.assert_allclose(frame.sum(axis=1), 1.0, rtol=0, atol=1e-12)


@quick
@given(factor=st.integers(2, 50))
def test_depth_of_sequencing_alone_has_no_influence(factor, trained, cells, expected):
    deeper = cells.copy()
    deeper.X = deeper.X * factor
    assert_same(trained.predict(deeper, soft=True, key_added=None), expected)
