"""A reference as the model reads it: genes of the vocabulary, and the count of all others."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from transanno._constants import OTHER_GENES
from transanno.data._reference import WantedGenes, read_reference

GENES = pd.Index([f"gene{i}" for i in range(9)])
VOCABULARY = GENES[[7, 2, 4]]


def make_adata(n_obs: int = 11, seed: int = 0, kind=sp.csr_matrix) -> ad.AnnData:
    counts = np.random.default_rng(seed).poisson(3.0, (n_obs, len(GENES))).astype(np.float32)
    return ad.AnnData(kind(counts), var=pd.DataFrame(index=GENES))


def shares_of(adata: ad.AnnData) -> dict[str, float]:
    totals = np.asarray(adata.X.sum(axis=0), dtype=np.float64).ravel()
    return dict(zip(adata.var_names, totals / totals.sum(), strict=True))


def test_last_column_holds_all_other_counts():
    adata = make_adata()
    wanted = WantedGenes(GENES, GENES, VOCABULARY, 0)
    found, shares = read_reference(adata, wanted, None, None, None, name="reference")
    assert found.var_names.tolist() == [*VOCABULARY, OTHER_GENES]
    assert (found[:, VOCABULARY].X != adata[:, VOCABULARY].X).nnz == 0
    np.testing.assert_array_equal(found.X.sum(axis=1), adata.X.sum(axis=1))
    assert list(shares) == GENES.tolist()
    np.testing.assert_allclose(list(shares.values()), list(shares_of(adata).values()))


def test_there_is_none_where_the_model_reads_all():
    adata = make_adata()
    wanted = WantedGenes(GENES, GENES, GENES, 0)
    found, shares = read_reference(adata, wanted, None, None, None, name="reference")
    assert found.var_names.tolist() == GENES.tolist()
    assert shares is None
