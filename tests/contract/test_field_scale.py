"""One verdict on the scale of the data, wherever it is asked for and whatever genes are shared."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from transanno import TransAnno, TransAnnoWarning, pp, tl
from transanno.cli import main

LENGTHS = np.random.default_rng(1).uniform(0.5, 5.0, size=53)


def tpm(adata, total=1e6):
    x = adata.X.toarray().astype(float) / LENGTHS
    adata.X = sp.csr_matrix((x / np.maximum(x.sum(axis=1, keepdims=True), 1e-9) * total).astype("float32"))
    return adata


def logged(adata, decimals=None):
    x = adata.X.toarray().astype(float)
    x = np.log1p(x / np.maximum(x.sum(axis=1, keepdims=True), 1) * 1e4)
    adata.X = sp.csr_matrix((x if decimals is None else np.round(x, decimals)).astype("float32"))
    return adata


def soupx(adata):
    """A quarter of the counts corrected for ambient RNA."""
    rng = np.random.default_rng(0)
    x = adata.X.copy()
    x.data[rng.random(x.nnz) < 0.25] += 0.37
    return x


def texts(function) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    return [str(warning.message) for warning in caught if warning.category is TransAnnoWarning]


class TestTPM:
    @pytest.mark.parametrize("n_genes", [53, 39, 31])
    def test_a_query_is_accepted_whatever_the_model_reads(self, n_genes, reference, query, small, fast):
        chosen = reference[:, :n_genes].copy()
        TransAnno.setup_anndata(chosen, "cell_type")
        model = TransAnno(chosen, **small)
        model.train(1, **fast)
        found = texts(lambda: TransAnno.load_query_data(tpm(query), model, accelerator="cpu"))
        assert len(found) == 1
        assert "query.X looks normalized to 1000000 counts per cell" in found[0]
        assert "accepted as they are, like TPM" in found[0]

    @pytest.mark.parametrize("total", [1e6, 100.0])
    def test_check_setup_and_annotate_agree(self, total, reference, query, fast):
        report = pp.check(tpm(query.copy(), total), reference)
        assert report["scale"].severity == "warning"
        assert report.is_usable
        with pytest.warns(UserWarning, match="like TPM"):
            TransAnno.setup_anndata(tpm(query.copy(), total), "cell_type")
        both = texts(
            lambda: tl.annotate(
                tpm(query, total), tpm(reference, total), labels_key="cell_type", max_epochs=1, calibrate=False, **fast
            )
        )
        assert sorted(text.split()[0] for text in both) == ["query.X", "reference.X"]

    def test_the_logarithm_of_it_is_undone(self, model, query):
        expected = tpm(query.copy())
        query = tpm(query)
        query.X = query.X.log1p()
        before = query.X.copy()
        with pytest.warns(UserWarning, match="the logarithm was undone and the values are used as they are"):
            query_model = TransAnno.load_query_data(query, model, accelerator="cpu")
        np.testing.assert_allclose(query_model.adata.X.toarray(), expected.X.toarray(), rtol=1e-4)
        np.testing.assert_array_equal(query.X.toarray(), before.toarray())
        assert pp.check(query, model).severity == "warning"

    def test_advice_of_setup_can_be_followed(self, query):
        query = tpm(query)
        query.X = query.X.log1p()
        with pytest.raises(ValueError, match=r"looks log1p-normalized.*Without the logarithm, numpy\.expm1\(X\)"):
            TransAnno.setup_anndata(query, "cell_type")
        query.X = np.expm1(query.X)
        with pytest.warns(UserWarning, match="like TPM"):
            TransAnno.setup_anndata(query, "cell_type")

    def test_backed_and_on_the_command_line(self, query, saved_reference, tmp_path, capsys):
        tpm(query).write_h5ad(tmp_path / "query.h5ad")
        model = TransAnno.load(saved_reference, False, accelerator="cpu")
        backed = ad.read_h5ad(tmp_path / "query.h5ad", backed="r")
        assert len(texts(lambda: TransAnno.load_query_data(backed, model, accelerator="cpu"))) == 1
        backed.file.close()
        options = ["--query", str(tmp_path / "query.h5ad"), "--model", str(saved_reference)]
        assert main(["check", *options]) == 0
        assert main(["annotate", *options, "--out", str(tmp_path / "out.h5ad"), "--accelerator", "cpu"]) == 0
        assert capsys.readouterr().err.count("like TPM") == 1


class TestFractionalCounts:
    @pytest.mark.parametrize("where", ["X", "layer", "raw"])
    @pytest.mark.parametrize("side", ["query", "reference"])
    def test_are_used_wherever_counts_are_looked_for(self, where, side, reference, query, fast):
        adata = query if side == "query" else reference
        counts = soupx(adata)
        if where == "X":
            adata.X = counts
        elif where == "layer":
            adata.layers["counts"] = counts
            logged(adata)
        else:
            adata.raw = ad.AnnData(counts, obs=adata.obs[[]], var=adata.var)
            logged(adata)
            adata.X = sp.csr_matrix(adata.X.toarray() - 0.01)
        found = texts(
            lambda: tl.annotate(query, reference, labels_key="cell_type", max_epochs=1, calibrate=False, **fast)
        )
        place = {"X": f"{side}.X", "layer": f'{side}.layers["counts"]', "raw": f"{side}.raw"}[where]
        assert sum(f"{place} holds fractional counts" in text for text in found) == 1
        assert pp.check(adata).is_usable

    def test_named_layer_and_corrected_values_throughout(self, model, query):
        """As of decontX: hardly a whole number is left."""
        query.layers["corrected"] = sp.csr_matrix(
            query.X.toarray() * np.random.default_rng(0).uniform(0.8, 1, (61, 53))
        )
        query.layers["corrected"].data *= 5
        with pytest.warns(UserWarning, match="fractional counts"):
            TransAnno.load_query_data(query, model, layer="corrected", accelerator="cpu")


class TestFewDigits:
    @pytest.mark.parametrize("decimals", [2, 3, 4, 5])
    def test_counts_follow_from_logged_values(self, decimals, model, query):
        expected = query.X.toarray()
        with pytest.warns(UserWarning, match="counts of 61 cells were restored") as caught:
            query_model = TransAnno.load_query_data(logged(query, decimals), model, accelerator="cpu")
        assert (f"stored with {decimals} decimals" in str(caught[0].message)) == (decimals < 5)
        np.testing.assert_array_equal(query_model.adata.X.toarray(), expected)

    def test_of_a_reference(self, reference, query, fast):
        with pytest.warns(UserWarning, match="reference.X .* stored with 3 decimals.*restored"):
            tl.annotate(query, logged(reference, 3), labels_key="cell_type", max_epochs=1, calibrate=False, **fast)

    def test_what_is_too_coarse_is_refused(self, model, query):
        assert not pp.check(logged(query, 1)).is_usable
        with pytest.raises(ValueError, match="looks log1p-normalized"):
            TransAnno.load_query_data(query, model, accelerator="cpu")


class TestPlacesOfCounts:
    @pytest.mark.parametrize("key", ["raw_counts", "decontXcounts", "spliced"])
    def test_another_layer_is_named_and_can_be_passed(self, key, model, query):
        query.layers[key] = query.X.copy()
        query.layers["other"] = query.X.toarray() - 5.5
        query.X = query.X.toarray() - 0.7
        message = rf'query\.X looks scaled.*query\.layers\["{key}"\] holds raw counts: pass layer="{key}"'
        with pytest.raises(ValueError, match=message):
            TransAnno.load_query_data(query, model, accelerator="cpu")
        assert f'pass layer="{key}"' in pp.check(query)["scale"].found
        TransAnno.load_query_data(query, model, layer=key, accelerator="cpu")

    def test_places_that_do_not_exist_are_not_named(self, model, query):
        query.X = query.X.toarray() - 0.7
        with pytest.raises(ValueError, match="query has no other layer and no raw") as error:
            TransAnno.load_query_data(query, model, accelerator="cpu")
        assert "layer=" not in str(error.value)
        query.raw = query.copy()
        query.layers["scaled"] = query.X.copy()
        with pytest.raises(ValueError, match=r"Neither the other layers \('scaled'\) nor raw") as error:
            TransAnno.load_query_data(query, model, accelerator="cpu")
        assert "to_adata" not in str(error.value)

    def test_of_a_named_layer_x_is_named(self, model, query):
        query.layers["scaled"] = query.X.toarray() - 0.7
        with pytest.raises(ValueError, match=r"query\.X holds raw counts: leave layer out"):
            TransAnno.load_query_data(query, model, layer="scaled", accelerator="cpu")


class TestBadValues:
    @pytest.mark.parametrize("dtype", ["float32", "int64"])
    @pytest.mark.parametrize("container", [sp.csr_matrix, np.asarray])
    def test_a_few_negative_counts_are_a_fault_and_the_cure_works(self, dtype, container, model, query):
        query.X = query.X.toarray().astype(dtype)
        query.X[::7, 3] = -1
        query.X = container(query.X)
        with pytest.raises(
            ValueError, match=r"9 of \d+ .* negative.*CellBender 0\.3\.1.*: query\.X\[query\.X < 0\] = 0"
        ):
            TransAnno.load_query_data(query, model, accelerator="cpu")
        assert "CellBender" in pp.check(query)["scale"].found
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            query.X[query.X < 0] = 0
        TransAnno.load_query_data(query, model, accelerator="cpu")

    def test_scaled_values_are_called_so(self, model, query):
        query.X = query.X.toarray() - query.X.toarray().mean(axis=0)
        with pytest.raises(ValueError, match="looks scaled"):
            TransAnno.load_query_data(query, model, accelerator="cpu")

    @pytest.mark.parametrize("container", [sp.csr_matrix, sp.csc_matrix, np.asarray])
    @pytest.mark.parametrize("part", [61, 30])
    def test_genes_of_nan_are_to_be_removed_and_not_cells(self, part, container, model, query):
        x = query.X.toarray()
        x[:part, [2, 5, 9]] = np.nan
        query.X = container(x)
        with pytest.raises(ValueError, match=r"They are in 3 of 53 genes, first 'GENE02', 'GENE05', 'GENE09'") as error:
            TransAnno.load_query_data(query, model, accelerator="cpu")
        message = str(error.value)
        assert "Remove these cells" not in message
        assert ('join="inner"' in message) == (part < 61)
        cure = message[message.index("query[:") : message.index(".copy()") + 7]
        cured = eval(cure, {"query": query, "numpy": np})
        assert cured.n_vars == 50
        TransAnno.load_query_data(cured, model, accelerator="cpu")

    def test_cells_of_nan_are_to_be_removed(self, model, query):
        query.X = query.X.toarray()
        query.X[4, :20] = np.nan
        with pytest.raises(ValueError, match=r"in 1 of 61 cells, first in row\(s\) 4.*Remove these cells"):
            TransAnno.load_query_data(query, model, accelerator="cpu")

    def test_genes_that_are_not_read_do_not_matter_to_either(self, reference, query, small, fast):
        chosen = reference[:, :40].copy()
        TransAnno.setup_anndata(chosen, "cell_type")
        model = TransAnno(chosen, **small)
        model.train(1, **fast)
        query.X = query.X.toarray()
        query.X[:, 45] = np.nan
        TransAnno.load_query_data(query, model, accelerator="cpu")
        assert pp.check(query, model).severity == "warning"
        assert not pp.check(query).is_usable


def test_a_scaled_reference_is_refused_before_anything_is_computed_from_it(reference, query, fast):
    x = reference.X.toarray()
    reference.X = (x - x.mean(axis=0)) / (1 + x.std(axis=0))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # of logarithms of negative numbers
        with pytest.raises(ValueError, match="looks scaled"):
            tl.annotate(query, reference, labels_key="cell_type", **fast)
