from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.metrics import accuracy_score, f1_score

import transanno
from transanno import TransAnno, TransAnnoPretrain, pp, tl
from transanno._cli._console import Console
from transanno.cli import main
from transanno.data._files import write_h5ad

QUICK = ["--max-epochs", "2", "--accelerator", "cpu"]
needs_signals = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: ad.AnnData, query: ad.AnnData) -> Path:
    """Folder with ``reference.h5ad`` and ``query.h5ad``, which is the working directory, too."""
    monkeypatch.chdir(tmp_path)
    write_h5ad(reference, "reference.h5ad")
    write_h5ad(query, "query.h5ad")
    return tmp_path


def annotate_by_reference(*more: str) -> list[str]:
    return [
        *["annotate", "--reference", "reference.h5ad", "--query", "query.h5ad", "--labels-key", "cell_type"],
        *["--out", "out.h5ad", *QUICK, *more],
    ]


def annotate_by_model(folder: Path | str, *more: str) -> list[str]:
    return ["annotate", "--model", str(folder), "--query", "query.h5ad", "--out", "out.h5ad", *more]


def complaint(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that has to fail by a mistake of the user -> its error, which has to be one paragraph."""
    before = set(os.listdir("."))
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    last = err.strip().splitlines()[-1]
    assert last.startswith("transanno: error: ")
    assert err.count("transanno: error") == 1
    assert set(os.listdir(".")) == before  # nothing was written
    return last


class TestAnnotate:
    def test_with_a_reference_writes_everything(self, files: Path, capsys, changed, snapshot, query) -> None:
        query.raw = query[:, :31].copy()
        query.layers["other"] = query.X * 2
        query.obsm["X_pca"] = np.random.default_rng(0).normal(size=(61, 7))
        query.uns["note"] = "mine"
        query.obs["free_text"] = ["same", "other"] * 30 + ["same"]
        write_h5ad(query, "query.h5ad", compression="gzip")
        before = snapshot(ad.read_h5ad("query.h5ad"))
        code = main(annotate_by_reference("--save-model", "new/model", "--batch-key", "batch"))
        out, err = capsys.readouterr()
        assert code == 0, err
        annotated = ad.read_h5ad("out.h5ad")
        assert changed(before, annotated) == {"obs[transanno]", "obs[transanno_confidence]", "obsm[X_transanno]"}
        assert changed(before, ad.read_h5ad("query.h5ad")) == set()
        assert list(annotated.obs)[:2] == ["cell_type", "batch"]
        assert "61 cells annotated" in out
        assert "Epoch 1/2" in err
        assert sorted(os.listdir(".")) == ["new", "out.h5ad", "query.h5ad", "reference.h5ad"]
        assert sorted(os.listdir("new/model")) == ["card.json", "genes.txt", "model.pt"]
        model = TransAnno.load("new/model", False, accelerator="cpu")
        assert model.summary_stats.n_cells == 97  # the model of the reference, not of the query

    # scanpy 1.12 sorts in place, which pandas 3 deprecates.
    @pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.sort_values:DeprecationWarning:scanpy")
    def test_equals_the_api(self, files: Path, reference, query, capsys) -> None:
        settings = {"batch_key": "batch", "n_top_genes": 37, "max_epochs": 2, "seed": 5, "refine": False}
        code = main(
            annotate_by_reference(
                *["--batch-key", "batch", "--n-top-genes", "37", "--seed", "5", "--no-refine", "--key-added", "found"]
            )
        )
        assert code == 0
        tl.annotate(
            query,
            reference,
            labels_key="cell_type",
            key_added="found",
            accelerator="cpu",
            enable_progress_bar=False,
            **settings,
        )
        annotated = ad.read_h5ad("out.h5ad")
        assert (annotated.obs["found"].astype(str) == query.obs["found"].astype(str)).all()
        np.testing.assert_allclose(annotated.obs["found_confidence"], query.obs["found_confidence"], atol=1e-6)
        np.testing.assert_allclose(annotated.obsm["X_transanno"], query.obsm["X_transanno"], atol=1e-5)

    def test_prints_scores_as_scikit_learn_computes_them(self, files: Path, saved_reference, capsys) -> None:
        assert main(annotate_by_model(saved_reference, "--quiet")) == 0
        out, err = capsys.readouterr()
        obs = ad.read_h5ad("out.h5ad").obs.astype({"cell_type": str, "transanno": str})
        expected = [
            f"accuracy: {accuracy_score(obs['cell_type'], obs['transanno']):.4f}",
            f"macro-F1: {f1_score(obs['cell_type'], obs['transanno'], average='macro'):.4f}",
            f"weighted F1: {f1_score(obs['cell_type'], obs['transanno'], average='weighted'):.4f}",
        ]
        assert out.splitlines() == [*expected, "labeled cells: 61, types: 3"]
        assert err == ""

    def test_cells_below_the_threshold_are_unassigned(self, files: Path, saved_reference, capsys) -> None:
        assert main(annotate_by_model(saved_reference, "--unassigned-threshold", "0.99", "--no-refine")) == 0
        obs = ad.read_h5ad("out.h5ad").obs
        is_unassigned = obs["transanno"] == "Unassigned"
        np.testing.assert_array_equal(is_unassigned, obs["transanno_confidence"] < 0.99)
        assert is_unassigned.any()
        assert f"coverage: {1 - is_unassigned.mean():.4f}, accuracy where assigned:" in capsys.readouterr().out

    def test_cells_unlike_the_reference_are_unknown_and_grouped(self, files: Path, make_adata, capsys) -> None:
        query, rng = make_adata(120, seed=1), np.random.default_rng(1)
        counts, is_new = query.X.toarray(), np.arange(120) >= 89
        counts[is_new] = rng.poisson(rng.gamma(0.1, 90.0, size=53), size=(31, 53))
        query.X = sp.csr_matrix(counts)
        write_h5ad(query, "query.h5ad")
        write_h5ad(make_adata(211), "reference.h5ad")
        assert main(annotate_by_reference("--fdr", "0.2", "--key-added", "found")) == 0
        out, err = capsys.readouterr()
        annotated = ad.read_h5ad("out.h5ad")
        is_unknown = (annotated.obs["found"] == "Unknown").to_numpy()
        assert not is_unknown[~is_new].any()
        assert is_unknown[is_new].mean() > 0.9
        assert annotated.obs["found_novelty"].notna().all()
        is_grouped = annotated.obs["found_group"].notna().to_numpy()
        assert is_grouped[is_unknown].mean() > 0.9
        assert not is_grouped[~is_unknown].any()
        (group,) = annotated.uns["found_groups"].itertuples()
        assert group.n_cells == is_grouped.sum()
        assert group.group in out
        assert group.markers in out
        assert "On other studies fdr=0.2 found 25% of the unknown cells on average" in err

    def test_cells_that_nobody_assigned_are_left_out_of_the_scores(self, files, saved_reference, query, capsys) -> None:
        query.obs["cell_type"] = query.obs["cell_type"].astype(str)
        query.obs.iloc[:7, query.obs.columns.get_loc("cell_type")] = "Unassigned"
        write_h5ad(query, "query.h5ad")
        assert main(annotate_by_model(saved_reference)) == 0
        assert f"labeled cells: {query.n_obs - 7}, types: 3" in capsys.readouterr().out

    @pytest.mark.parametrize("value", ["1.5", "-1", "half", "nan"])
    def test_a_threshold_is_a_probability(self, value: str, files: Path, saved_reference, capsys) -> None:
        message = complaint(annotate_by_model(saved_reference, f"--unassigned-threshold={value}"), capsys)
        assert f"{value!r} is not a number from 0 to 1" in message

    def test_a_type_called_unassigned_is_found_before_training(self, files: Path, reference, capsys) -> None:
        reference.obs["cell_type"] = reference.obs["cell_type"].replace("NK cell", "Unassigned")
        write_h5ad(reference, "reference.h5ad")
        message = complaint(annotate_by_reference("--unassigned-threshold", "0.5"), capsys)
        assert "The reference has a type called 'Unassigned'" in message

    def test_unknown_types_are_left_out_of_the_scores(self, files: Path, saved_reference, query, capsys) -> None:
        query.obs["truth"] = query.obs["cell_type"].astype(str)
        query.obs.iloc[:7, query.obs.columns.get_loc("truth")] = "new type"
        query.obs.iloc[7:12, query.obs.columns.get_loc("truth")] = "Unlabeled"  # means: no label
        write_h5ad(query, "query.h5ad")
        assert main(annotate_by_model(saved_reference, "--labels-key", "truth")) == 0
        out = capsys.readouterr().out
        assert "labeled cells: 49, types: 3" in out
        assert "reference does not have their types: 7 cells, types: 1 (new type)" in out

    def test_labels_of_the_query_have_no_influence(self, files: Path, query, capsys) -> None:
        assert main(annotate_by_reference()) == 0
        first = ad.read_h5ad("out.h5ad")
        query.obs["cell_type"] = query.obs["cell_type"].to_numpy()[::-1]
        write_h5ad(query, "query.h5ad")
        assert main(annotate_by_reference()) == 0
        second = ad.read_h5ad("out.h5ad")
        np.testing.assert_array_equal(first.obs["transanno_confidence"], second.obs["transanno_confidence"])
        assert (first.obs["transanno"].astype(str) == second.obs["transanno"].astype(str)).all()
        assert (second.obs["cell_type"].to_numpy() == query.obs["cell_type"].to_numpy()).all()

    def test_a_query_without_labels_is_annotated_without_scores(self, files, saved_reference, query, capsys) -> None:
        del query.obs["cell_type"]
        write_h5ad(query, "query.h5ad")
        assert main(annotate_by_model(saved_reference)) == 0
        out = capsys.readouterr().out
        assert "accuracy" not in out
        assert "predicted type" in out
        assert main(annotate_by_model(saved_reference, "--quiet")) == 0
        assert capsys.readouterr() == ("", "")

    def test_labels_that_the_model_does_not_know_give_no_scores(self, files, saved_reference, query, capsys) -> None:
        query.obs["cell_type"] = "new type"
        write_h5ad(query, "query.h5ad")
        assert main(annotate_by_model(saved_reference)) == 0
        assert "No scores: no cell has a label in obs['cell_type']" in capsys.readouterr().out

    def test_too_few_cells_for_a_umap_are_a_warning(self, files, saved_reference, query, capsys) -> None:
        write_h5ad(query[:7].copy(), "query.h5ad")
        assert main(annotate_by_model(saved_reference, "--plots", "plots", "--quiet")) == 0
        assert os.listdir("plots") == ["confusion_matrix.png"]
        assert "transanno: warning: No UMAP was drawn: the query has 7 cells" in capsys.readouterr().err

    def test_counts_may_be_in_a_layer(self, files: Path, reference, query, capsys) -> None:
        for adata, name in ((reference, "reference.h5ad"), (query, "query.h5ad")):
            adata.layers["counts"] = adata.X.copy()
            adata.X = sp.csr_matrix(np.log1p(adata.X.toarray() / 7))
            write_h5ad(adata, name)
        assert main(annotate_by_reference("--layer", "counts")) == 0
        assert "accuracy" in capsys.readouterr().out

    def test_starts_from_a_pretrained_model(self, files: Path, saved_pretrained, capsys) -> None:
        assert main(annotate_by_reference("--pretrained", str(saved_pretrained), "--save-model", "model")) == 0
        assert TransAnno.load("model", False, accelerator="cpu").was_pretrained_

    def test_a_saved_model_is_replaced_on_request_only(self, files: Path, capsys) -> None:
        assert main(annotate_by_reference("--save-model", "model")) == 0
        first = Path("model/model.pt").read_bytes()
        capsys.readouterr()
        assert "pass --overwrite" in complaint(annotate_by_reference("--save-model", "model"), capsys)
        assert Path("model/model.pt").read_bytes() == first
        assert main(annotate_by_reference("--save-model", "model", "--overwrite", "--seed", "1")) == 0
        assert Path("model/model.pt").read_bytes() != first
        Path("model/notes.txt").touch()
        assert "nothing but a model" in complaint(annotate_by_reference("--save-model", "model", "--overwrite"), capsys)

    def test_our_warnings_are_lines_and_shown_once(self, files: Path, reference, capsys) -> None:
        reference.obs["cell_type"] = pd.Categorical([None] * 5 + reference.obs["cell_type"].tolist()[5:])
        write_h5ad(reference, "reference.h5ad")
        assert main(annotate_by_reference("--quiet")) == 0
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("transanno: warning: 5 cells have no value in obs['cell_type']")

    def test_an_earlier_annotation_is_replaced_with_a_warning(self, files, saved_reference, query, capsys) -> None:
        query.obs["transanno"] = query.obs["transanno_set"] = "old"
        query.obsm["transanno_sets"] = np.ones((query.n_obs, 3), dtype=bool)
        columns = [*query.obs]
        write_h5ad(query, "query.h5ad")
        assert main(annotate_by_model(saved_reference, "--quiet")) == 0
        assert "transanno: warning: The query has a column 'transanno'" in capsys.readouterr().err
        found = ad.read_h5ad("out.h5ad")
        assert "old" not in set(found.obs["transanno"])
        assert [*found.obs] == [*(name for name in columns if name != "transanno_set"), "transanno_confidence"]
        assert "transanno_sets" not in found.obsm


def _log_normalize(adata: ad.AnnData) -> ad.AnnData:
    counts = adata.X.toarray()
    adata.X = sp.csr_matrix(np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)), dtype=np.float32)
    return adata


def _log_of_fractions(adata: ad.AnnData) -> ad.AnnData:
    """As of corrected values: no cell is a multiple of one unit, and no two have one total."""
    corrected = adata.X.toarray() * np.random.default_rng(0).uniform(0.3, 3.0, size=adata.shape)
    adata.X = sp.csr_matrix(np.log1p(corrected).astype("float32"))
    return adata


def _put(value: float) -> Callable[[ad.AnnData], ad.AnnData]:
    def change(adata: ad.AnnData) -> ad.AnnData:
        adata.X[3, :11] = value
        return adata

    return change


def _one_class(adata: ad.AnnData) -> ad.AnnData:
    adata.obs["cell_type"] = "T cell"
    return adata


def _no_label(adata: ad.AnnData) -> ad.AnnData:
    adata.obs["cell_type"] = "Unlabeled"
    return adata


def _drop_labels(adata: ad.AnnData) -> ad.AnnData:
    del adata.obs["cell_type"]
    return adata


def _repeat_a_gene(adata: ad.AnnData) -> ad.AnnData:
    adata.var_names = [adata.var_names[1], *adata.var_names[1:]]
    return adata


def _other_genes(adata: ad.AnnData) -> ad.AnnData:
    adata.var_names = [f"other{i}" for i in range(adata.n_vars)]
    return adata


BAD_DATA = [
    pytest.param("reference", _log_of_fractions, r"reference.X looks log1p-normalized", id="logged reference"),
    pytest.param("query", _log_of_fractions, r"query.X looks log1p-normalized", id="logged query"),
    pytest.param("reference", _put(-1.0), "never negative", id="negative reference"),
    pytest.param("query", _put(-1.0), "non-zero values of query.X are negative", id="negative query"),
    pytest.param("reference", _put(np.nan), "NaN or infinite", id="NaN in reference"),
    pytest.param("query", _put(np.nan), "query.X holds 11 NaN", id="NaN in query"),
    pytest.param("reference", _one_class, "1 cell type: 'T cell'", id="one class"),
    pytest.param("reference", _no_label, "every cell is unlabeled", id="no labeled cell"),
    pytest.param("reference", _drop_labels, "labels_key='cell_type' is not a column", id="no label column"),
    pytest.param("reference", _repeat_a_gene, "reference has 1 gene name", id="repeated gene"),
    pytest.param("reference", lambda adata: adata[:0].copy(), "reference has 0 cells", id="empty reference"),
    pytest.param("query", lambda adata: adata[:0].copy(), "query has 0 cells", id="empty query"),
    pytest.param("query", _other_genes, "Unmatched names look like other0", id="other genes"),
]


class TestRepaired:
    """What can be repaired for sure is, and one line says so; conformance of the complaints 16 and 25."""

    @pytest.mark.parametrize("name", ["reference", "query"])
    def test_counts_are_restored_from_logged_values(self, name, files, reference, query, capsys) -> None:
        assert main(annotate_by_reference("--quiet")) == 0
        expected = ad.read_h5ad("out.h5ad")
        write_h5ad(_log_normalize({"reference": reference, "query": query}[name]), f"{name}.h5ad")
        capsys.readouterr()
        assert main(annotate_by_reference("--quiet")) == 0
        warned = capsys.readouterr().err.splitlines()
        assert len(warned) == 1
        assert f"{name}.X holds no raw counts (log1p (natural) of 10,000 counts per cell)" in warned[0]
        found = ad.read_h5ad("out.h5ad")
        np.testing.assert_array_equal(found.obs["transanno_confidence"], expected.obs["transanno_confidence"])

    def test_genes_are_found_in_a_column_of_var(self, files, query, saved_reference, capsys) -> None:
        query.var = pd.DataFrame({"symbol": query.var_names}, index=[f"ENSG{i:011d}" for i in range(query.n_vars)])
        write_h5ad(query, "query.h5ad")
        assert main(annotate_by_model(saved_reference)) == 0
        out, err = capsys.readouterr()
        assert "matched by var['symbol']" in err
        assert "53 of the model's 53 genes" in out
        assert list(ad.read_h5ad("out.h5ad").var_names) == list(query.var_names)


class TestCheck:
    def test_prints_a_table_and_writes_nothing(self, files, capsys) -> None:
        before = sorted(os.listdir("."))
        arguments = ["check", "--query", "query.h5ad", "--reference", "reference.h5ad", "--labels-key", "cell_type"]
        assert main([*arguments, "--batch-key", "batch", "--quiet"]) == 0
        out, err = capsys.readouterr()
        assert out.startswith("61 cells x 53 features: usable")
        for line in ("scale", "gene overlap by type", "duplicated cells", "batches"):
            assert f"\n{line}" in out
        assert err == ""
        assert sorted(os.listdir(".")) == before

    def test_with_a_model_tells_by_its_exit_code(self, files, query, saved_reference, capsys) -> None:
        arguments = ["check", "--query", "query.h5ad", "--model", str(saved_reference)]
        assert main(arguments) == 0
        assert "gene overlap by type" in capsys.readouterr().out
        write_h5ad(_other_genes(query), "query.h5ad")
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert "not usable as they are (1 error)" in out
        assert "query.h5ad cannot be annotated as it is: gene overlap" in err.splitlines()[-1]


class TestTables:
    """A line for each row where a program reads, and as wide as the terminal where someone does."""

    ROWS = [["[bold]T cell", "7", "CD3D, CD3E, CD3G, TRAC"], ["B & <b>", "31", "CD79A, " * 20 + "MS4A1"]]

    def test_elsewhere(self, capsys) -> None:
        Console(quiet=False).table(["type", "cells", "genes"], self.ROWS)
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == ["type", "cells", "genes"]
        assert [line.split("  ")[0] for line in lines[1:3]] == ["[bold]T cell", "B & <b>"]
        assert len(lines) == 4

    def test_on_a_terminal(self, monkeypatch) -> None:
        terminal = io.StringIO()
        terminal.isatty = lambda: True
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setenv("COLUMNS", "47")
        Console(quiet=False).table(["type", "cells", "genes"], self.ROWS)
        text = re.sub("\x1b\\[[0-9;]*m", "", terminal.getvalue())
        assert max(map(len, text.splitlines())) <= 47
        assert "[bold]T cell" in text
        assert "B & <b>" in text
        assert text.count("CD79A") == 20

    def test_a_check_says_the_same(self, files, monkeypatch, capsys) -> None:
        terminal = io.StringIO()
        terminal.isatty = lambda: True
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setenv("COLUMNS", "200")
        assert main(["check", "--query", "query.h5ad", "--quiet"]) == 0
        report = pp.check(ad.read_h5ad("query.h5ad"))
        assert report.headline in terminal.getvalue()
        assert all(finding.found in terminal.getvalue() for finding in report.findings)


class TestMistakes:
    @pytest.mark.filterwarnings("ignore:Variable names are not unique:UserWarning:anndata")
    @pytest.mark.parametrize(("name", "spoil", "expected"), BAD_DATA)
    def test_bad_data_are_explained(self, files, reference, query, name, spoil, expected, capsys) -> None:
        adata = {"reference": reference, "query": query}[name]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy: changing the pattern of a sparse matrix is slow
            adata = spoil(adata)
        write_h5ad(adata, f"{name}.h5ad")
        started = time.perf_counter()
        assert expected in complaint(annotate_by_reference("--max-epochs", "100000"), capsys)
        assert time.perf_counter() - started < 20  # found before training

    @pytest.mark.parametrize(
        ("more", "expected"),
        [
            (["--batch-key", "btch"], "Did you mean 'batch'?"),
            (["--layer", "counts"], "layer='counts' is not a layer of query"),
            (["--pretrained", "nowhere"], "'nowhere' is neither a folder nor the name of a registered model"),
            (["--out", "query.h5ad"], "is the file of --query"),
            (["--out", "./reference.h5ad"], "is the file of --reference"),
            (["--out", "out.csv"], "does not end in .h5ad"),
            (["--out", "query.h5ad/out.h5ad"], "is a file, where a folder is needed"),
            (["--plots", "query.h5ad"], "is a file, where a folder is needed"),
            (["--query", "nowhere.h5ad"], "The query file nowhere.h5ad does not exist"),
            (["--reference", "."], "The reference . is a folder"),
            (["--key-added", "cell_type"], "which the predictions would replace"),
            (["--key-added", "a/b"], "cannot be the name of a column"),
            (["--n-top-genes", "none"], "'none' is not a whole number of 1 or more"),
            (["--max-epochs", "0"], "'0' is not a whole number of 1 or more"),
            (["--overwrite"], "only goes with --save-model"),
            (["--model", "model"], "not allowed with argument --reference"),
            (["--referenc", "reference.h5ad"], "unrecognized arguments: --referenc"),
        ],
    )
    def test_bad_options_are_explained(self, files: Path, more: list[str], expected: str, capsys) -> None:
        assert expected in complaint(annotate_by_reference(*more), capsys)

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ([], "required: COMMAND"),
            (["anotate"], "invalid choice: 'anotate'"),
            (["annotate", "--query", "q.h5ad", "--out", "o.h5ad"], "--reference --model is required"),
            (
                ["annotate", "--reference", "r.h5ad", "--query", "q.h5ad", "--out", "o.h5ad"],
                "--labels-key is missing",
            ),
            (annotate_by_model("model", "--n-top-genes", "31"), "--n-top-genes only goes with --reference"),
            (["pretrain", "--data", "nowhere.h5ad", "--save-model", "m"], "The data file nowhere.h5ad does not exist"),
        ],
    )
    def test_bad_commands_are_explained(self, files, arguments: list[str], expected: str, capsys) -> None:
        assert expected in complaint(arguments, capsys)

    @pytest.mark.parametrize("content", [b"not a model", b""])
    def test_damaged_models_are_explained(self, files: Path, content: bytes, capsys) -> None:
        Path("damaged").mkdir()
        Path("damaged/model.pt").write_bytes(content)
        assert "model.pt is damaged" in complaint(annotate_by_model("damaged"), capsys)

    def test_other_models_are_explained(self, files: Path, saved_pretrained, saved_reference, capsys) -> None:
        assert "holds a TransAnnoPretrain model" in complaint(annotate_by_model(saved_pretrained), capsys)
        assert "'nowhere' is neither a folder nor the name of a registered model" in complaint(
            annotate_by_model("nowhere"), capsys
        )
        expected = "holds a TransAnno model"
        assert expected in complaint(annotate_by_reference("--pretrained", str(saved_reference)), capsys)

    def test_a_column_only_for_scores_has_to_exist(self, files: Path, saved_reference, capsys) -> None:
        found = complaint(annotate_by_model(saved_reference, "--labels-key", "truth"), capsys)
        assert "--labels-key='truth' is not a column of query.obs" in found

    def test_an_unreadable_query_is_explained(self, files: Path, saved_reference, capsys) -> None:
        Path("query.h5ad").write_text("cell,gene\n")
        assert "cannot be read as h5ad" in complaint(annotate_by_model(saved_reference), capsys)

    def test_debug_shows_the_traceback(self, files: Path, capsys) -> None:
        assert main(annotate_by_reference("--query", "nowhere.h5ad", "--debug")) == 2
        assert "Traceback" in capsys.readouterr().err

    def test_unexpected_errors_are_code_1(self, files: Path, saved_reference, monkeypatch, capsys) -> None:
        def fail(*args, **kwargs):
            raise RuntimeError("cosmic ray")

        monkeypatch.setattr(tl, "annotate", fail)
        assert main(annotate_by_model(saved_reference)) == 1
        assert "transanno: error: unexpected RuntimeError: cosmic ray" in capsys.readouterr().err


class TestKilled:
    """``out.h5ad`` is a good file of an earlier run; whatever happens, it stays one."""

    def test_an_error_while_writing(self, files: Path, saved_reference, monkeypatch, capsys) -> None:
        assert main(annotate_by_model(saved_reference)) == 0
        good = Path("out.h5ad").read_bytes()

        def write_half(self: ad.AnnData, path: Path, **kwargs) -> None:
            Path(path).write_bytes(good[: len(good) // 2])
            raise OSError("No space left on device")

        monkeypatch.setattr(ad.AnnData, "write_h5ad", write_half)
        capsys.readouterr()
        assert "No space left on device" in complaint(annotate_by_model(saved_reference), capsys)
        assert Path("out.h5ad").read_bytes() == good

    @needs_signals
    @pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
    def test_a_signal_while_writing(self, files: Path, saved_reference, signum: int) -> None:
        assert main(annotate_by_model(saved_reference)) == 0
        good = Path("out.h5ad").read_bytes()
        code = (
            "import os, pathlib, sys, anndata\n"
            "def write_half(self, path, **kwargs):\n"
            "    good = pathlib.Path('out.h5ad').read_bytes()\n"
            "    pathlib.Path(path).write_bytes(good[: len(good) // 2])\n"
            f"    os.kill(os.getpid(), {int(signum)})\n"
            "anndata.AnnData.write_h5ad = write_half\n"
            "from transanno.cli import main\n"
            "sys.exit(main(sys.argv[1:]))\n"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, *annotate_by_model(saved_reference)], capture_output=True, text=True
        )
        assert run.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143}[signum]
        assert "Traceback" not in run.stderr
        assert Path("out.h5ad").read_bytes() == good
        leftovers = [name for name in os.listdir(".") if name.startswith(".out.h5ad.tmp-")]
        assert len(leftovers) == (signum == signal.SIGKILL)

    @needs_signals
    @pytest.mark.parametrize("after", ["obs", "obsm"])
    def test_a_signal_while_writing_into_the_copy_of_a_large_query(self, files: Path, saved_reference, after) -> None:
        assert main(annotate_by_model(saved_reference)) == 0
        good, query = Path("out.h5ad").read_bytes(), Path("query.h5ad").read_bytes()
        code = (
            "import os, sys, anndata.io\n"
            "import transanno.data._counts\n"
            "transanno.data._counts.MAX_IN_MEMORY = 10\n"
            "write = anndata.io.write_elem\n"
            "def write_and_die(group, key, value, **kwargs):\n"
            "    write(group, key, value, **kwargs)\n"
            f"    if key == {after!r} or group.name == {'/' + after!r}:\n"
            f"        os.kill(os.getpid(), {int(signal.SIGKILL)})\n"
            "anndata.io.write_elem = write_and_die\n"
            "from transanno.cli import main\n"
            "sys.exit(main(sys.argv[1:]))\n"
        )
        run = subprocess.run([sys.executable, "-c", code, *annotate_by_model(saved_reference)], capture_output=True)
        assert run.returncode == -signal.SIGKILL
        assert Path("query.h5ad").read_bytes() == query
        assert Path("out.h5ad").read_bytes() == good
        assert [name for name in os.listdir(".") if name.startswith(".out.h5ad.tmp-")]  # what was being written

    @needs_signals
    def test_an_interrupt_while_training(self, files: Path) -> None:
        before = sorted(os.listdir("."))
        arguments = annotate_by_reference("--max-epochs", "100", "--save-model", "model")
        run = subprocess.Popen(
            [sys.executable, "-m", "transanno.cli", *arguments],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Jobs in the background of a script ignore interrupts, and so would what they start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert run.stderr is not None
        for line in run.stderr:
            if line.startswith("Epoch 10/"):
                break
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=30)
        assert run.returncode == 130
        assert err.splitlines()[-1] == "transanno: interrupted"
        assert "Traceback" not in err
        assert sorted(os.listdir(".")) == before


class TestOtherCommands:
    def test_pretrain_writes_a_model(self, files: Path, capsys) -> None:
        arguments = ["pretrain", "--data", "query.h5ad", "--save-model", "new/model", "--batch-key", "batch"]
        assert main([*arguments, "--n-top-genes", "37", *QUICK]) == 0
        assert "Pretrained on 61 cells and 37 genes" in capsys.readouterr().out
        model = TransAnnoPretrain.load("new/model", False, accelerator="cpu")
        assert len(model.genes) == 37
        assert "pass --overwrite" in complaint(arguments, capsys)

    def test_other_genes_are_not_counted(self, files: Path, capsys) -> None:
        assert main(annotate_by_reference("--n-top-genes", "37")) == 0
        assert "37 of the model's 37 genes are in the query" in capsys.readouterr().out

    def test_pretrain_explains_bad_data(self, files: Path, query, capsys) -> None:
        arguments = ["pretrain", "--data", "query.h5ad", "--save-model", "model"]
        query.X = -query.X
        write_h5ad(query, "query.h5ad")
        assert "negative" in complaint(arguments, capsys)
        assert "batch_key='b' is not a column" in complaint([*arguments, "--batch-key", "b"], capsys)

    def test_demo_writes_four_files(self, tmp_path: Path, monkeypatch, capsys) -> None:
        monkeypatch.chdir(tmp_path)
        assert main(["demo", "--out", "demo", "--max-epochs", "1", "--accelerator", "cpu"]) == 0
        out, err = capsys.readouterr()
        assert sorted(os.listdir("demo")) == ["annotated.h5ad", "confusion_matrix.png", "report.html", "umap.png"]
        assert os.listdir(".") == ["demo"]
        assert plt.get_fignums() == []
        for name in ("confusion_matrix.png", "umap.png"):
            assert Path("demo", name).read_bytes().startswith(b"\x89PNG")
        accuracy = float(out.split("accuracy: ")[1].split()[0])
        assert accuracy > 0.6
        assert "macro-F1: " in out
        annotated = ad.read_h5ad("demo/annotated.h5ad")
        assert list(annotated.obs) == ["cell_type", "transanno", "transanno_confidence"]
        # Libraries' own words do not reach the terminal.
        assert {line.split(" ")[0] for line in err.splitlines()} <= {"466", "Epoch", "Annotating", "Wrote", "Computing"}

    @pytest.mark.parametrize("command", [[], ["annotate"], ["pretrain"], ["demo"]])
    def test_help_says_how_it_is_used(self, command: list[str], capsys) -> None:
        assert main([*command, "--help"]) == 0
        out = capsys.readouterr().out
        assert out.startswith(" ".join(["usage: transanno", *command]))

    def test_version_is_that_of_the_package(self, capsys) -> None:
        assert main(["--version"]) == 0
        assert capsys.readouterr().out == f"transanno {transanno.__version__}\n"

    def test_help_loads_nothing_heavy(self) -> None:
        code = (
            "import sys; from transanno.cli import main; main(['annotate', '--help'])\n"
            "assert not {'numpy', 'pandas', 'torch', 'scanpy', 'matplotlib'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
