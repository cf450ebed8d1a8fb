"""accuracy.toml: what the issue asks for is in it, and every method takes the settings that it is given."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest
from benchmarks.accuracy._config import CONFIG as CONFIG_FILE
from benchmarks.accuracy._config import read_config

CONFIG = read_config()


def test_directions_left_out_batches_and_few_labels_are_covered():
    tasks = CONFIG.tasks.values()
    pairs = {(task["pair"], task.get("reversed", False)) for task in tasks if "pair" in task}
    assert {name for name, is_reversed in pairs if is_reversed} == {name for name, _ in pairs} and len(pairs) == 10
    assert (
        sum("label_fraction" in task for task in tasks) >= 3 and sum("labels_per_type" in task for task in tasks) >= 3
    )
    assert sum(task.get("column") in ("batch", "library") for task in tasks) >= 10


def test_methods_that_others_are_compared_with_exist():
    assert {CONFIG.baseline, CONFIG.ours, CONFIG.slow} <= set(CONFIG.methods)


# Without CellTypist, whose import changes warning filters and writes a folder.
@pytest.mark.parametrize(
    "name", [name for name, method in CONFIG.methods.items() if "celltypist" not in method.packages]
)
def test_method_takes_its_settings(name):
    method = CONFIG.methods[name]
    module, function = method.run.split(":")
    found = getattr(import_module(f"benchmarks.accuracy.{module}"), function)
    inspect.signature(found).bind(None, seed=0, cores=1, **method.settings)
    assert method.source or method.is_ours
    if method.is_ours:
        assert method.seeds is None and len(CONFIG.seeds) >= 3


def test_every_task_is_in_one_group():
    grouped = [task for tasks in CONFIG.groups.values() for task in tasks]
    assert sorted(grouped) == sorted(CONFIG.tasks)


def test_group_of_an_unknown_task_is_refused(tmp_path):
    config = tmp_path / "config.toml"
    config.write_text(CONFIG_FILE.read_text().replace("[groups]", '[groups]\n"wrong" = ["no such task"]'))
    with pytest.raises(ValueError, match="groups name tasks that there are not: no such task"):
        read_config(config)


def test_pretraining_has_the_same_tasks_with_five_seeds():
    config = read_config(CONFIG_FILE.with_name("pretraining.toml"))
    assert {name: CONFIG.tasks[name] for name in config.tasks} == config.tasks
    assert len(config.seeds) == 5 and len(config.methods) == 4
