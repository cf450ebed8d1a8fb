"""A report says what is known, a sentence where something is missing, and changes nothing; conformance of the page itself."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import anndata as ad
import matplotlib
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

from transanno import TransAnno, tl
from transanno.cli import main
from transanno.data._files import write_h5ad
from transanno.report import _umap

SCRIPT, DOLLARS = "<script>alert('T')</script>", "NK $\\beta$ & €, “naïve”"
SECTIONS = ["what", "preflight", "composition", "umap", "types", "confusions", "unknown", "settings"]
_VOID = {"meta", "img", "br"}


@dataclass
class Section:
    text: str = ""
    rows: list[list[str]] = field(default_factory=list)
    images: list[str] = field(default_factory=list)


class Page(HTMLParser):
    """A page by its sections, if it is well-formed and loads nothing."""

    def __init__(self, path: Path | str) -> None:
        super().__init__()
        self.sections: dict[str, Section] = {"": Section()}
        self._open: list[str] = []
        self._names: list[str] = [""]
        self.feed(Path(path).read_text(encoding="utf-8"))
        self.close()
        assert self._open == []

    @property
    def _section(self) -> Section:
        return self.sections[self._names[-1]]

    def handle_starttag(self, tag, attrs) -> None:
        given = dict(attrs)
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        assert not {name for name in given if name.startswith("on")}
        assert given.get("href", "#").startswith("#")
        if "src" in given:
            assert given["src"].startswith("data:image/png;base64,")
            assert given["alt"]
            self._section.images.append(given["src"])
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "section":
            self._names.append(given["id"])
            self.sections[given["id"]] = Section()
        if tag == "tr":
            self._section.rows.append([])
        if tag in ("th", "td"):
            self._section.rows[-1].append("")

    def handle_endtag(self, tag) -> None:
        assert self._open.pop() == tag
        if tag == "section":
            self._names.pop()

    def handle_data(self, data) -> None:
        if "style" in self._open:
            assert "url(" not in data
            assert "@import" not in data
            return
        self._section.text += data
        if self._open and {"th", "td"} & set(self._open):
            self._section.rows[-1][-1] += data

    def table(self, name: str) -> dict[str, list[str]]:
        """-> rows of a section by their first cell, the last table winning."""
        return {row[0]: row[1:] for row in self.sections[name].rows}


def quiet(**kwargs):
    return {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False, **kwargs}


@pytest.fixture(scope="module")
def folder(make_adata, start_afresh, tmp_path_factory) -> Path:
    """Of a calibrated model of three types with difficult names."""
    start_afresh()
    reference = make_adata(331, seed=5)
    reference.obs["cell_type"] = reference.obs["cell_type"].replace({"B cell": SCRIPT, "NK cell": DOLLARS})
    path = tmp_path_factory.mktemp("report") / "model"
    tl.fit_reference(reference, "cell_type", batch_key="batch", n_top_genes=41, **quiet()).save(path)
    return path


@pytest.fixture
def cells(make_adata) -> ad.AnnData:
    """89 cells like the reference's, and 31 of a type that it lacks; with coordinates, which take long to compute."""
    query, rng = make_adata(120, seed=1), np.random.default_rng(1)
    counts, is_new = query.X.toarray(), np.arange(120) >= 89
    counts[is_new] = rng.poisson(rng.gamma(0.1, 90.0, size=53), size=(31, 53))
    query.X = sp.csr_matrix(counts)
    query.obsm["X_umap"] = rng.normal(size=(120, 2)).astype("float32")
    return query


@pytest.fixture
def annotated(cells, folder) -> tuple[ad.AnnData, TransAnno]:
    return cells, tl.annotate(cells, model=folder, fdr=0.2, accelerator="cpu")


@pytest.fixture(autouse=True)
def _somewhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


