"""What notebooks show of results; names are the user's, and may be anything."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from jinja2 import UndefinedError

from transanno import TransAnno, TransAnnoPretrain, metrics, pp
from transanno.html._render import Table, render, summary
from transanno.metrics import CrossValidation

SCRIPT = "<script>alert('T & B')</script>"


class _Texts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.add(tag)

    def handle_data(self, data) -> None:
        self.texts.append(data.strip())


def read(html: str) -> _Texts:
    parser = _Texts()
    parser.feed(html)
    parser.close()
    return parser


def test_every_text_is_text():
    found = read(summary(SCRIPT, lines=[SCRIPT], tables=[Table([SCRIPT, ""], [[SCRIPT, SCRIPT]], SCRIPT)]))
    assert found.texts.count(SCRIPT) == 6
    assert found.tags == {"div", "strong", "table", "caption", "thead", "tbody", "tr", "th", "td"}


def test_a_slip_in_a_template_is_an_error():
    with pytest.raises(UndefinedError):
        render("summary.html", title="without lines and tables")


def test_check_report_shows_findings_and_types(query, reference):
    reference.obs["cell_type"] = reference.obs["cell_type"].replace("NK cell", SCRIPT)
    report = pp.check(query[:, :31].copy(), reference, labels_key="cell_type")
    found = read(report._repr_html_())
    assert {finding.found for finding in report.findings} <= set(found.texts)
    assert report.headline in found.texts
    assert SCRIPT in found.texts
    assert "script" not in found.tags
    repaired = pp.check(query, fix=True, mapping={"GENE00": "CD3D"})
    assert repaired.fixes
    assert set(repaired.fixes) <= set(read(repaired._repr_html_()).texts)


def test_evaluation_shows_scores_and_types():
    result = metrics.evaluate([SCRIPT, SCRIPT, "B", "B"], [SCRIPT, "B", "B", "B"])
    found = read(result._repr_html_())
    assert "accuracy: 0.7500" in found.texts
    assert found.texts.count(SCRIPT) == 1
    assert "0.667" in found.texts  # the precision of B
    assert "script" not in found.tags
    nothing = metrics.evaluate(["new"], ["B"], labels=["B"])
    assert "left out" in nothing._repr_html_()


def test_cross_validation_shows_means_and_types():
    folds = {
        name: metrics.evaluate([SCRIPT, "B", "B"], [SCRIPT, "B", other]) for name, other in (("1", "B"), ("2", SCRIPT))
    }
    pooled = metrics.evaluate([SCRIPT, "B", "B"] * 2, [SCRIPT, "B", "B", SCRIPT, "B", SCRIPT])
    predictions = pd.DataFrame({"fold": [], "predicted": [], "confidence": []})
    result = CrossValidation(folds, pooled, predictions, pd.Series({"1": 0, "2": 0}), 0, pd.Series(dtype=int))
    found = read(result._repr_html_())
    assert "folds: 2, labeled cells: 6, types: 2" in found.texts
    assert f"{(1 + 2 / 3) / 2:.4f}" in found.texts  # the mean accuracy
    assert SCRIPT in found.texts
    assert "script" not in found.tags


class TestModels:
    def test_an_untrained_model_says_so(self, reference, small):
        reference.obs["cell_type"] = reference.obs["cell_type"].replace("NK cell", SCRIPT)
        TransAnno.setup_anndata(reference, "cell_type", batch_key="batch")
        found = read(TransAnno(reference, **small)._repr_html_())
        texts = [text for text in found.texts if text]
        shown = dict(zip(texts[1::2], texts[2::2], strict=True))
        assert shown["cell types"] == f"3 ({SCRIPT}, B cell, T cell)"
        assert (shown["genes"], shown["trained"], shown["calibrated"]) == ("53", "no", "no")
        assert "script" not in found.tags

    def test_a_query_model_says_whose_cells_it_has(self, model, new_batch_query):
        assert "97, of training" in model._repr_html_()
        query_model = TransAnno.load_query_data(new_batch_query, model)
        texts = read(query_model._repr_html_()).texts
        assert "61, of a query" in texts
        assert "3, 2 of them of the reference" in texts

    def test_a_calibrated_model_says_how_it_was_judged(self, make_adata, small, fast):
        adata = make_adata(211)
        TransAnno.setup_anndata(adata, "cell_type", batch_key="batch")
        model = TransAnno(adata, **small)
        split = {"external_indexing": np.split(np.arange(211), [100])}
        model.train(2, plan_kwargs={"lr": 5e-3}, datasplitter_kwargs=split, **fast)
        labels = adata.obs["cell_type"].to_numpy()[100:]
        # The same cells, as a query of their own.
        held_out = TransAnno.load_query_data(adata[100:].copy(), model)
        right = (held_out.predict(key_added=None) == labels).mean()
        confusion = model.calibration_.confusion
        assert confusion.sum() == model.calibration_.n_cells == 111
        assert confusion.sum(axis=1).tolist() == [(labels == name).sum() for name in model.labels]
        assert confusion.trace() / 111 == pytest.approx(right, abs=0.02)
        texts = read(model._repr_html_()).texts
        assert f"{confusion.trace() / 111:.1%}, each by itself" in texts
        assert any(text.startswith("by 111 cells that were held out from training") for text in texts)

    def test_a_pretrained_model_and_one_without_cells(self, pretrained, saved_reference):
        assert "TransAnnoPretrain model" in pretrained._repr_html_()
        assert "cell types" not in pretrained._repr_html_()
        assert "none in memory" in TransAnno.load(saved_reference, False, accelerator="cpu")._repr_html_()

    @pytest.mark.parametrize("cls", [TransAnno, TransAnnoPretrain])
    def test_notebooks_show_it_once(self, cls, model, pretrained, capsys):
        """And do not call what scvi-tools prints."""
        shown = model if cls is TransAnno else pretrained
        bundle = shown._repr_mimebundle_(include=None, exclude=None)
        assert bundle["text/html"] == shown._repr_html_()
        assert bundle["text/plain"].splitlines()[0] == f"{cls.__name__} model"
        assert "genes: 53" in bundle["text/plain"].splitlines()
        assert capsys.readouterr().out == ""


def test_results_and_checks_show_themselves_without_torch():
    code = """
import sys
from transanno import metrics, pp
import anndata, numpy
metrics.evaluate(["a"], ["a"])._repr_html_()
pp.check(anndata.AnnData(numpy.ones((3, 3), dtype="float32")))._repr_html_()
heavy = {"torch", "scvi", "lightning", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
