from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from transanno import metrics


@pytest.fixture
def result() -> metrics.CrossValidation:
    evaluations = {
        "1": metrics.evaluate(["T", "T", "B"], ["T", "B", "B"]),
        "2": metrics.evaluate(["T", "B", "Mast"], ["T", "B", "T"], labels=["T", "B"]),
    }
    pooled = metrics.evaluate(["T", "T", "B", "T", "B", "Mast"], ["T", "B", "B", "T", "B", "T"], labels=["T", "B"])
    n_duplicates = pd.Series({"1": 2, "2": 0})
    return metrics.CrossValidation(evaluations, pooled, pd.DataFrame(), n_duplicates, 3, pd.Series({"Mast": 1}))


def test_folds_are_tidy(result):
    assert list(result.folds) == ["fold", "metric", "value"]
    assert not result.folds.duplicated(["fold", "metric"]).any()
    values = result.folds.set_index(["fold", "metric"])["value"]
    assert values["1", "accuracy"] == pytest.approx(2 / 3)
    assert values["2", "accuracy_with_unseen"] == pytest.approx(2 / 3)
    assert values["1", "n_duplicates"] == 2


def test_mean_and_standard_deviation(result):
    row = result.summary.loc["accuracy"]
    assert row["mean"] == pytest.approx((2 / 3 + 1) / 2)
    assert row["sd"] == pytest.approx(np.std([2 / 3, 1], ddof=1))
    assert row["n"] == 2
    assert result.summary.loc["coverage_unseen", "n"] == 1  # only one fold has unseen types


def test_per_class_is_over_all_cells(result):
    assert result.per_class.loc["T", "recall"] == pytest.approx(2 / 3)
    assert result.per_class.loc["T", "f1_sd"] == pytest.approx(np.std([2 / 3, 1], ddof=1))
    assert result.confusion_matrix.loc["Mast", "T"] == 1


def test_printing_tells_what_was_found(result):
    text = str(result)
    assert "accuracy              0.8333  0.2357" in text
    assert "folds: 2, labeled cells: 6, types: 2" in text
    assert "1 cells, types: 1 (Mast)" in text
    assert "copy among the training cells: 2" in text
    assert "copies that were dropped: 3 cells" in text
    assert "coverage " not in text  # every cell was assigned
