"""What holds for the scores of any labels."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from transanno import metrics

quick = settings(max_examples=25, deadline=None, database=None)
pairs = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c", "d"]), st.sampled_from(["a", "b", "c", "Unassigned"])), min_size=1
)


def scores(cells: list[tuple[str, str]], **kwargs) -> metrics.Evaluation:
    return metrics.evaluate(*(list(column) for column in zip(*cells, strict=True)), **kwargs)


@quick
@given(cells=pairs, seed=st.integers(0, 1000))
def test_order_of_cells_has_no_influence(cells, seed):
    shuffled = [cells[i] for i in np.random.default_rng(seed).permutation(len(cells))]
    first, second = (scores(order, labels=["a", "b", "c"]) for order in (cells, shuffled))
    pd.testing.assert_series_equal(first.summary, second.summary)
    pd.testing.assert_frame_equal(first.per_class, second.per_class)
    pd.testing.assert_frame_equal(first.confusion_matrix, second.confusion_matrix)


@quick
@given(cells=pairs)
def test_equal_to_scikit_learn(cells):
    truth, predicted = (list(column) for column in zip(*cells, strict=True))
    result = scores(cells)
    types = sorted(set(truth))
    assert np.isclose(result.summary["accuracy"], accuracy_score(truth, predicted))
    expected = f1_score(truth, predicted, labels=types, average="macro", zero_division=0)
    assert np.isclose(result.summary["macro_f1"], expected)
    table = result.confusion_matrix
    all_types = sorted({*truth, *predicted, "a", "b"})  # scikit-learn warns of a single one
    counts = pd.DataFrame(confusion_matrix(truth, predicted, labels=all_types), index=all_types, columns=all_types)
    np.testing.assert_array_equal(table, counts.loc[table.index, table.columns])
    assert table.to_numpy().sum() == len(cells)


@quick
@given(cells=pairs)
def test_bounds_and_what_belongs_together(cells):
    result = scores(cells, labels=["a", "b", "c"])
    values = result.summary[~result.summary.index.str.startswith("n_")].dropna()
    assert values.between(0, 1).all()
    assert result.summary["n_cells"] + result.summary["n_cells_unseen"] == len(cells)
    assert result.per_class["support"].sum() == result.summary["n_cells"]
    if result.summary["n_cells"]:
        # An unassigned cell is a wrong one.
        assigned = result.summary["accuracy_assigned"] if result.summary["coverage"] else 0.0
        assert np.isclose(result.summary["accuracy"], assigned * result.summary["coverage"])


@quick
@given(cells=pairs, prefix=st.text("xyz", min_size=1, max_size=3))
def test_names_of_types_have_no_influence(cells, prefix):
    def renamed(name: str) -> str:
        return name if name == "Unassigned" else prefix + name

    found = scores([(renamed(truth), renamed(predicted)) for truth, predicted in cells])
    pd.testing.assert_series_equal(found.summary, scores(cells).summary)


@quick
@given(seed=st.integers(0, 1000), n_types=st.integers(2, 5))
def test_auc_depends_on_the_order_of_probabilities_only(seed, n_types):
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.arange(31) % n_types).astype(str)
    probabilities = pd.DataFrame(rng.random((31, n_types)), columns=[str(i) for i in range(n_types)])
    first = metrics.roc_auc_per_class(truth, probabilities)
    assert first.between(0, 1).all()
    np.testing.assert_allclose(metrics.roc_auc_per_class(truth, probabilities**3), first)
    np.testing.assert_allclose(metrics.roc_auc_per_class(truth, 1 - probabilities), 1 - first)
