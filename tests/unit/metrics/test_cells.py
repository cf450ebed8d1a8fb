from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from transanno import metrics


def test_numbers_and_strings_are_the_same_labels():
    truth = pd.Series([1.0, 2.0, np.nan])  # what pandas makes of integers as soon as one is missing
    assert metrics.evaluate(truth, pd.Series(["1", "2", "1"])).summary["accuracy"] == 1.0
    assert metrics.evaluate(pd.Series([1, 2]), pd.Series([1, 1], dtype="category")).summary["accuracy"] == 0.5


def test_other_numbers_of_cells():
    with pytest.raises(ValueError, match="There are 2 true types, but 1 predicted"):
        metrics.evaluate(["T", "B"], ["T"])


def test_series_in_another_order():
    truth = pd.Series(["T", "B"], index=["cell1", "cell2"])
    with pytest.raises(ValueError, match="in another order"):
        metrics.evaluate(truth, truth.iloc[::-1])