class TestContent:
    def test_says_what_was_annotated_and_how_far_to_trust_it(self, annotated, folder, tmp_path):
        query, model = annotated
        path = tl.report(query, model, title=SCRIPT)
        assert path == Path("report.html")
        page = Page(path)
        assert list(page.sections) == ["", *SECTIONS]
        assert SCRIPT in page.sections[""].text

        calls = query.obs["transanno"].astype(str)
        n_cells = calls.value_counts()
        assert {SCRIPT, DOLLARS, "Unknown"} <= set(n_cells.index)
        composition = page.table("composition")
        assert {name: int(row[0]) for name, row in composition.items() if name != "type"} == n_cells.to_dict()
        assert list(composition)[-1] == "Unknown"
        assert composition[SCRIPT][1] == f"{n_cells[SCRIPT] / 120:.1%}"

        confidence = query.obs["transanno_confidence"]
        by_type = page.table("types")
        for name in n_cells.index:
            own = confidence[calls == name]
            expected = [
                f"{n_cells[name]}",
                f"{n_cells[name] / 120:.1%}",
                f"{own.mean():.2f}",
                f"{(own < 0.5).mean():.1%}",
            ]
            assert by_type[name][:4] == expected
        assert by_type["Unknown"][4] == "–"

        facts = page.table("what")
        assert facts["Cells"] == ["120 cells × 53 features, an object in memory"]
        assert facts["Genes matched"] == ["41 of the 41 of the model (100%)"]
        assert facts["Model"] == ["TransAnno, 3 cell types, 41 genes, an object in memory"]
        assert page.table("preflight")["gene overlap"][0].strip() == "ok"
        assert "duplicated cells" not in page.table("preflight")  # the model holds the query itself
        assert len(page.sections["umap"].images) == 3

    def test_genes_that_decided_are_those_of_the_attributions(self, annotated):
        query, model = annotated
        tl.report(query, model)
        table = Page("report.html").table("types")
        calls = query.obs["transanno"].astype(str).to_numpy()
        rows_of = {name: np.flatnonzero(calls == name)[:50] for name in (SCRIPT, DOLLARS)}
        expected = {
            name: model.get_gene_attributions(query, indices=rows, groupby=calls[rows], label=name).loc[name]
            for name, rows in rows_of.items()
        }
        sc.pp.normalize_total(query, target_sum=1e4)
        sc.pp.log1p(query)
        usual = pd.Series(model.module.mean_expression.numpy()[model._is_gene], model.genes)
        n_less = 0
        for name, rows in rows_of.items():
            shown = table[name][4].split(", ")
            genes = [gene.removeprefix("little ") for gene in shown]
            assert genes == expected[name].nlargest(6).index.tolist()
            has_less = query[rows, genes].X.toarray().mean(axis=0) < usual[genes]
            assert [gene.startswith("little ") for gene in shown] == has_less.tolist()
            n_less += has_less.sum()
        assert 0 < n_less < 12

    def test_confusions_are_those_of_held_out_cells(self, annotated):
        query, model = annotated
        tl.report(query, model)
        matrix = pd.DataFrame(model.calibration_.confusion, model.labels, model.labels)
        shown = Page("report.html").table("confusions")
        for name in set(query.obs["transanno"].astype(str)) - {"Unknown"}:
            column = matrix[name]
            assert shown[name][:2] == [f"{column.sum()}", f"{column[name] / column.sum():.0%}" if column.sum() else "–"]
            others = column.drop(name)
            assert all(f"{other} ({n / column.sum():.0%})" in shown[name][2] for other, n in others.items() if n)
        assert "Unknown" not in shown

    def test_groups_of_unknown_cells_have_their_markers(self, annotated):
        query, model = annotated
        tl.report(query, model)
        (group,) = query.uns["transanno_groups"].itertuples()
        n_cells, nearest, markers = Page("report.html").table("unknown")[group.group]
        assert (int(n_cells), markers) == (group.n_cells, group.markers)
        assert nearest == f"{group.nearest_type} ({group.share_nearest:.0%})"

    def test_its_lines_annotate_the_cells_again(self, annotated, folder):
        query, _ = annotated
        model = TransAnno.load_query_data(query, folder, accelerator="cpu", unseen_labels="mask")
        model.predict(refine=True, unassigned_threshold=0.6, fdr=0.2, sets=True, key_added="found")
        tl.report(query, model, key_added="found")
        code = re.search(r"import anndata.*", Page("report.html").sections["settings"].text, re.DOTALL)[0].split(
            "\n\n\n"
        )[0]
        code = code[: code.index(")\n", code.index("model.predict")) + 1]
        ad.AnnData(query.X, obs=query.obs[["batch"]], var=query.var).write_h5ad("query.h5ad")
        os.symlink(folder, "model")
        namespace: dict = {}
        exec(code, namespace)
        again = namespace["query"]
        assert (again.obs["found"].astype(str) == query.obs["found"].astype(str)).all()
        np.testing.assert_allclose(again.obs["found_confidence"], query.obs["found_confidence"], atol=1e-6)
        assert again.obs["found_set"].notna().all()

    def test_only_so_many_cells_are_shown(self, annotated, monkeypatch):
        monkeypatch.setattr(_umap, "_MAX_CELLS", 23)
        tl.report(*annotated)
        assert "23 of the 120 cells are shown, evenly spread" in Page("report.html").sections["umap"].text

    def test_colors_are_those_of_other_plots(self, annotated):
        query, model = annotated
        names = query.obs["transanno"].cat.categories
        query.uns["transanno_colors"] = ["#010203", "red", 'url("x")', "#0a0b0c"][: len(names)]
        tl.report(query, model)
        text = Path("report.html").read_text(encoding="utf-8")
        for color in ("#010203", "#ff0000"):
            assert f"background: {color}" in text
        assert "url(" not in text

    def test_a_folder_is_as_good_as_the_model(self, annotated, folder):
        query, model = annotated
        tl.report(query, model, save="a.html")
        tl.report(query, folder, save="b.html")
        tl.report(query, TransAnno.load(folder, False, accelerator="cpu"), save="c.html")
        pages = [Page(f"{name}.html") for name in "abc"]
        for section in ("preflight", "composition", "types", "confusions", "unknown"):
            assert len({page.sections[section].text for page in pages}) == 1
        assert str(folder) in pages[1].sections["what"].text
        assert "not known here" in pages[1].sections["settings"].text
        assert "fdr=0.2" in pages[0].sections["settings"].text


