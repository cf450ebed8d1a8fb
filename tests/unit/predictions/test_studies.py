"""Limits between and beyond those that were chosen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transanno.predictions._studies import NOVELTY_LIMITS, PROBABILITY_LIMITS, novelty_limit, probability_limit

quick = settings(max_examples=60, deadline=None, database=None)
shares = st.floats(0.0, 1.0, exclude_min=True, exclude_max=True)


@pytest.mark.parametrize("table", [NOVELTY_LIMITS, PROBABILITY_LIMITS], ids=["novelty", "probability"])
def test_tables_are_in_order(table):
    """Interpolation needs it, and would give nonsense without a word."""
    assert len(table) > 1
    assert (np.diff(list(table)) > 0).all()
    assert (np.diff(list(table.values())) < 0).all()
    assert all(0 < key < 1 for key in table)


def test_probabilities_of_the_table_are_some():
    assert all(0 < limit < 1 for limit in PROBABILITY_LIMITS.values())


@pytest.mark.parametrize(("fdr", "limit"), NOVELTY_LIMITS.items())
def test_novelty_limit_is_that_of_the_table(fdr, limit):
    assert novelty_limit(fdr) == limit


@pytest.mark.parametrize(("coverage", "limit"), PROBABILITY_LIMITS.items())
def test_probability_limit_is_that_of_the_table(coverage, limit):
    assert probability_limit(coverage) == pytest.approx(limit, rel=1e-9)


def test_between_two_rates_is_a_line():
    (one, other), limits = list(NOVELTY_LIMITS)[1:3], list(NOVELTY_LIMITS.values())[1:3]
    assert novelty_limit((one + other) / 2) == pytest.approx(np.mean(limits))
    assert isinstance(novelty_limit(one), float)


def test_between_two_coverages_is_a_line_of_log_odds():
    def odds(share):
        return share / (1 - share)

    (one, other), limits = list(PROBABILITY_LIMITS)[1:3], list(PROBABILITY_LIMITS.values())[1:3]
    middle = np.sqrt(odds(one) * odds(other))
    found = probability_limit(middle / (1 + middle))
    assert odds(found) == pytest.approx(np.sqrt(odds(limits[0]) * odds(limits[1])))
    assert isinstance(found, float)


@pytest.mark.parametrize(("fdr", "nearest"), [(1e-9, min(NOVELTY_LIMITS)), (1 - 1e-9, max(NOVELTY_LIMITS))])
def test_rates_beyond_the_table_have_the_nearest_limit(fdr, nearest):
    assert novelty_limit(fdr) == NOVELTY_LIMITS[nearest]


@pytest.mark.parametrize("coverage", [5e-324, 1e-12, 1e-6, 0.999999, 1 - 1e-12, np.nextafter(1.0, 0.0)])
def test_extreme_coverages_have_a_limit_beyond_the_table(coverage):
    found = probability_limit(coverage)
    assert 0 < found < 1
    if coverage < 0.5:
        assert found > max(PROBABILITY_LIMITS.values())
    else:
        assert found < min(PROBABILITY_LIMITS.values())


@quick
@given(shares, shares)
def test_limits_fall_where_more_is_allowed(one, other):
    lower, higher = sorted([one, other])
    assert novelty_limit(lower) >= novelty_limit(higher)
    assert probability_limit(lower) >= probability_limit(higher)
    assert 0 < probability_limit(higher)
    assert probability_limit(lower) < 1


@quick
@given(st.floats(1e-8, 1 - 1e-8), st.floats(1e-6, 0.5))
def test_a_larger_coverage_has_a_lower_limit(coverage, more):
    larger = coverage + more * (1 - 1e-8 - coverage)
    if larger > coverage + 1e-9:
        assert probability_limit(larger) < probability_limit(coverage)
