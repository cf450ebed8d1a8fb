"""Names of genes: of the reference, of raw, with a genome or an id, in columns of any kind; and how many are shared."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from transanno import TransAnno, pp, tl
from transanno.data._gene_ids import best_naming

IDS = [f"ENSG{i:011d}" for i in range(53)]


def scaled(adata):
    x = adata.X.toarray()
    adata.X = (x - x.mean(axis=0)) / (x.std(axis=0) + 1)
    return adata


class TestReferenceColumn:
    @pytest.mark.parametrize(
        ("key", "counts_in", "dtype"), [("feature_name", "X", "category"), ("gene_symbols", "raw", "string")]
    )
    def test_names_of_the_query_are_found_in_the_reference(
        self, key, counts_in, dtype, reference, query, fast, snapshot, changed
    ):
        reference.var[key] = pd.array(list(reference.var_names), dtype="string").astype(dtype)
        reference.var_names = IDS
        if counts_in == "raw":
            reference.raw = reference.copy()
            scaled(reference)
        before = snapshot(reference)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = tl.annotate(query, reference, labels_key="cell_type", max_epochs=1, calibrate=False, **fast)
        told = [str(warning.message) for warning in caught]
        assert sum(f"its column var['{key}'], which holds 53 names of the query" in text for text in told) == 1
        assert model.genes.str.startswith("GENE").all()
        assert changed(before, reference) == set()
        report = pp.check(query, reference, labels_key="cell_type")
        assert report.is_usable
        assert report.n_shared_genes == 53

    def test_symbols_that_two_genes_share_keep_their_ids(self, reference, query, fast):
        reference.var["feature_name"] = [*reference.var_names[:51], "GENE00", None]
        reference.var_names = IDS
        with pytest.warns(UserWarning, match="holds 50 names"):
            model = tl.fit_reference(
                reference, "cell_type", query_genes=query.var_names, max_epochs=1, calibrate=False, **fast
            )
        assert "GENE00" not in model.genes
        assert "GENE01" in model.genes

    def test_a_backed_reference_is_told_what_to_do(self, reference, query, tmp_path):
        reference.var["feature_name"], reference.var_names = list(reference.var_names), IDS
        reference.write_h5ad(tmp_path / "reference.h5ad")
        backed = ad.read_h5ad(tmp_path / "reference.h5ad", backed="r")
        with pytest.raises(ValueError, match=r"reference\.var_names = reference\.var\['feature_name'\]"):
            tl.annotate(query, backed, labels_key="cell_type")
        backed.file.close()

    def test_without_such_a_column_the_advice_can_be_followed(self, reference, query, small, fast):
        reference.var_names = IDS
        TransAnno.setup_anndata(reference, "cell_type")
        model = TransAnno(reference, **small)
        model.train(1, **fast)
        with pytest.raises(
            ValueError, match="gene symbols in the query, Ensembl ids in the model.*mapping=table, fix=True"
        ):
            TransAnno.load_query_data(query, model, accelerator="cpu")
        table = dict(zip(query.var_names, IDS, strict=True))
        fixed = pp.check(query, model, mapping=table, fix=True).adata
        TransAnno.load_query_data(fixed, model, accelerator="cpu")


class TestRawNames:
    @pytest.mark.parametrize("how", ["renamed", "column", "column of ids", "more genes"])
    def test_genes_of_raw_are_named_as_those_of_the_object(self, how, model, query):
        expected = TransAnno.load_query_data(query.copy(), model, accelerator="cpu").adata.X.toarray()
        symbols = list(query.var_names)
        query.var_names = IDS
        query.raw = query.copy()
        if how == "more genes":
            query = query[:, :50].copy()
            symbols = symbols[:50]
        scaled(query)
        if how == "renamed":
            query.var_names = symbols
        elif how == "column":
            query.var["feature_name"] = symbols
        else:
            query.var["gene_ids"], query.var_names = list(query.var_names), symbols
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = TransAnno.load_query_data(query, model, accelerator="cpu")
        assert "raw counts of query.raw are used" in str(caught[0].message)
        n = len(symbols)
        np.testing.assert_array_equal(found.adata.X.toarray()[:, :n], expected[:, :n])

    def test_of_a_reference(self, reference, query, fast):
        symbols = list(reference.var_names)
        reference.var_names = IDS
        reference.raw = reference.copy()
        scaled(reference).var_names = symbols
        with pytest.warns(UserWarning, match=r"reference\.raw are used.*under the names of reference\.var"):
            model = tl.annotate(query, reference, labels_key="cell_type", max_epochs=1, calibrate=False, **fast)
        assert model.genes.str.startswith("GENE").all()

    def test_other_genes_of_the_same_number_are_not_taken_for_these(self, model, query):
        other = query[:, np.random.default_rng(0).permutation(53)].copy()
        other.var_names = IDS
        query.raw = other
        scaled(query)
        with (
            pytest.warns(UserWarning, match=r"query\.raw are used"),
            pytest.raises(ValueError, match="genes the model knows were found"),
        ):
            TransAnno.load_query_data(query, model, accelerator="cpu")


NAMES = {
    "genome": lambda g, i: f"GRCh38_{g}",
    "genome with dashes": lambda g, i: f"hg19-{g}",
    "genome with many lines": lambda g, i: f"GRCh38______{g}",
    "pre-mRNA": lambda g, i: f"GRCh38_premrna-{g}",
    "pre-mRNA in one word": lambda g, i: f"GRCh38premrna_{g}",
    "release": lambda g, i: f"GRCh38-2020-A_{g}",
    "lower case": lambda g, i: f"grch38_{g}",
    "genome behind": lambda g, i: f"{g}-hg38",
    "species": lambda g, i: f"Hs_{g}",
    "symbol and id": lambda g, i: f"{g}_{i}",
    "symbol and id with version": lambda g, i: f"{g}-{i}.12",
    "id and symbol": lambda g, i: f"{i}_{g}",
    "id in brackets": lambda g, i: f"{g} ({i})",
    "symbol and Entrez id": lambda g, i: f"{g}|{int(i[4:]) + 7}",
    "gene:": lambda g, i: f"gene:{g}",
    "white space": lambda g, i: f" {g} ",
}
SYMBOLS = [*(f"GENE{i:02d}" for i in range(47)), "HLA-A", "HLA-DRA", "MT-CO1", "RP11-34P13.7", "C3", "A1BG-AS1"]


class TestAffixes:
    @pytest.mark.parametrize("name", NAMES)
    def test_are_taken_off_on_either_side(self, name):
        spelled = [NAMES[name](symbol, i) for symbol, i in zip(SYMBOLS, IDS, strict=True)]
        assert list(best_naming(pd.DataFrame(index=spelled), pd.Index(SYMBOLS)).names) == SYMBOLS
        assert list(best_naming(pd.DataFrame(index=SYMBOLS), pd.Index(spelled)).names) == spelled

    @pytest.mark.parametrize("name", ["symbol and id", "symbol and id with version", "id and symbol"])
    def test_ids_are_read_where_the_model_has_ids(self, name):
        spelled = [NAMES[name](symbol, i) for symbol, i in zip(SYMBOLS, IDS, strict=True)]
        assert list(best_naming(pd.DataFrame(index=spelled), pd.Index(IDS)).names) == IDS

    @pytest.mark.parametrize("genome", ["GRCh38", "mm10"])
    def test_of_two_species_the_genes_of_one_are_read(self, genome):
        mouse = [symbol.capitalize() for symbol in SYMBOLS]  # C3 is the same in both
        index = [*(f"GRCh38_{symbol}" for symbol in SYMBOLS), *(f"mm10_{symbol}" for symbol in mouse)]
        vocabulary = SYMBOLS if genome == "GRCh38" else mouse
        naming = best_naming(pd.DataFrame(index=index), pd.Index(vocabulary))
        assert naming.n_shared == 53
        assert list(naming.names).count("C3") == 1

    def test_annotate_and_check_say_so(self, model, query):
        query.var_names = [f"GRCh38_{name}" for name in query.var_names]
        with pytest.warns(UserWarning, match="without what programs add to names, such as the name of the genome"):
            found = TransAnno.load_query_data(query, model, accelerator="cpu")
        assert not found.adata.var["is_missing"].any()
        assert pp.check(query, model).n_shared_genes == 53


@pytest.mark.parametrize("odd", [["a", "b"], {"a": 1}, {"a"}, np.arange(2)], ids=["list", "dict", "set", "array"])
def test_columns_of_anything_are_skipped(odd, model, query):
    query.var["alias"] = pd.Series([odd] * 53, index=query.var_names)
    query.var["symbol"] = list(query.var_names)
    query.var_names = IDS
    with pytest.warns(UserWarning, match=r"var\['symbol'\]"):
        TransAnno.load_query_data(query, model, accelerator="cpu")
    assert pp.check(query, model).is_usable


class TestSharedGenes:
    def wide(self, adata):
        """300 genes, of which most are not expressed much."""
        rng = np.random.default_rng(0)
        extra = rng.poisson(0.3, size=(adata.n_obs, 247)).astype("float32")
        wide = type(adata)(sp.csr_matrix(np.hstack([adata.X.toarray(), extra])), obs=adata.obs)
        wide.var_names = [*adata.var_names, *(f"EXTRA{i}" for i in range(247))]
        return wide

    @pytest.mark.parametrize("n", [1, 12, 19])
    def test_one_floor_for_check_and_annotate(self, n, reference, query):
        query = query[:, :n].copy()
        wide = self.wide(reference)
        assert not pp.check(query, wide).is_usable
        with pytest.raises(ValueError, match=f"Only {n} of the 300 genes the reference knows.*at least 20 are needed"):
            tl.annotate(query, wide, labels_key="cell_type")

    @pytest.mark.parametrize("n", [20, 40])
    def test_a_warning_well_above_it(self, n, reference, query, fast):
        query = query[:, :n].copy()
        wide = self.wide(reference)
        report = pp.check(query, wide)
        assert report["gene overlap"].severity == "warning"
        with pytest.warns(UserWarning, match=f"share {n} genes, of 300 of the reference"):
            tl.annotate(query, wide, labels_key="cell_type", max_epochs=1, calibrate=False, **fast)
