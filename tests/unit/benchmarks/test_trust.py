"""Limits are the lowest that keep a promise, are chosen without the study that they are judged on, and are those that ship."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmarks.trust._choose import choose_novelty, choose_probability, judge_nested, over_studies
from benchmarks.trust._grids import NOVELTY_GRID, PROBABILITY_GRID
from benchmarks.trust._tasks import to_leave_out

from transanno.predictions._studies import MEASURED, NOVELTY_LIMITS, PROBABILITY_LIMITS, what_to_expect

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results" / "trust" / "trust.json"


def row(task, study, *, other="elsewhere", false=None, called=None, coverage=None):
    """Curves that step from 1 to 0, or of the coverage from 0 to 1, at a position of the grid."""

    def step(at, grid):
        return None if at is None else np.where(np.arange(len(grid)) < at, 1.0, 0.0).tolist()

    covered = None if coverage is None else (1.0 - np.array(step(coverage, PROBABILITY_GRID))).tolist()
    return {
        "task": task,
        "query_study": study,
        "reference_study": other,
        "left_out": None,
        "false_discoveries": step(false, NOVELTY_GRID),
        "found": step(false, NOVELTY_GRID),
        "called": step(called, NOVELTY_GRID),
        "coverage": covered,
    }


def test_studies_weigh_the_same_however_many_tasks_they_have():
    rows = [row("a1", "a", false=10), row("a2", "a", false=10), row("b", "b", false=20), row("c", "c")]
    mean = over_studies(rows, "false_discoveries")
    assert (mean[:10] == 1.0).all() and (mean[10:20] == 0.5).all() and (mean[20:] == 0.0).all()


def test_novelty_limit_is_the_lowest_from_which_on_both_are_kept():
    rows = [row("a", "a", false=10, called=3), row("b", "b", false=20, called=30)]
    assert choose_novelty(rows, 0.1) == 30
    assert choose_novelty(rows[:1], 0.1) == 10
    # Half of the studies are wrong up to 20, which half may be; a tenth of the known cells may not until 30.
    assert choose_novelty(rows, 0.5) == 30


def test_a_limit_that_nothing_keeps_is_the_highest():
    assert choose_novelty([row("a", "a", false=len(NOVELTY_GRID), called=0)], 0.1) == len(NOVELTY_GRID) - 1
    assert choose_probability([row("a", "a", coverage=len(PROBABILITY_GRID))], 0.9) == len(PROBABILITY_GRID) - 1


def test_probability_limit_is_the_highest_with_the_coverage():
    rows = [row("a", "a", coverage=5), row("b", "b", coverage=9)]
    assert choose_probability(rows, 0.9) == 9
    assert choose_probability(rows, 0.5) == 5


def test_nested_judges_a_study_at_the_limit_of_tasks_that_it_has_no_side_in():
    rows = [
        row("a", "a", other="x", coverage=5),
        row("b", "b", other="a", coverage=50),  # a's cells were the reference
        row("c", "c", other="x", coverage=9),
    ]
    found = judge_nested(rows, choose_probability, 0.9, ["coverage"]).set_index("task")
    assert found["position"].to_dict() == {"a": 9, "b": 9, "c": 50}
    assert found["coverage"].to_dict() == {"a": 1.0, "b": 0.0, "c": 1.0}


def test_the_commonest_type_below_the_share_and_a_middling_one_are_left_out():
    query = pd.Series(np.repeat(list("abcdef"), [500, 300, 100, 90, 40, 5]))
    reference = pd.Series(np.repeat(list("abcdf"), 25))
    assert to_leave_out(reference, query) == ["b", "c"]
    assert to_leave_out(reference[reference.isin(["a", "b"])], query) == []


@pytest.mark.parametrize(("shipped", "kind"), [(NOVELTY_LIMITS, "novelty"), (PROBABILITY_LIMITS, "probability")])
def test_the_package_ships_what_the_benchmark_chose(shipped, kind):
    chosen = json.loads(RESULTS.read_text(encoding="utf-8"))["limits"][kind]
    assert {float(wanted): limit for wanted, limit in chosen.items()} == shipped


@pytest.mark.parametrize("fdr", list(MEASURED))
def test_what_users_are_told_is_what_was_measured(fdr):
    rows = pd.DataFrame(json.loads(RESULTS.read_text(encoding="utf-8"))["novelty"][f"{fdr:g}"]).dropna(subset=["found"])
    mean = rows.groupby("study")[["found", "false_discoveries"]].mean().mean()
    assert MEASURED[fdr] == pytest.approx(tuple(mean), abs=0.006)
    assert f"{MEASURED[fdr][0]:.0%} of the unknown" in what_to_expect(fdr)
