"""One cell of the table: scores by hand arithmetic, the cache, and a run in a process of its own."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from benchmarks.accuracy import _cells
from benchmarks.accuracy._calls import macro_f1, unpack
from benchmarks.accuracy._cells import Cell, append_rows, is_done, key_of, read_rows, run_cell
from benchmarks.accuracy._config import Method
from benchmarks.accuracy._scores import score
from benchmarks.accuracy._tasks import make_task

DEFINITION = {"pair": "P", "labels_per_type": 7}
LOGISTIC = Method("LR", "_linear:logistic_regression", ("scikit-learn",), {"scale": False, "C": 1.0})


@pytest.fixture
def cell(data_folder):
    return Cell(make_task("task", DEFINITION, n_genes=31, one_batch=()), DEFINITION, LOGISTIC, seed=0, cores=1)


def array(*names):
    return np.array(names, dtype=object)


class TestScore:
    truth = array("a", "a", "b", "b", "new", "a")
    labels = array("a", "b", "b", "absent", "a", "a")
    reference = array("a", "b", "b", "absent", "Unknown", "Unknown")

    def test_types_of_both_sides_count(self):
        found = score(self.truth, self.labels, None, self.reference)
        # a: 2 of 3 found, precision 1; b: 1 of 2 found, precision 1/2; the cell of a new type is not scored
        assert found["per_type"] == {"a": [1, 3, 0.6667, 0.8], "b": [2, 2, 0.5, 0.5]}
        assert found["macro_f1"] == pytest.approx((0.8 + 0.5) / 2)
        assert found["accuracy"] == pytest.approx(3 / 5)
        assert (found["n_scored"], found["n_unknown"]) == (5, 1)
        assert "ece" not in found

    def test_calls_give_the_same_score(self):
        found = score(self.truth, self.labels, None, self.reference)
        codes = unpack(found["calls"])
        assert codes.shape == (2, 5)
        assert macro_f1(codes, n_types=2) == pytest.approx(found["macro_f1"])

    def test_confidence(self):
        confidence = np.array([0.9, 0.9, 0.7, 0.7, 0.3, 0.9])
        found = score(self.truth, self.labels, confidence, self.reference)
        # at 0.9 two of three are right, at 0.7 one of two
        assert found["ece"] == pytest.approx(3 / 5 * (0.9 - 2 / 3) + 2 / 5 * (0.7 - 1 / 2), abs=1e-6)
        assert found["confidence_right"] == pytest.approx((0.9 + 0.7 + 0.9) / 3)
        assert found["confidence_wrong"] == pytest.approx(0.8)
        assert found["confidence_unknown"] == pytest.approx(0.3)

    def test_confidence_above_one_by_a_rounding(self):
        found = score(self.truth, self.labels, np.full(6, 1.0 + 1e-7), self.reference)
        assert found["ece"] == pytest.approx(2 / 5, abs=1e-6)


class TestKey:
    def test_same_cell_has_the_same_key(self, cell):
        assert key_of(cell.identity()) == key_of(json.loads(json.dumps(cell.identity())))

    @pytest.mark.parametrize(
        "change",
        [
            lambda cell: replace(cell, seed=1),
            lambda cell: replace(cell, cores=2),
            lambda cell: replace(cell, method=replace(LOGISTIC, settings={"scale": True, "C": 1.0})),
            lambda cell: replace(cell, task=replace(cell.task, truth=cell.task.truth[::-1])),
            lambda cell: replace(cell, method=replace(LOGISTIC, packages=("scikit-learn", "scanpy"))),
        ],
        ids=["seed", "cores", "settings", "data", "packages"],
    )
    def test_whatever_matters_changes_it(self, change, cell):
        assert key_of(change(cell).identity()) != key_of(cell.identity())

    def test_only_ours_depends_on_our_source(self, cell, monkeypatch):
        ours = replace(cell, method=replace(LOGISTIC, packages=("transanno",)))
        before = key_of(cell.identity()), key_of(ours.identity())
        monkeypatch.setattr(_cells, "source_digest", lambda: "another")
        assert key_of(cell.identity()) == before[0]
        assert key_of(ours.identity()) != before[1]

    def test_time_limit_does_not_change_it(self, cell):
        assert key_of(replace(cell, method=replace(LOGISTIC, hours=9.0)).identity()) == key_of(cell.identity())


class TestIsDone:
    @pytest.mark.parametrize(
        ("status", "hours", "expected"),
        [("ok", 9.0, True), ("failed", 1.0, False), ("timeout", 1.0, True), ("timeout", 1.5, False)],
    )
    def test_by_status(self, status, hours, expected, tmp_path):
        append_rows(tmp_path / "new" / "cells.jsonl", [{"key": "k", "status": status, "hours": 1.0}])
        rows = read_rows(tmp_path / "new" / "cells.jsonl")
        assert is_done(rows, "k", hours) is expected
        assert not is_done(rows, "other", hours)


class TestRun:
    def test_row(self, cell, tmp_path):
        cell.task.write(tmp_path)
        (row,) = run_cell(cell, tmp_path)
        assert (row["status"], row["name"], row["key"]) == ("ok", "LR", key_of(cell.identity()))
        assert row["macro_f1"] > 0.8
        n_labeled = cell.task.reference.obs["cell_type"].value_counts().drop("Unknown").to_dict()
        assert {name: numbers[0] for name, numbers in row["per_type"].items()} == n_labeled
        assert row["fit_seconds"] > 0 and row["predict_seconds"] > 0 and row["peak_gib"] > row["data_gib"] > 0
        assert str(tmp_path) not in json.dumps(row)

    def test_crash_is_a_row(self, cell, tmp_path):
        cell.task.write(tmp_path)
        (row,) = run_cell(replace(cell, method=replace(LOGISTIC, run="_absent:function")), tmp_path)
        assert row["status"] == "failed" and row["exit_code"] == 1
        assert row["error"] == "ModuleNotFoundError: No module named 'benchmarks.accuracy._absent'"

    def test_timeout_is_a_row(self, cell, tmp_path):
        cell.task.write(tmp_path)
        (row,) = run_cell(replace(cell, method=replace(LOGISTIC, hours=1e-6)), tmp_path)
        assert row["status"] == "timeout" and "macro_f1" not in row
