"""Report of the accuracy benchmark: which rows count, and means over the tasks that all methods finished."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from benchmarks.accuracy._calls import pack
from benchmarks.accuracy._config import Config, Method
from benchmarks.accuracy._report import against_baseline, by_group, current_rows, paired, summarize, write_report
from sklearn.metrics import f1_score

TASKS = {name: {"pair": name} for name in ("one", "two", "three")}
METHODS = {name: Method(name, "m:f", ("numpy",), {"C": 1}) for name in ("LR", "ours", "slow")}
CONFIG = Config(31, 1, (0, 1), "LR", "ours", "slow", (), TASKS, METHODS)


def make_row(task, name, macro_f1, *, seed=0, **changes):
    row = {
        **{
            "task": task,
            "name": name,
            "method": name.split(",")[0],
            "seed": seed,
            "macro_f1": macro_f1,
            "accuracy": 0.5,
        },
        **{"definition": TASKS[task], "settings": {"C": 1}, "run": "m:f", "status": "ok", "key": f"{task}{name}{seed}"},
        **{"fit_seconds": 2.0, "predict_seconds": 1.0, "ece": 0.1, "peak_gib": 1.0, "data_gib": 0.2, "hours": 1.0},
        **{"per_type": {"a": [30, 5, 0.9, 0.9], "b": [3, 5, macro_f1, 0.9]}, "versions": {"numpy": "2.0"}, "cores": 1},
        **{"date": "2026-01-01", "cpu": "a CPU", "python": "3.12", "load_before": 0.1, "source": None, "data": "d"},
    }
    return {**row, **changes}


@pytest.fixture
def write(tmp_path):
    def write(*rows):
        (tmp_path / "cells.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path

    return write


def read(folder, config=CONFIG):
    return current_rows(config, list(TASKS), list(METHODS), folder / "cells.jsonl")


class TestCurrentRows:
    def test_newest_row_counts(self, write):
        rows = read(write(make_row("one", "LR", 0.1, key="old"), make_row("one", "LR", 0.2, key="new")))
        assert rows["macro_f1"].tolist() == [0.2]

    def test_other_settings_or_another_definition_do_not(self, write):
        changed = make_row("one", "LR", 0.1, settings={"C": 2}), make_row("two", "LR", 0.1, definition={"pair": "P"})
        assert read(write(make_row("one", "LR", 0.2), *changed))["macro_f1"].tolist() == [0.2]

    def test_ways_of_predicting_and_seeds_stand_beside_each_other(self, write):
        rows = [
            make_row("one", name, 0.2, seed=seed, key=str(seed)) for seed in (0, 1) for name in ("ours", "ours, raw")
        ]
        assert len(read(write(*rows))) == 4

    def test_result_replaces_a_crash_and_the_other_way_round(self, write):
        crash = {**make_row("one", "LR", 0.1), "status": "failed"}
        assert read(write(crash, make_row("one", "LR", 0.2)))["status"].tolist() == ["ok"]
        assert read(write(make_row("one", "LR", 0.2), {**crash, "key": "new"}))["status"].tolist() == ["failed"]

    def test_recall_of_rare_types(self, write):
        (row,) = read(write(make_row("one", "LR", 0.2))).to_dict("records")
        assert (row["rare_recall"], row["n_rare"]) == (0.2, 1)


class TestPaired:
    def lines(self, write, *rows):
        done = read(write(*rows))
        table = done.pivot_table(index="task", columns="name", values="macro_f1", sort=False)
        return paired(done, table, "ours").splitlines()

    def test_only_tasks_of_both_count_and_the_interval_is_that_of_students_t(self, write):
        ours = [make_row(task, "ours", value) for task, value in (("one", 0.6), ("two", 0.9), ("three", 0.1))]
        other = [make_row(task, "LR", value, fit_seconds=11.0) for task, value in (("one", 0.5), ("two", 0.7))]
        # differences 0.1 and 0.2: mean 0.15, standard error 0.05, 12.706 times that with one degree of freedom
        expected = "| LR | 2 | 0.750 | 0.600 | +0.150 | -0.485 to +0.785 | 4.0 |"
        assert self.lines(write, *ours, *other)[-1] == expected

    def test_one_task_has_no_interval(self, write):
        rows = [make_row("one", "ours", 0.6), make_row("one", "LR", 0.5), make_row("two", "LR", 0.5)]
        assert self.lines(write, *rows)[-1] == "| LR | 1 | 0.600 | 0.500 | +0.100 | – | 1.0 |"

    def test_without_ours_there_is_nothing_to_pair(self, write):
        assert self.lines(write, make_row("one", "LR", 0.5)) == ["No result of ours yet."]


class TestByGroup:
    def test_means_over_the_tasks_of_a_group_that_both_have_finished(self, write):
        rows = [make_row(task, "ours", value, ece=0.2) for task, value in (("one", 0.6), ("two", 0.9), ("three", 0.3))]
        rows += [make_row(task, "LR", value) for task, value in (("one", 0.5), ("three", 0.7))]
        done = read(write(*rows))
        table = done.pivot_table(index="task", columns="name", values="macro_f1", sort=False)
        lines = by_group(done, table, replace(CONFIG, groups={"first": ("one", "two"), "none": ()})).splitlines()
        assert lines[-2:] == [
            "| first | ours | 2 | 0.750 | 0.500 | 0.200 | 0.200 | +0.000 | – |",
            "| first | LR | 1 | 0.500 | 0.500 | 0.100 | 0.200 | +0.100 | – |",
        ]


class TestAgainstBaseline:
    truth = np.repeat([0, 1], [60, 40])

    def line(self, write, *ours):
        half = np.where(np.arange(100) % 2, self.truth, 1 - self.truth)
        rows = [make_row("one", "LR", 0.5, calls=pack(self.truth, half))]
        rows += [make_row("one", "ours", 0.5, seed=i, calls=pack(*each)) for i, each in enumerate(ours)]
        return against_baseline(read(write(*rows)), CONFIG).splitlines()

    def test_all_right_is_better_than_half_right(self, write):
        *_, line = self.line(write, (self.truth, self.truth))
        *cells, interval, verdict = [part.strip() for part in line.strip("|").split("|")]
        f1 = f1_score(self.truth, np.where(np.arange(100) % 2, self.truth, 1 - self.truth), average="macro")
        assert cells == ["one", "100", "40", f"{1 - f1:+.3f}"] and verdict == "better"
        low, high = map(float, interval.split(" to "))
        assert low < 1 - f1 < high

    def test_the_same_calls_are_neither(self, write):
        half = np.where(np.arange(100) % 2, self.truth, 1 - self.truth)
        assert self.line(write, (self.truth, half))[-1].endswith("| +0.000 | +0.000 to +0.000 |  |")

    def test_other_cells_are_not_compared(self, write):
        assert "0 and 0 of 0" in self.line(write, (self.truth[::-1], self.truth))[0]


class TestSummarize:
    def summary(self, write, *rows):
        done = read(write(*rows))
        table = done.pivot_table(index="task", columns="name", values="macro_f1", sort=False)
        return summarize(done, table, CONFIG)

    def test_tasks_that_one_method_lacks_are_left_out_of_all_means(self, write):
        rows = [make_row(task, "LR", value) for task, value in (("one", 0.5), ("two", 0.7), ("three", 0.9))]
        rows += [make_row("one", "ours", 0.6), make_row("two", "ours", 0.65)]
        summary, about = self.summary(write, *rows)
        assert summary["macro-F1"].to_dict() == pytest.approx({"ours": 0.625, "LR": 0.6})
        assert list(summary.index) == ["ours", "LR"] and "the 2 tasks" in about
        ours = summary.loc["ours"]
        assert (ours["won"], ours["lost"], ours["its task"]) == (1, 1, "two")
        assert ours["worst difference"] == pytest.approx(-0.05)
        assert ours["mean rank"] == 1.5

    def test_method_that_has_hardly_begun_takes_no_task_away(self, write):
        rows = [make_row(task, "LR", 0.5) for task in TASKS] + [make_row("one", "slow", 0.9)]
        summary, about = self.summary(write, *rows)
        assert list(summary.index) == ["LR"] and "slow (1 tasks)" in about

    def test_spread_is_that_of_the_mean_over_seeds(self, write):
        rows = [make_row(task, "ours", value, seed=seed) for task, seed, value in
                [("one", 0, 0.4), ("one", 1, 0.6), ("two", 0, 0.6), ("two", 1, 0.8)]]  # fmt: skip
        summary, _ = self.summary(write, *rows)
        assert summary.loc["ours", "sd over seeds"] == pytest.approx(pd.Series([0.5, 0.7]).std())
        assert summary.loc["ours", "seconds"] == pytest.approx(6.0)

    def test_speed(self, write):
        rows = [make_row("one", "slow", 0.9, fit_seconds=29.0), make_row("one", "ours", 0.9)]
        assert self.summary(write, *rows)[0]["times faster"].to_dict() == pytest.approx({"slow": 1.0, "ours": 10.0})


class TestWriteReport:
    def test_files(self, write, capsys):
        crash = {"status": "failed", "error": "ValueError: no", "per_type": None}
        rows = [make_row("one", "ours", value, seed=seed) for seed, value in ((0, 0.4), (1, 0.6))]
        folder = write(
            *rows, make_row("one", "LR", 0.45), make_row("two", "LR", 0.7), make_row("two", "ours", None, **crash)
        )
        write_report(CONFIG, list(TASKS), list(METHODS), folder, {"command": "python -m benchmarks accuracy"})
        report = (folder / "accuracy.md").read_text()
        assert "| one | 0.450 | 0.500 ± 0.141 |" in report
        assert "| two | 0.700 | – |" in report
        assert "| two | ours | 0 | failed | ValueError: no |" in report
        table = pd.read_csv(folder / "accuracy.csv")
        assert table["macro_f1"].dropna().tolist() == [0.4, 0.6, 0.45, 0.7]
        assert (folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")
        assert capsys.readouterr().out.strip() == report.strip()

    def test_rows_that_cannot_be_compared_are_named(self, write):
        ours = [make_row("one", "ours", 0.5, seed=seed, source=str(seed)) for seed in (0, 1)]
        folder = write(*ours, make_row("two", "LR", 0.5), make_row("two", "slow", 0.5, data="other"))
        write_report(CONFIG, list(TASKS), list(METHODS), folder, {"command": ""})
        assert "nothing can be compared" in (folder / "accuracy.md").read_text()
        mixed = [line for line in (folder / "accuracy.md").read_text().splitlines() if "**mixed**" in line]
        assert len(mixed) == 2 and "2 states of its source" in mixed[0] and mixed[1].endswith("again on two")

    def test_nothing_to_report(self, write):
        with pytest.raises(SystemExit, match="Nothing to report"):
            write_report(CONFIG, list(TASKS), list(METHODS), write(), {"command": ""})
