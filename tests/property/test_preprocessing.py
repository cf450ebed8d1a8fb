"""What holds of any vocabulary, any values and any genes that are missing."""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from transanno import TransAnno, pp
from transanno.data._align_counts import align_counts
from transanno.data._counts import MatrixCounts
from transanno.data._match_genes import match_genes

N_OBS, N_VARS = 11, 29
GENES = [f"g{i}" for i in range(N_VARS)]

quick = settings(max_examples=40, deadline=None, database=None)
seeds = st.integers(0, 2**32 - 1)
# Gene names as they may be: anything without line breaks, tabs and white space around it.
names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(lambda name: name == name.strip())
vocabularies = st.lists(names, min_size=1, max_size=23, unique=True)


@quick
@given(genes=vocabularies, suffix=st.sampled_from([".txt", ".json", ""]))
def test_vocabulary_comes_back_from_its_file(genes, suffix):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"genes{suffix}"
        pp.write_vocabulary(genes, file)
        assert list(pp.read_vocabulary(file)) == genes
        text = file.read_text(encoding="utf-8")
        assert (json.loads(text) if suffix == ".json" else text.split("\n")[:-1]) == genes


@quick
@given(
    seed=seeds,
    container=st.sampled_from([np.asarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.csc_array]),
    dtype=st.sampled_from(["float32", "float64", "int32", "int64", "uint8", "bool"]),
    n_new=st.integers(0, 5),
    block=st.integers(1, 60),
)
def test_alignment_moves_values_and_changes_none(seed, container, dtype, n_new, block):
    rng = np.random.default_rng(seed)
    values = (rng.poisson(0.5, size=(N_OBS, N_VARS)) * rng.integers(1, 99, size=(N_OBS, N_VARS))).astype(dtype)
    adata = ad.AnnData(container(values), var=pd.DataFrame(index=GENES))
    known = rng.permutation(GENES)[: rng.integers(20, N_VARS + 1)]
    vocabulary = list(rng.permutation([*known, *(f"new{i}" for i in range(n_new))]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MatrixCounts.blocks, "__defaults__", (block,))
        aligned = pp.align_genes(adata, vocabulary)
    expected = pd.DataFrame(values, columns=GENES).reindex(columns=vocabulary, fill_value=values.dtype.type(0))
    np.testing.assert_array_equal(aligned.X.toarray(), expected.to_numpy())
    assert aligned.X.dtype == dtype
    assert list(aligned.var_names[aligned.var["is_missing"]]) == [gene for gene in vocabulary if gene not in known]
    # The way of the models, which makes float32, agrees.
    counts = align_counts(adata, match_genes(adata.var_names, vocabulary))
    np.testing.assert_array_equal(counts.toarray(), aligned.X.toarray().astype("float32"))


@pytest.fixture(scope="module")
def trained(make_adata, small, fast, start_afresh) -> TransAnno:
    start_afresh()
    adata = make_adata()
    TransAnno.setup_anndata(adata, "cell_type", batch_key="batch")
    model = TransAnno(adata, **small)
    model.train(1, plan_kwargs={"lr": 5e-3}, **fast)
    return model


@settings(max_examples=20, deadline=None, database=None)
@given(seed=seeds, share=st.floats(0.5, 1.0), n_other=st.integers(0, 7))
def test_alignment_before_prediction_has_no_influence(seed, share, n_other, trained, make_adata):
    rng = np.random.default_rng(seed)
    cells = make_adata(13, seed=1)
    query = cells[:, rng.permutation(cells.n_vars)[: int(share * cells.n_vars)]].copy()
    vocabulary = list(rng.permutation([*trained.genes, *(f"other{i}" for i in range(n_other))]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Only .* genes the model knows were found")
        found = trained.predict(pp.align_genes(query, vocabulary), soft=True, key_added=None)
        expected = trained.predict(query, soft=True, key_added=None)
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