class TestMissing:
    def test_without_a_model(self, annotated):
        tl.report(annotated[0])
        page = Page("report.html")
        assert list(page.sections) == ["", *SECTIONS]
        assert "not given" in page.table("what")["Model"][0]
        assert page.table("preflight")["scale"][0].strip() == "ok"
        assert {row[4] for name, row in page.table("types").items() if name != "type"} == {"–"}
        for section in ("types", "confusions", "settings"):
            assert "No model was given" in page.sections[section].text

    def test_without_fdr(self, cells, folder):
        model = tl.annotate(cells, model=folder, accelerator="cpu")
        tl.report(cells, model)
        page = Page("report.html")
        assert "Cells unlike the reference were not looked for" in page.sections["unknown"].text
        assert len(page.sections["umap"].images) == 2

    def test_without_unknown_cells(self, query, folder):
        model = tl.annotate(query, model=folder, fdr=0.05, accelerator="cpu")
        query.obsm["X_umap"] = np.zeros((query.n_obs, 2))
        assert "Unknown" not in set(query.obs["transanno"])
        tl.report(query, model)
        assert "No cell is called Unknown." in Page("report.html").sections["unknown"].text

    def test_unknown_cells_that_are_not_alike(self, annotated):
        query, model = annotated
        query.uns["transanno_groups"] = query.uns["transanno_groups"][:0]
        tl.report(query, model)
        assert "no ten of which are alike" in Page("report.html").sections["unknown"].text
        del query.uns["transanno_groups"]
        tl.report(query, model)
        assert "there is no table of groups" in Page("report.html").sections["unknown"].text

    def test_without_calibration(self, query, saved_reference):
        query.obsm["X_umap"] = np.zeros((query.n_obs, 2))
        model = tl.annotate(query, model=saved_reference, accelerator="cpu")
        tl.report(query, model)
        page = Page("report.html")
        assert page.table("what")["Calibrated"] == ["no"]
        assert "not judged by cells that were held out" in page.sections["confusions"].text

    def test_one_type_and_few_cells(self, cells, folder):
        few = cells[cells.obs["cell_type"] == "T cell"][:7].copy()
        del few.obsm["X_umap"]
        model = tl.annotate(few, model=folder, accelerator="cpu")
        few.obs["transanno"] = pd.Categorical(["T cell"] * 6 + [None])
        few.obs["transanno_confidence"] = [0.4] * 3 + [0.9] * 3 + [np.nan]
        tl.report(few, model)
        page = Page("report.html")
        assert page.table("types")["T cell"][:4] == ["6", "85.7%", "0.65", "50.0%"]
        assert "No UMAP was drawn: the query has 7 cells" in page.sections["umap"].text
        assert "1 cells have none" in page.table("what")["Predictions"][0]

    def test_without_counts(self, annotated, folder):
        query, _ = annotated
        bare = ad.AnnData(obs=query.obs, uns=query.uns, obsm={"X_umap": query.obsm["X_umap"]})
        tl.report(bare, folder)
        page = Page("report.html")
        assert "There was no look at the values. adata has 120 cells and 0 genes" in page.sections["preflight"].text
        assert "counts are not as the model needs them. query has 120 cells and 0 genes" in page.sections["types"].text
        assert len(page.sections["umap"].images) == 3
        assert page.table("confusions")[SCRIPT]
        del bare.obsm["X_umap"]
        tl.report(bare)
        assert "obsm has neither 'X_umap' nor 'X_transanno'" in Page("report.html").sections["umap"].text

    def test_a_vote_has_no_confidence(self, annotated):
        query, model = annotated
        query.obs["leiden"] = np.where(np.arange(120) % 2, "a", "b")
        tl.vote(query)
        tl.report(query, model, key_added="transanno_vote")
        page = Page("report.html")
        assert page.table("types")["T cell"][2:4] == ["–", "–"]
        assert len(page.sections["umap"].images) == 1


