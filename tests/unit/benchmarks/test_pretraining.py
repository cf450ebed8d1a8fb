"""Benchmark of pretraining: no cell of a task's studies is pretrained on, and what is said of the rows."""

from __future__ import annotations

import json
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from benchmarks import _data
from benchmarks.accuracy._config import read_config as read_accuracy_config
from benchmarks.accuracy._methods import Prediction
from benchmarks.pretraining import _pools, _run, main
from benchmarks.pretraining._config import ARMS, AT_HAND, EVERYTHING, LABELS, PLAIN, SAME_ORGAN, Config, read_config
from benchmarks.pretraining._pools import at_hand, other_files, pool_of
from benchmarks.pretraining._report import current_rows, means, nested_scores, studies_of, verdict

CONFIG = read_config()


class TestConfig:
    """pretraining.toml, where the data are."""

    def test_every_study_has_the_task_with_the_fewest_reference_cells(self, published_data):
        accuracy, pairs = read_accuracy_config(), _data.read_pairs()
        n_cells: dict[str, dict[str, int]] = {}
        for task in accuracy.groups["across studies"]:
            pair = accuracy.tasks[task]["pair"]
            # a reversed pair has both of its sides in another order
            side = "query" if accuracy.tasks[task].get("reversed") else "ref"
            n_obs = _data.load_side(pairs[pair][side], pairs[pair]["label"]).n_obs
            n_cells.setdefault(accuracy.studies[task].query, {})[task] = n_obs
        fewest = {study: accuracy.tasks[min(found, key=found.get)] for study, found in n_cells.items()}
        assert fewest == {study: {"pair": pair} for study, pair in CONFIG.tasks.items()}

    def test_every_file_has_an_organ(self, published_data):
        assert set(CONFIG.organs) == set(_data.read_studies())

    @pytest.mark.parametrize("study", CONFIG.tasks)
    def test_no_file_of_a_tasks_studies_is_pretrained_on(self, study, published_data):
        pair, studies = _data.read_pairs()[CONFIG.tasks[study]], _data.read_studies()
        files = [pair[side]["file"] for side in ("ref", "query")]
        everything = other_files(CONFIG, files, same_organ=False)
        of_organ = other_files(CONFIG, files, same_organ=True)
        assert not {studies[file] for file in everything} & {studies[file] for file in files}
        assert {studies[file] for file in everything} | {studies[file] for file in files} == set(studies.values())
        assert set(of_organ) < set(everything)
        assert {CONFIG.organs[file] for file in of_organ} <= {CONFIG.organs[file] for file in files}


@pytest.fixture
def folder(tmp_path, make_adata, monkeypatch):
    """Files of four studies, of which B has two and D is a panel; symbols of B are in lower case."""
    files = {"a": "A", "b1": "B", "b2": "B", "c": "C", "d": "D"}
    for seed, name in enumerate(files):
        adata = make_adata(seed=seed)
        if name.startswith("b"):
            adata.var_names = adata.var_names.str.lower()
        if name == "c":
            adata = adata[:, 3:].copy()
        if name == "d":
            adata = adata[:, :20].copy()
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    sides = {side: {"file": f"{name}.h5ad", "filter": None} for side, name in (("ref", "a"), ("query", "c"))}
    (tmp_path / "pairs.json").write_text(json.dumps([{"id": "P", "label": "cell_type", **sides}]))
    (tmp_path / "studies.json").write_text(json.dumps({f"{name}.h5ad": study for name, study in files.items()}))
    monkeypatch.setenv("TRANSANNO_DATA", str(tmp_path))
    _pools._read.cache_clear()
    yield tmp_path
    _pools._read.cache_clear()


def config(**changes):
    organs = {f"{name}.h5ad": organ for name, organ in zip(("a", "b1", "b2", "c", "d"), "xyxxx", strict=True)}
    return Config(
        **{"n_genes": 31, "max_cells": 50, "min_measured": 0.5, "seeds": (0, 1), "tasks": {"C": "P"}, "organs": organs}
        | changes
    )


