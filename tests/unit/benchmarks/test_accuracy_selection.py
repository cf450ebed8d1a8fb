"""Choice of a setting without the study that it is judged on."""

from __future__ import annotations

import pandas as pd
import pytest
from benchmarks.accuracy._selection import choose, choose_without_each, votes

SETTINGS = ["simple", "middle", "rich"]


def tasks(*studies):
    """Studies of reference and query -> those of tasks, named by their order."""
    return pd.DataFrame(studies, columns=["reference", "query"], index=[f"task{i}" for i in range(len(studies))])


def scores(studies, *rows):
    return pd.DataFrame(rows, index=studies.index, columns=SETTINGS[: len(rows[0])], dtype=float)


class TestChoose:
    def test_every_study_weighs_the_same(self):
        studies = tasks(*[("A", "B")] * 9, ("A", "C"), ("A", "D"))
        # Nine tasks of one study are for the simple one, the two other studies against it.
        found = scores(studies, *[(0.8, 0.7)] * 9, (0.3, 0.7), (0.3, 0.7))
        assert found["simple"].mean() > found["middle"].mean()
        assert choose(found, studies) == "middle"

    def test_within_one_standard_error_the_simpler_wins(self):
        studies = tasks(("A", "B"), ("A", "C"), ("A", "D"))
        # Differences 0.09, -0.03, 0.03: mean 0.03, standard error 0.035.
        assert choose(scores(studies, (0.5, 0.59), (0.5, 0.47), (0.5, 0.53)), studies) == "simple"

    def test_beyond_one_standard_error_the_best_wins(self):
        studies = tasks(("A", "B"), ("A", "C"), ("A", "D"))
        # Differences 0.06, 0, 0.03: mean 0.03, standard error 0.017.
        assert choose(scores(studies, (0.5, 0.56), (0.5, 0.5), (0.5, 0.53)), studies) == "middle"

    def test_the_error_is_of_the_paired_difference(self):
        studies = tasks(("A", "B"), ("A", "C"))
        # The studies differ by far more than the settings, which differ by the same in both.
        assert choose(scores(studies, (0.1, 0.15), (0.9, 0.95)), studies) == "middle"

    def test_a_tie_goes_to_the_simplest(self):
        studies = tasks(("A", "B"), ("A", "C"))
        assert choose(scores(studies, (0.5, 0.5, 0.5), (0.7, 0.7, 0.7)), studies) == "simple"

    def test_one_study_has_no_error(self):
        studies = tasks(("A", "B"), ("C", "B"))
        assert choose(scores(studies, (0.5, 0.6), (0.5, 0.4999)), studies) == "middle"

    def test_nothing_to_choose_on(self):
        studies = tasks()
        with pytest.raises(ValueError, match="No task to choose a setting on"):
            choose(pd.DataFrame(columns=SETTINGS), studies)


class TestChooseWithoutEach:
    studies = tasks(("A", "B"), ("B", "C"), ("A", "C"), ("C", "A"))

    def test_a_study_votes_neither_by_its_queries_nor_by_its_references(self):
        assert list(votes(self.studies, "B")) == ["task2", "task3"]
        assert list(votes(self.studies, "A")) == ["task1"]

    def test_judged_are_the_tasks_of_the_study(self):
        found = scores(self.studies, (0.1, 0.2), (0.3, 0.4), (0.5, 0.7), (0.9, 0.6))
        table = choose_without_each(found, self.studies, self.studies.index)
        # B: by task2 and task3; C: by task0; A: by task1.
        assert table["chosen"].to_dict() == {"B": "simple", "C": "middle", "A": "middle"}
        assert table["score"].to_dict() == pytest.approx({"B": 0.1, "C": (0.4 + 0.7) / 2, "A": 0.6})

    def test_tasks_that_are_not_judged_vote(self):
        found = scores(self.studies, (0.1, 0.2), (0.3, 0.4), (0.5, 0.7), (0.9, 0.6))
        table = choose_without_each(found, self.studies, pd.Index(["task0"]))
        assert table.index.tolist() == ["B"] and table.loc["B", "chosen"] == "simple"

    def test_only_one_study_cannot_be_left_out(self):
        studies = tasks(("A", "B"), ("C", "B"))
        with pytest.raises(ValueError, match="No task without B"):
            choose_without_each(scores(studies, (0.1, 0.2), (0.3, 0.4)), studies, studies.index)


def test_highest_mean_wins_where_simplicity_does_not_count():
    scores = pd.DataFrame({"simple": [0.5, 0.9, 0.6], "rich": [0.6, 0.8, 0.7]}, index=["a", "b", "c"])
    studies = pd.DataFrame({"reference": ["X", "X", "X"], "query": ["A", "B", "C"]}, index=scores.index)
    assert choose(scores, studies) == "simple" and choose(scores, studies, simplest=False) == "rich"
