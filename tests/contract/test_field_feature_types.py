"""Features without a type, as an outer concatenation leaves them, are genes."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

from transanno import TransAnno, pp, tl


def outer(adata):
    """Two parts, of which one has fewer genes, put together again: types of the genes of one part are NaN."""
    adata.var["feature_types"] = "Gene Expression"
    first, second = adata[:40, :30].copy(), adata[40:].copy()
    del second.var["feature_types"]
    joined = ad.concat([first, second], join="outer", merge="first")
    joined.obs = adata.obs
    assert joined.var["feature_types"].isna().sum() > 20
    return joined


def test_all_genes_of_a_concatenated_reference_are_used(reference, fast):
    joined = outer(reference)
    model = tl.fit_reference(joined, "cell_type", max_epochs=1, calibrate=False, **fast)
    assert set(model.genes) == set(joined.var_names[np.asarray(joined.X.sum(axis=0)).ravel() > 0])


@pytest.mark.parametrize("missing", [np.nan, None, ""])
def test_all_genes_of_a_concatenated_query_are_used(missing, model, query):
    query.var["feature_types"] = np.array(["Gene Expression", missing], dtype=object)[np.arange(53) % 2]
    assert not TransAnno.load_query_data(query, model, accelerator="cpu")._registered_cells().is_missing.any()
    report = pp.check(query, model)
    assert report.n_shared_genes == 53
    assert "other features" not in [finding.name for finding in report.findings]