class TestOtherData:
    def test_states_of_the_model_are_placed_where_there_are_no_coordinates(self, cells, folder):
        """Twice the same, and nothing is left in the object."""
        del cells.obsm["X_umap"]
        model = tl.annotate(cells, model=folder, accelerator="cpu")
        tl.report(cells, model, save="a.html")
        del cells.obsm["X_transanno"]
        tl.report(cells, model, save="b.html")
        images = [Page(f"{name}.html").sections["umap"].images for name in "ab"]
        assert images[0] == images[1]
        assert set(cells.obsm) == set()

    @pytest.mark.parametrize("is_large", [False, True], ids=["small", "large"])
    def test_cells_on_disk(self, cells, folder, is_large, monkeypatch):
        tl.annotate(cells, model=folder, fdr=0.2, accelerator="cpu")
        tl.report(cells, folder, save="memory.html")
        if is_large:
            monkeypatch.setattr("transanno.data._counts.MAX_IN_MEMORY", 0)
        cells.write_h5ad("query.h5ad")
        backed = ad.read_h5ad("query.h5ad", backed="r")
        model = tl.annotate(backed, model=folder, fdr=0.2, accelerator="cpu")
        tl.report(backed, model, save="disk.html")
        memory, disk = (Page(f"{name}.html") for name in ("memory", "disk"))
        for section in ("preflight", "composition", "types", "confusions", "unknown"):
            assert memory.sections[section].text == disk.sections[section].text
        assert "query.h5ad" in disk.table("what")["Cells"][0]
        assert "query.h5ad" in disk.sections["settings"].text

    def test_mudata(self, make_mdata, small, fast):
        reference, query = make_mdata(), make_mdata(61, seed=1)
        TransAnno.setup_mudata(reference, "cell_type", batch_key="batch", modalities={"rna_layer": "rna"})
        model = TransAnno(reference, **small)
        model.train(2, **fast)
        model = TransAnno.load_query_data(query, model)
        model.predict()
        query.obsm["X_umap"] = np.zeros((61, 2))
        tl.report(query, model)
        page = Page("report.html")
        assert page.table("preflight")["gene overlap"][0].strip() == "ok"
        assert page.table("types")["T cell"][4] != "–"
        tl.report(query)
        assert "which modality holds the counts" in Page("report.html").sections["preflight"].text

    def test_counts_in_a_layer(self, cells, folder):
        cells.layers["raw"] = cells.X
        cells.X = sp.csr_matrix(np.log1p(cells.X.toarray() / 7))
        model = tl.annotate(cells, model=folder, layer="raw", accelerator="cpu")
        tl.report(cells, model)
        page = Page("report.html")
        assert 'adata.layers["raw"] holds raw counts' in page.table("preflight")["scale"][1]
        assert page.table("settings")["layer"] == ["'raw'"]


