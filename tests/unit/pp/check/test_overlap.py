from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp

from transanno import pp
from transanno.pp._check._overlap import coverage, deciding_by_mean, what_is_known


def test_deciding_genes_are_those_of_largest_difference():
    counts = sp.csr_matrix(np.array([[8, 1, 1, 0], [8, 1, 1, 0], [1, 8, 1, 0], [1, 1, 1, 7.0]]))
    found = deciding_by_mean(
        counts, np.array([0, 0, 1, -1]), np.array(["a", "b"], dtype=object), pd.Index(list("wxyz"))
    )
    assert found == {"a": ["w"], "b": ["x"]}


def test_of_every_class_the_measured_share_is_told(query, reference):
    known = what_is_known(reference, layer=None, labels_key="cell_type").deciding
    assert set(known) == {"B cell", "NK cell", "T cell"}
    query = query[:, ~query.var_names.isin(known["B cell"])].copy()
    report = pp.check(query, reference, labels_key="cell_type")
    table = report.class_coverage
    assert table.loc["B cell", "n_measured"] == 0
    assert table.loc["B cell", "missing"].split(", ") == known["B cell"]
    assert "B cell (0%)" in report["gene overlap by type"].found
    assert (table["n_genes"] == 5).all()


def test_a_type_without_deciding_genes_has_no_share():
    assert np.isnan(coverage({"a": []}, set()).loc["a", "share"])


def test_a_model_tells_with_and_without_its_data(model, saved_reference, query, reference):
    by_data = pp.check(query, reference, labels_key="cell_type").class_coverage
    pd.testing.assert_frame_equal(pp.check(query, model).class_coverage, by_data)
    from_data = what_is_known(model, layer=None, labels_key=None).deciding
    from_weights = what_is_known(saved_reference, layer=None, labels_key=None).deciding
    assert set(from_weights) == set(from_data)
    # five of 53 genes: by chance half a gene would agree
    agree = [len(set(from_data[name]) & set(from_weights[name])) for name in from_data]
    assert np.mean(agree) > 2


def test_a_pretrained_model_knows_genes_only(pretrained, query):
    report = pp.check(query, pretrained)
    assert report.n_shared_genes == 53
    assert report.class_coverage is None