class TestPools:
    sides = ("a.h5ad", "c.h5ad")

    def genes(self, folder):
        return ad.read_h5ad(folder / "a.h5ad").var_names.str.upper()

    def test_files_of_other_studies(self, folder):
        assert other_files(config(), self.sides, same_organ=False) == ["b1.h5ad", "b2.h5ad", "d.h5ad"]
        assert other_files(config(), self.sides, same_organ=True) == ["b2.h5ad", "d.h5ad"]

    def test_a_study_has_no_more_cells_than_it_may_and_keeps_the_shares_of_its_files(self, folder):
        pool = pool_of(config(), ["b1.h5ad", "b2.h5ad"], self.genes(folder))
        assert pool.cells.obs["source"].value_counts().to_dict() == {"b1.h5ad": 25, "b2.h5ad": 25}
        assert list(pool.cells.obs) == ["source"] and pool.unmeasured == 0.0
        again = pool_of(config(), ["b1.h5ad", "b2.h5ad"], self.genes(folder))
        np.testing.assert_array_equal(again.cells.X.toarray(), pool.cells.X.toarray())

    def test_counts_are_those_of_the_file(self, folder):
        pool = pool_of(config(max_cells=1000), ["b1.h5ad"], self.genes(folder))
        before = ad.read_h5ad(folder / "b1.h5ad")
        assert list(pool.cells.var_names) == list(before.var_names.str.upper())
        np.testing.assert_array_equal(pool.cells.X.toarray(), before.X.toarray())

    def test_genes_that_a_file_lacks_are_zero(self, folder):
        genes = self.genes(folder)
        pool = pool_of(config(max_cells=1000), ["a.h5ad", "c.h5ad"], genes)
        assert pool.unmeasured == pytest.approx(3 / 53 / 2)
        of_c = pool.cells[pool.cells.obs["source"] == "c.h5ad"]
        assert of_c[:, genes[:3]].X.sum() == 0 and of_c[:, genes[3:]].X.sum() > 0

    def test_a_panel_is_left_out(self, folder):
        assert pool_of(config(), ["d.h5ad"], self.genes(folder)) is None
        pool = pool_of(config(), ["b1.h5ad", "d.h5ad"], self.genes(folder))
        assert set(pool.cells.obs["source"]) == {"b1.h5ad"}

    def test_data_at_hand(self, reference, query):
        pool = at_hand(reference, query)
        assert pool.cells.obs["source"].value_counts().to_dict() == {"reference": 97, "query": 61}


class TestCompute:
    @pytest.fixture
    def calls(self, monkeypatch):
        """Nothing is trained: every model calls all cells the first type."""
        found = {"pretrain": [], "fit": []}

        def pretrain(cells, *, genes, **options):
            found["pretrain"].append(cells)
            history = {f"{name}_train": pd.DataFrame([0.5]) for name in _run._HIDDEN_GENES}
            return SimpleNamespace(
                genes=genes, history=history, save=lambda folder, overwrite: folder.mkdir(parents=True)
            )

        def annotate(reference, *, pretrained, **options):
            found["fit"].append((reference, pretrained))
            label = sorted(set(reference.obs["cell_type"]) - {"Unknown"})[0]
            return dict.fromkeys(
                ("", ", Transformer alone"), lambda query: Prediction(np.full(query.n_obs, label, object), None)
            )

        monkeypatch.setattr("transanno.tl.pretrain", pretrain)
        monkeypatch.setattr(_run, "annotate", annotate)
        return found

    def test_pretraining_is_done_once_and_rows_are_used_again(self, folder, calls):
        path = folder / "cells.jsonl"
        for _ in range(2):
            _run.compute(config(), ["C"], [0, 1], path, folder / "models")
        rows = pd.DataFrame(map(json.loads, path.read_text().splitlines()))
        assert len(rows) == len(calls["fit"]) == len(ARMS) * len(LABELS) * 2
        assert not rows.duplicated(["task", "arm", "seed"]).any()
        at_hand, of_organ, everything = calls["pretrain"]
        assert set(at_hand.obs["source"]) == {"reference", "query"} and at_hand.n_obs == 2 * 97
        assert set(of_organ.obs["source"]) == {"b2.h5ad"} and set(everything.obs["source"]) == {"b1.h5ad", "b2.h5ad"}
        assert [pretrained is None for _, pretrained in calls["fit"]] == [True] * 6 + [False] * 18

    def test_without_cells_there_is_no_pretraining(self, folder, calls):
        organs = dict.fromkeys(config().organs, "y") | {"a.h5ad": "x", "c.h5ad": "x"}
        _run.compute(config(organs=organs), ["C"], [0], folder / "cells.jsonl", folder / "models")
        rows = pd.DataFrame(map(json.loads, (folder / "cells.jsonl").read_text().splitlines()))
        assert set(rows.loc[rows["pretraining_cells"] == 0, "arm"]) == {PLAIN, SAME_ORGAN}
        assert len(calls["pretrain"]) == 2

    def test_a_task_of_another_study_is_refused(self, folder):
        with pytest.raises(ValueError, match="The query of P is of C, not of B"):
            _run.make_transfer(config(tasks={"B": "P"}), "B")


# -- report -------------------------------------------------------------------------------------------------------------

TASKS = {"A": "XA", "B": "XB", "C": "AC"}
REFERENCES = {"A": "X", "B": "X", "C": "A"}
GAINS = {PLAIN: 0.0, AT_HAND: 0.1, SAME_ORGAN: -0.1, EVERYTHING: 0.01}


