"""accuracy.toml: its tasks, their studies and groups, and every method takes the settings that it is given."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest
from benchmarks import _data
from benchmarks.accuracy._config import CONFIG as CONFIG_FILE
from benchmarks.accuracy._config import read_config
from benchmarks.accuracy._tasks import check_studies

CONFIG = read_config()


def test_directions_left_out_batches_and_few_labels_are_covered():
    tasks = CONFIG.tasks.values()
    pairs = {(task["pair"], task.get("reversed", False)) for task in tasks if "pair" in task}
    assert len({name for name, _ in pairs}) == 35 and sum(is_reversed for _, is_reversed in pairs) == 5
    assert (
        sum("label_fraction" in task for task in tasks) >= 3 and sum("labels_per_type" in task for task in tasks) >= 3
    )
    assert sum(task.get("column") in ("batch", "library") for task in tasks) >= 10


def test_methods_that_others_are_compared_with_exist():
    assert {CONFIG.baseline, CONFIG.ours} <= set(CONFIG.methods)
    assert CONFIG.nested is not None and CONFIG.baseline in CONFIG.nested.peers


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
    if method.is_ours and name not in CONFIG.nested.methods:  # many ways of predicting, after one training each
        assert method.seeds is None and len(CONFIG.seeds) >= 3


def test_every_task_is_in_one_group_and_spatial_panels_also_in_the_headline():
    groups = dict(CONFIG.groups)
    spatial = groups.pop("spatial panels")
    assert sorted(task for tasks in groups.values() for task in tasks) == sorted(CONFIG.tasks)
    assert CONFIG.headline == "across studies" and set(spatial) < set(groups["across studies"])


def test_groups_follow_from_studies():
    for group, tasks in CONFIG.groups.items():
        assert tasks
        if group != "few labels":
            assert {CONFIG.studies[task].differ for task in tasks} == {group != "within a study"}


def test_reversed_swaps_the_studies():
    assert CONFIG.studies["zheng-pbmc3k"] == ("Zheng 2017", "10x pbmc3k")
    assert CONFIG.studies["pbmc3k-zheng"] == ("10x pbmc3k", "Zheng 2017")


def test_studies_and_kinds_are_those_of_the_data(published_data):
    pairs = _data.read_pairs()
    assert {task["pair"] for task in CONFIG.tasks.values() if "pair" in task} == set(pairs)
    for name, definition in CONFIG.tasks.items():
        check_studies(name, definition, CONFIG.studies[name])
    for group, kind in (("across species", "cross-species"), ("across studies", "cross-study")):
        assert {pairs[CONFIG.tasks[task]["pair"]]["kind"] for task in CONFIG.groups[group]} == {kind}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('P3_cellmix3 = "Tian 2019"', "", r"\[studies\] lacks P3_cellmix3"),
        ('P3_cellmix3 = "T', 'P9 = "X"\nP3_cellmix3 = "T', r"\[studies\] names P9, which no task uses"),
        ('methods = ["transanno settings",', 'methods = ["no",', r"\[nested\] names methods that there are not: no"),
    ],
    ids=["study missing", "study unused", "nested"],
)
def test_names_without_meaning_are_refused(old, new, message, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text(CONFIG_FILE.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        read_config(config)
