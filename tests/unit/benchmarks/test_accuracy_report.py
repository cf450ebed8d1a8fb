"""Report of the accuracy benchmark: which rows count, and what is said of them."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from benchmarks.accuracy._baseline import against_baseline
from benchmarks.accuracy._calls import pack
from benchmarks.accuracy._config import Config, Method
from benchmarks.accuracy._groups import Studies
from benchmarks.accuracy._report import write_report
from benchmarks.accuracy._rows import current_rows
from benchmarks.accuracy._tables import by_group
from sklearn.metrics import f1_score

TASKS = {name: {"pair": name} for name in ("one", "two", "three")}
METHODS = {name: Method(name, "m:f", ("numpy",), {"C": 1}) for name in ("LR", "ours", "slow")}
# "one" and "two" annotate the same study
STUDIES = {"one": Studies("A", "B"), "two": Studies("C", "B"), "three": Studies("A", "C")}
CONFIG = Config(31, 1, (0, 1), "LR", "ours", (), TASKS, METHODS, STUDIES, {"across studies": tuple(TASKS)})


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
        **{
            "fit_seconds": 2.0,
            "predict_seconds": 1.0,
            "ece": 0.1,
            "peak_gib": 1.0,
            "data_gib": 0.2,
            "hours": 1.0,
            "n_query": 300,
        },
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
        assert row["rare_recall"] == 0.2

    def test_studies_are_those_of_the_config(self, write):
        (row,) = read(write(make_row("two", "LR", 0.2))).to_dict("records")
        assert (row["reference_study"], row["query_study"]) == ("C", "B")

    def test_nothing_to_report(self, write):
        with pytest.raises(SystemExit, match="Nothing to report"):
            read(write())


class TestByGroup:
    def lines(self, write, *rows, tasks=tuple(TASKS)):
        return [line.strip("| ").split(" | ") for line in by_group(read(write(*rows)), CONFIG, tasks).splitlines()[2:]]

    def test_every_study_weighs_the_same_and_the_interval_is_over_studies(self, write):
        rows = [make_row(task, "ours", value) for task, value in (("one", 0.6), ("two", 0.9), ("three", 0.3))]
        rows += [make_row(task, "LR", value) for task, value in (("one", 0.5), ("two", 0.8), ("three", 0.1))]
        ours, peer = self.lines(write, *rows)
        # ours: (0.6 + 0.9) / 2 and 0.3; differences 0.1 and 0.2: mean 0.15, standard error 0.05, 12.706 times that with
        # one degree of freedom
        assert ours == ["ours", "0.525", "–", "–", "3", "2", "0.500", "0.525", "0.100", "3.0"]
        assert peer[:6] == ["LR", "0.375", "+0.150", "-0.485 to +0.785", "3", "2"]

    def test_only_tasks_of_both_are_compared_and_methods_that_lack_some_are_last(self, write):
        rows = [make_row(task, "LR", value) for task, value in (("one", 0.5), ("two", 0.8), ("three", 0.1))]
        peer, ours = self.lines(write, *rows, make_row("three", "ours", 0.9))
        assert peer[:6] == ["LR", "0.375", "+0.800", "–", "3", "2"]
        assert ours[:6] == ["ours", "0.900", "–", "–", "1", "1"]

    def test_without_ours_there_are_means_only(self, write):
        (peer,) = self.lines(write, make_row("one", "LR", 0.5), make_row("three", "LR", 0.2), tasks=["one"])
        assert peer[:6] == ["LR", "0.500", "–", "–", "1", "1"]


class TestAgainstBaseline:
    truth = np.repeat([0, 1], [60, 40])

    def line(self, write, *ours):
        half = np.where(np.arange(100) % 2, self.truth, 1 - self.truth)
        rows = [make_row("one", "LR", 0.5, calls=pack(self.truth, half))]
        rows += [make_row("one", "ours", i / 10, seed=i, calls=pack(*each)) for i, each in enumerate(ours)]
        return against_baseline(read(write(*rows)), CONFIG, ["one"], ["one"]).splitlines()

    def test_all_right_is_better_than_half_right(self, write):
        *_, line = self.line(write, (self.truth, self.truth))
        *cells, interval, _, verdict = [part.strip() for part in line.strip("|").split("|")]
        f1 = f1_score(self.truth, np.where(np.arange(100) % 2, self.truth, 1 - self.truth), average="macro")
        assert cells == ["one", "100", "40", f"{1 - f1:+.3f}"] and verdict == "better"
        low, high = map(float, interval.split(" to "))
        assert low < 1 - f1 < high

    def test_the_same_calls_are_neither(self, write):
        half = np.where(np.arange(100) % 2, self.truth, 1 - self.truth)
        assert self.line(write, (self.truth, half))[-1].endswith("| +0.000 | +0.000 to +0.000 | – |  |")

    def test_other_cells_are_not_compared(self, write):
        assert self.line(write, (self.truth[::-1], self.truth)) == [
            "No task has calls of single cells by both ours and LR."
        ]

    def test_tasks_that_are_too_low_are_named(self, write):
        lines = self.line(write, (self.truth, 1 - self.truth))
        assert "Of the 1 tasks with at least 100 scored query cells, 1 are more than 0.01 below LR: one." in lines

    def test_spread_over_seeds(self, write):
        lines = self.line(write, *[(self.truth, self.truth)] * 2)
        assert lines[-1].split(" | ")[5] == f"{0.1 / 2**0.5:.3f}"
        assert (
            "Standard deviation over seeds: at most 0.071 (one) among the 1 tasks across studies with at least 200 query "
            "cells." in lines
        )


class TestWriteReport:
    def test_files(self, write, capsys):
        crash = {"status": "failed", "error": "ValueError: no", "per_type": None}
        rows = [make_row("one", "ours", value, seed=seed) for seed, value in ((0, 0.4), (1, 0.6))]
        folder = write(
            *rows, make_row("one", "LR", 0.45), make_row("two", "LR", 0.7), make_row("two", "ours", None, **crash)
        )
        write_report(CONFIG, list(TASKS), list(METHODS), folder, {"command": "python -m benchmarks accuracy"})
        report = (folder / "accuracy.md").read_text()
        assert report.index("## Across studies") < report.index("## Macro-F1")
        assert "| one | 0.500 ± 0.141 | 0.450 |" in report
        assert "| two | – | 0.700 |" in report
        assert "| two | ours | 0 | failed | ValueError: no |" in report
        table = pd.read_csv(folder / "accuracy.csv")
        assert table["macro_f1"].dropna().tolist() == [0.4, 0.6, 0.45, 0.7]
        assert (folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")
        assert capsys.readouterr().out.strip() == report.strip()

    def test_rows_that_cannot_be_compared_are_named(self, write):
        ours = [make_row("one", "ours", 0.5, seed=seed, source=str(seed)) for seed in (0, 1)]
        folder = write(*ours, make_row("two", "LR", 0.5), make_row("two", "slow", 0.5, data="other"))
        write_report(CONFIG, list(TASKS), list(METHODS), folder, {"command": ""})
        mixed = [line for line in (folder / "accuracy.md").read_text().splitlines() if "**mixed**" in line]
        assert len(mixed) == 2 and "2 states of its source" in mixed[0] and mixed[1].endswith("again on two")
