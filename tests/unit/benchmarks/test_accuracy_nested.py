"""Report of the nested selection, from rows alone."""

from __future__ import annotations

import json

import pytest
from benchmarks.accuracy import main
from benchmarks.accuracy._config import read_config

CONFIG = """
n_genes = 31
cores = 1
seeds = [0, 1]
baseline = "LR"
ours = "ours"
one_batch = []
across_species = ["X"]

[nested]
methods = ["ours"]
order = ["ours", "ours, rich", "ours, unfinished"]
peers = ["LR"]

[tasks]
"a-b" = { pair = "AB" }
"a-c" = { pair = "AC" }
"c-a" = { pair = "AC", reversed = true }
"b-d" = { pair = "X" }

[studies]
AB = ["A", "B"]
AC = ["A", "C"]
X = ["B", "D"]

[methods."ours"]
run = "m:f"
packages = ["numpy"]

[methods."LR"]
run = "m:g"
packages = ["numpy"]
"""
SCORES = {
    "ours": {"a-b": (0.4, 0.6), "a-c": (0.6,), "c-a": (0.7,), "b-d": (0.4,)},  # seeds
    "ours, rich": {"a-b": (0.6,), "a-c": (0.7,), "c-a": (0.8,), "b-d": (0.5,)},
    "ours, unfinished": {"a-b": (0.9,)},
    "ours, not in the order": {"a-b": (1.0,), "a-c": (1.0,), "c-a": (1.0,), "b-d": (1.0,)},
    "LR": {"a-b": (0.4,), "a-c": (0.6,), "c-a": (0.8,), "b-d": (0.3,)},
}


def rows(config, scores):
    for name, by_task in scores.items():
        method = config.methods[name.split(",")[0]]
        for task, values in by_task.items():
            for seed, value in enumerate(values):
                yield {
                    **{"task": task, "name": name, "method": method.name, "seed": seed, "macro_f1": value},
                    **{"definition": config.tasks[task], "settings": {}, "run": method.run, "status": "ok"},
                    **{"key": f"{task}{seed}", "versions": {"numpy": "2.0"}, "date": "2026-01-01", "cpu": "a CPU"},
                    **{"python": "3.12", "load_before": 0.1, "source": None, "data": task, "cores": 1},
                }


@pytest.fixture
def report(tmp_path, monkeypatch, capsys):
    """Scores -> lines of nested.md; there is no folder of data."""
    monkeypatch.setenv("TRANSANNO_DATA", str(tmp_path / "absent"))
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)

    def report(scores):
        found = rows(read_config(path), scores)
        (tmp_path / "cells.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
        assert main(["--nested", "--config", str(path), "--out", str(tmp_path)]) == 0
        text = (tmp_path / "nested.md").read_text()
        assert capsys.readouterr().out.strip() == text.strip()
        return text.splitlines()

    return report


def test_numbers(report):
    lines = report(SCORES)
    across, both = (i for i, line in enumerate(lines) if line.startswith("## Across studies"))
    # Rich is better by 0.1 everywhere: chosen for A, B and C, and 0.8, 0.6 and 0.7 on their tasks.
    assert lines[across + 2] == "3 studies."
    assert lines[across + 6].startswith("| **nested** | **0.700** | 0.452 to 0.948 |")
    assert lines[across + 7].startswith("| nested, always the highest mean | 0.700 |")
    assert lines[across + 8].endswith("| 0.700 | 0.452 to 0.948 | +0.000 | – |")
    assert lines[across + 9].startswith("| LR | 0.600 |") and "| +0.100 |" in lines[across + 9]
    assert lines[both + 2] == "4 studies." and lines[both + 6].startswith("| **nested** | **0.650** |")


def test_settings(report):
    lines = report(SCORES)
    assert "Over all studies, ours, rich has the highest mean; chosen is ours, rich." in lines
    assert "| ours | 0.600 | 0.400 | 0 | 0 |" in lines
    assert "| ours, rich | 0.700 | 0.500 | 3 | 4 |" in lines
    assert "| B | ours, rich | 0.600 |" in lines


def test_settings_that_lack_results_are_named_and_others_are_ignored(report):
    lines = report(SCORES)
    assert "Left out, because results are missing: ours, unfinished." in lines
    assert not any("not in the order" in line for line in lines)


def test_peers_that_lack_results_are_named(report):
    lines = report({**SCORES, "LR": {"a-b": (0.4,)}})
    assert "Left out, because results are missing: ours, unfinished, LR." in lines


def test_no_setting_has_all_results(report):
    with pytest.raises(SystemExit, match=r"No setting of \[nested\] has results for all 4 tasks"):
        report({"ours": {"a-b": (0.4,)}})


def test_settings_are_in_the_other_report_only_if_asked_for(report, tmp_path, capsys):
    report(SCORES)
    path = tmp_path / "cells.jsonl"
    more = {"fit_seconds": 1.0, "predict_seconds": 1.0, "hours": 1.0}
    path.write_text("".join(json.dumps({**json.loads(line), **more}) + "\n" for line in path.read_text().splitlines()))
    arguments = ["--report-only", "--config", str(tmp_path / "config.toml"), "--out", str(tmp_path)]
    assert main(arguments) == 0 and "| ours" not in capsys.readouterr().out
    assert main([*arguments, "--methods", "ours"]) == 0 and "| ours, rich |" in capsys.readouterr().out


def test_a_part_of_the_config_cannot_be_asked_for(capsys):
    with pytest.raises(SystemExit):
        main(["--nested", "--tasks", "baron m1-m2"])
    assert "give it neither --tasks" in capsys.readouterr().err


def test_other_config(tmp_path):
    path = tmp_path / "config.toml"
    before, _, rest = CONFIG.partition("[nested]")
    path.write_text(before + rest[rest.index("[tasks]") :])
    with pytest.raises(SystemExit, match=r"--nested needs a config with \[nested\]"):
        main(["--nested", "--config", str(path), "--out", str(tmp_path)])