def make_rows(gains=GAINS, seeds=(0, 1)):
    """Scores 0.5, 0.6 and 0.7 for A, B and C without pretraining; every arm gains the same everywhere, give or take 0.001."""
    for (i, (study, pair)), labels, arm, seed in (
        (each, labels, arm, seed)
        for each in enumerate(TASKS.items())
        for labels in LABELS
        for arm in ARMS
        for seed in seeds
    ):
        pretrained = {} if arm == PLAIN else {"known_genes": 1.0, "unmeasured": 0.0, "megabytes": 2.0}
        pretrained |= {} if arm == PLAIN else {"masked_accuracy": 0.9, "masked_accuracy_commonest": 0.8}
        score = 0.5 + 0.1 * i + gains[arm] + (0.001 * i if arm != PLAIN else 0.0)
        yield {
            **{"task": f"{pair}, {labels}", "reference_study": REFERENCES[study], "query_study": study},
            **{"arm": arm, "labels": labels, "seed": seed, "macro_f1": score, "macro_f1_transformer": score - 0.1},
            **{"fit_seconds": 9.0, "predict_seconds": 1.0, "pretraining_seconds": 20.0, "pretraining_cells": 100},
            **{
                "versions": {"numpy": "2.0"},
                "date": "2026-01-01",
                "cpu": "a CPU",
                "python": "3.12",
                "load_before": 0.1,
            },
            **{"source": "s", "data": labels, "cores": 1, **pretrained},
        }


@pytest.fixture
def write(tmp_path):
    def write(rows):
        (tmp_path / "cells.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / "cells.jsonl"

    return write


class TestReport:
    config = config(tasks=TASKS)

    def scores(self, write, gains):
        rows = current_rows(self.config, write(make_rows(gains)))
        scores = {name: means(rows[rows["labels"] == name], self.config) for name in LABELS}
        return scores, {name: nested_scores(table, studies_of(rows)) for name, table in scores.items()}

    def test_rows_that_count(self, write):
        newer = {**next(make_rows()), "macro_f1": 0.9}
        other_seed, other_pair = {**newer, "seed": 7}, {**newer, "task": "YA, all labels"}
        rows = current_rows(self.config, write([*make_rows(), newer, other_seed, other_pair]))
        assert len(rows) == 3 * 3 * 4 * 2 and rows["macro_f1"].max() == 0.9

    def test_nothing_to_report(self, write):
        with pytest.raises(SystemExit, match="Nothing to report"):
            current_rows(self.config, write([]))

    def test_seeds_that_lack_an_arm_do_not_count(self, write):
        second = [{**row, "macro_f1": 0.0} for row in make_rows(seeds=[1])]
        unfinished = [row for row in second if (row["query_study"], row["arm"]) != ("B", EVERYTHING)]
        rows = current_rows(self.config, write([*make_rows(seeds=[0]), *unfinished]))
        table = means(rows[rows["labels"] == "all labels"], self.config)
        assert list(table) == list(ARMS)
        assert table[PLAIN].to_dict() == pytest.approx({"A": 0.25, "B": 0.6, "C": 0.35})

    def test_help_that_other_studies_foresee(self, write):
        scores, nested = self.scores(write, GAINS)
        assert set(nested["all labels"][True]["chosen"]) == {AT_HAND}
        text = verdict(scores, nested)
        assert text.startswith("**Pretraining helps with all labels and 10 % of the labels and 10 labels per type**")
        assert "by +0.101 (all labels)" in text
        assert "6 (query and reference, all labels; " in text and "3 (other studies of the organ, all labels; " in text
        assert (
            "from -0.099 (other studies of the organ, all labels) to +0.101 (query and reference, all labels)" in text
        )

    def test_no_help(self, write):
        scores, nested = self.scores(write, {arm: 0.0 if arm == PLAIN else -0.1 for arm in ARMS})
        assert set(nested["all labels"][True]["chosen"]) == {PLAIN}
        text = verdict(scores, nested)
        assert text.startswith("**Pretraining is not shown to help, and the default stays without it**")
        assert "+0.000 (all labels)" in text and "the interval is above zero for none and below for 9 (" in text

    def test_files(self, write, tmp_path, capsys, monkeypatch):
        monkeypatch.setenv("TRANSANNO_DATA", str(tmp_path / "absent"))
        lines = [f'"{study}" = "{pair}"' for study, pair in TASKS.items()]
        toml = "n_genes = 31\nmax_cells = 50\nmin_measured = 0.5\nseeds = [0, 1]\n[organs]\n[tasks]\n" + "\n".join(
            lines
        )
        (tmp_path / "config.toml").write_text(toml)
        write(make_rows())
        arguments = ["--report-only", "--config", str(tmp_path / "config.toml"), "--out", str(tmp_path)]
        assert main(arguments) == 0
        report = (tmp_path / "pretraining.md").read_text()
        assert capsys.readouterr().out.strip() == report.strip()
        assert "that all ways have finished: 2 for 9 tasks and labels." in report
        assert "| all labels | not pretrained | 0.600 | – | – | 0.500 | – | – | – | 10 |" in report
        assert "| all labels | query and reference | 0.701 | +0.101 | +0.099 to +0.103 |" in report
        assert "**nested**, pretrained for 3 of 3 studies | 0.701 | +0.101 |" in report
        assert "| query and reference | 3 | 100 | 100 to 100 | 100% | 0% | 0.900 | 0.800 | 2.0 |" in report
        assert "| C | A | 0.700 ± 0.000 | +0.102 | -0.098 | +0.012 |" in report

    def test_unknown_study(self, capsys):
        with pytest.raises(SystemExit):
            main(["--studies", "no such"])
        assert "--studies: no such not in the config" in capsys.readouterr().err
