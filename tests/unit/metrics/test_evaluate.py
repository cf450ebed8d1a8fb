"""Against scikit-learn and hand arithmetic."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from transanno import metrics


@pytest.fixture
def noisy() -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Truth, prediction and probabilities of 211 cells of five types of unequal size."""
    rng = np.random.default_rng(0)
    names = np.array(["a", "b", "c", "d", "e"], dtype=object)
    truth = rng.choice(5, size=211, p=[0.4, 0.25, 0.2, 0.1, 0.05])
    logits = rng.normal(size=(211, 5)) + 2.0 * np.eye(5)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return names[truth], names[probabilities.argmax(axis=1)], pd.DataFrame(probabilities, columns=names)


def test_scores_by_hand(result):
    # Known types: 5 T (3 right), 3 B (2 right), 1 NK with a prediction (right).
    scores = result.summary
    assert scores["n_cells"] == 9
    assert scores["accuracy"] == pytest.approx(6 / 9)
    assert scores["coverage"] == pytest.approx(8 / 9)
    assert scores["accuracy_assigned"] == pytest.approx(6 / 8)
    f1 = {"T": 2 * 3 / (5 + 4), "B": 2 * 2 / (3 + 3), "NK": 1.0}
    assert scores["macro_f1"] == pytest.approx(np.mean(list(f1.values())))
    assert scores["weighted_f1"] == pytest.approx((5 * f1["T"] + 3 * f1["B"] + 1 * f1["NK"]) / 9)
    assert np.isnan(scores["macro_auc"])


def test_unseen_types_are_reported_apart(result):
    scores = result.summary
    assert result.unseen.to_dict() == {"Mast": 3}
    assert scores["n_cells_unseen"] == 3
    assert scores["accuracy_with_unseen"] == pytest.approx(6 / 12)
    assert scores["coverage_unseen"] == pytest.approx(2 / 3)
    with_unseen = {"T": 2 * 3 / (5 + 5), "B": 2 * 2 / (3 + 3), "NK": 2 * 1 / (1 + 2), "Mast": 0.0}
    assert scores["macro_f1_with_unseen"] == pytest.approx(np.mean(list(with_unseen.values())))
    assert "Mast" not in result.per_class.index


def test_cells_without_truth_or_prediction_are_counted(result):
    assert (result.n_unlabeled, result.n_not_predicted) == (2, 1)


def test_per_class_table(result):
    table = result.per_class
    assert list(table.index) == ["T", "B", "NK"]
    assert list(table.columns) == ["precision", "recall", "f1", "support", "predicted"]
    np.testing.assert_allclose(table["precision"], [3 / 4, 2 / 3, 1.0])
    np.testing.assert_allclose(table["recall"], [3 / 5, 2 / 3, 1.0])
    assert table["support"].tolist() == [5, 3, 1]
    assert table["predicted"].tolist() == [4, 3, 1]


def test_equals_scikit_learn(noisy):
    truth, predicted, probabilities = noisy
    result = metrics.evaluate(truth, predicted, probabilities=probabilities)
    assert result.summary["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    for key, average in (("macro_f1", "macro"), ("weighted_f1", "weighted")):
        assert result.summary[key] == pytest.approx(f1_score(truth, predicted, average=average))
    expected = roc_auc_score(truth, probabilities.to_numpy(), multi_class="ovr", average="macro")
    assert result.summary["macro_auc"] == pytest.approx(expected)
    assert result.per_class["auc"].mean() == pytest.approx(expected)
    assert 0.5 < expected < 1


def test_columns_of_probabilities_are_the_known_types():
    probabilities = pd.DataFrame({"T": [0.9, 0.2, 0.5], "B": [0.1, 0.8, 0.5]})
    result = metrics.evaluate(["T", "B", "Mast"], ["T", "B", "B"], probabilities=probabilities)
    assert result.unseen.to_dict() == {"Mast": 1}
    assert result.summary["macro_auc"] == 1.0


def test_a_type_that_is_only_predicted_is_no_type_with_an_f1_of_zero():
    result = metrics.evaluate(["T", "T", "B"], ["T", "NK", "B"])
    assert result.summary["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert list(result.confusion_matrix.columns) == ["T", "B", "NK"]


def test_only_unseen_types_leave_the_scores_undefined():
    result = metrics.evaluate(["Mast"], ["T"], labels=["T", "B", "NK"])
    assert np.isnan(result.summary["accuracy"])
    assert result.summary["accuracy_with_unseen"] == 0.0
    assert result.per_class.empty


def test_a_reference_may_have_a_type_called_unassigned():
    result = metrics.evaluate(["Unassigned", "T"], ["Unassigned", "T"], labels=["Unassigned", "T"])
    assert result.summary["accuracy"] == result.summary["coverage"] == 1.0


class TestInvalidInput:
    def test_nothing_to_score(self):
        with pytest.raises(ValueError, match="1 have a true type other than 'Unlabeled' and 1 have a prediction"):
            metrics.evaluate(["T", None], [None, "T"])

    def test_other_numbers_of_probabilities(self):
        with pytest.raises(ValueError, match="probabilities has 1 rows, but there are 2"):
            metrics.evaluate(["T", "B"], ["T", "B"], probabilities=pd.DataFrame({"T": [1.0]}))

    def test_true_type_called_unassigned(self):
        with pytest.raises(ValueError, match="1 cells have the true type 'Unassigned'"):
            metrics.evaluate(["Unassigned", "T"], ["T", "T"])
        result = metrics.evaluate(["Unassigned", "T"], ["T", "T"], unlabeled_category="Unassigned")
        assert result.summary["n_cells"] == 1

    def test_cells_without_probabilities(self):
        with pytest.raises(ValueError, match="1 of 2 cells that are scored have no probabilities"):
            metrics.evaluate(["T", "T"], ["T", "T"], probabilities=pd.DataFrame({"T": [1.0, np.nan]}))
