from __future__ import annotations

import numpy as np
from sklearn.metrics import confusion_matrix

from transanno import metrics

TRUTH = ["T cell"] * 11 + ["B cell"] * 7 + ["novel"] * 3 + [None] * 2
PREDICTED = ["T cell"] * 9 + ["B cell", "NK cell"] + ["B cell"] * 7 + ["T cell"] * 2 + [None] + ["T cell"] * 2


def test_confusion_matrix_has_unseen_types_last_and_without_a_column(result):
    table = result.confusion_matrix
    assert list(table.index) == ["T", "B", "NK", "Mast"]
    assert list(table.columns) == ["T", "B", "NK", "Unassigned"]
    assert table.to_numpy().tolist() == [[3, 1, 0, 1], [1, 2, 0, 0], [0, 0, 1, 0], [1, 0, 1, 1]]


def test_pairs_are_counted_as_scikit_learn_does():
    table = metrics.confusion_matrix(TRUTH, PREDICTED)
    # Most frequent true type first; types that are only predicted are columns and no rows.
    assert list(table.index) == ["T cell", "B cell", "novel"]
    assert list(table.columns) == ["T cell", "B cell", "novel", "NK cell"]
    pairs = [(t, p) for t, p in zip(TRUTH, PREDICTED, strict=True) if t is not None and p is not None]
    expected = confusion_matrix(*zip(*pairs, strict=True), labels=list(table.columns))
    np.testing.assert_array_equal(table.to_numpy(), expected[:3])
