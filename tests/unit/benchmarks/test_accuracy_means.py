"""Means over studies and their intervals."""

from __future__ import annotations

import pandas as pd
import pytest
from benchmarks.accuracy._means import as_text, by_study, interval


def test_by_study():
    scores = pd.DataFrame({"LR": [0.1, 0.3, 0.8]}, index=["one", "two", "three"])
    assert by_study(scores, {"one": "A", "two": "A", "three": "B"})["LR"].to_dict() == pytest.approx(
        {"A": 0.2, "B": 0.8}
    )


def test_interval_is_that_of_students_t():
    # mean 0.15, standard error 0.05, 12.706 times that with one degree of freedom
    assert interval(pd.Series([0.1, 0.2])) == pytest.approx((0.15 - 12.706 * 0.05, 0.15 + 12.706 * 0.05), abs=1e-4)


@pytest.mark.parametrize("values", [[0.1], [0.1, 0.1], [0.7 - 0.6, 0.8 - 0.7, 0.1]], ids=["one", "equal", "rounded"])
def test_values_that_say_nothing_about_their_spread(values):
    assert interval(pd.Series(values)) is None and as_text(None) == "–"


def test_as_text():
    assert as_text((-0.1, 0.2)) == "-0.100 to +0.200" and as_text((0.1, 0.2), sign="") == "0.100 to 0.200"
