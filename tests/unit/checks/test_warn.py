from __future__ import annotations

import warnings

import numpy as np
import pytest

import transanno
from transanno.checks._warn import telling_nothing, telling_once, warn


def test_warnings_point_at_the_line_of_the_user(reference, query, model):
    query = query[:, ::2].copy()  # fewer genes than are expected
    with pytest.warns(transanno.TransAnnoWarning, match="Only") as caught:
        model.predict(query)
    assert {warning.filename for warning in caught} == {__file__}


def test_whatever_is_in_between():
    """The package calls numpy, and numpy calls the package."""
    with pytest.warns(transanno.TransAnnoWarning) as caught:
        np.vectorize(lambda value: warn(f"{value}"), otypes=[object])(np.arange(1))
    assert len(caught) == 1


def test_they_can_be_silenced_by_category():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=transanno.TransAnnoWarning)
        warn("nothing")


def test_a_fact_is_told_once():
    with pytest.warns(transanno.TransAnnoWarning) as caught, telling_once():
        for n_cells in (7, 1_000):
            with telling_once():
                warn(f"{n_cells} cells are empty")
        warn("7 genes are missing")
        with telling_nothing():
            warn("not now")
        warn("not now")
    assert [str(warning.message) for warning in caught] == ["7 cells are empty", "7 genes are missing", "not now"]
    with pytest.warns(transanno.TransAnnoWarning, match="7 cells are empty"), telling_once():
        warn("7 cells are empty")