class TestNothingIsChanged:
    def test_neither_cells_nor_settings(self, annotated, snapshot, changed):
        query, model = annotated
        del query.obsm["X_umap"]
        before, settings = snapshot(query), dict(matplotlib.rcParams)
        state = np.random.get_state()[1].tolist()
        tl.report(query, model)
        tl.report(query)
        assert changed(before, query) == set()
        assert dict(matplotlib.rcParams) == settings
        assert np.random.get_state()[1].tolist() == state

    def test_a_file_that_is_there_is_replaced_whole_or_not_at_all(self, annotated, monkeypatch):
        Path("report.html").write_text("earlier")
        monkeypatch.setattr(
            "transanno.report._page.render", lambda *args, **kwargs: "\ud800"
        )  # which cannot be written
        with pytest.raises(UnicodeEncodeError):
            tl.report(*annotated)
        assert Path("report.html").read_text() == "earlier"
        assert os.listdir() == ["report.html"]


class TestMistakes:
    def test_are_explained(self, annotated, folder, saved_reference):
        query, model = annotated
        with pytest.raises(ValueError, match="does not end in .html"):
            tl.report(query, model, save="report.pdf")
        with pytest.raises(KeyError, match="'found' is not a column of adata.obs"):
            tl.report(query, model, key_added="found")
        with pytest.raises(ValueError, match="types that the model does not know: .*NK"):
            tl.report(query, saved_reference)
        with pytest.raises(TypeError, match="adata is a dict"):
            tl.report({}, model)
        with pytest.raises(TypeError, match="model is a AnnData"):
            tl.report(query, query)
        query.obs["transanno"] = None
        with pytest.raises(ValueError, match="holds no predictions"):
            tl.report(query, model)
        assert os.listdir() == []


class TestCommand:
    @pytest.fixture
    def files(self, cells, make_adata) -> None:
        write_h5ad(cells, "query.h5ad")
        write_h5ad(make_adata(211), "reference.h5ad")

    def arguments(self, *more: str) -> list[str]:
        given = [
            "--reference",
            "reference.h5ad",
            "--query",
            "query.h5ad",
            "--labels-key",
            "cell_type",
            "--out",
            "out.h5ad",
        ]
        return ["annotate", *given, "--max-epochs", "2", "--accelerator", "cpu", *more]

    def test_writes_what_the_function_does(self, files, capsys):
        assert main(self.arguments("--report", "new/report.html", "--fdr", "0.2", "--save-model", "model")) == 0
        assert "Wrote new/report.html" in capsys.readouterr().err
        page = Page("new/report.html")
        assert page.table("what")["Cells"] == ["120 cells × 53 features, query.h5ad"]
        assert page.table("what")["Model"][0].endswith("reference.h5ad")
        assert "transanno annotate --reference reference.h5ad --query query.h5ad" in page.sections["settings"].text
        assert page.table("settings")["fdr"] == ["0.2"]
        tl.report(ad.read_h5ad("out.h5ad"), "model", save="report.html")
        for section in ("preflight", "composition", "types", "confusions", "unknown"):
            assert page.sections[section].text == Page("report.html").sections[section].text

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("report.pdf", "--report=report.pdf does not end in .html"),
            ("query.h5ad/report.html", "is a file, where a folder is needed"),
            ("folder.html", "--report=folder.html is a folder"),
        ],
    )
    def test_finds_before_training_what_could_not_be_written(self, files, path, expected, capsys):
        Path("folder.html").mkdir()
        assert main(self.arguments("--report", path)) == 2
        err = capsys.readouterr().err
        assert expected in err
        assert "Reading" not in err
        assert not Path("out.h5ad").exists()

    def test_a_large_query_stays_on_disk(self, files, folder, monkeypatch, capsys):
        arguments = ["annotate", "--model", str(folder), "--query", "query.h5ad", "--out", "out.h5ad", "--quiet"]
        assert main([*arguments, "--report", "memory.html"]) == 0
        monkeypatch.setattr("transanno.data._counts.MAX_IN_MEMORY", 0)
        assert main([*arguments, "--report", "disk.html"]) == 0
        memory, disk = (Page(f"{name}.html") for name in ("memory", "disk"))
        for section in ("preflight", "composition", "types", "confusions"):
            assert memory.sections[section].text == disk.sections[section].text
