"""Queries in another form than a model wants: repaired in a copy if that is certain, with one line that says so."""

from __future__ import annotations

import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

from transanno import TransAnno, TransAnnoWarning, pp, tl

DATA = Path(os.environ.get("TRANSANNO_DATA", Path(__file__).parents[3] / "shared" / "data"))


def log_normalize(adata: ad.AnnData, target: float | None = 1e4, base: float | None = None) -> ad.AnnData:
    adata = adata.copy()
    sc.pp.normalize_total(adata, target_sum=target)
    sc.pp.log1p(adata, base=base)
    return adata


def probabilities(model, adata=None):
    return model.predict(adata, soft=True, key_added=None)


def ours(caught) -> list[str]:
    """Texts of our warnings, without those of libraries, which filters cannot stop here."""
    return [str(warning.message) for warning in caught if issubclass(warning.category, TransAnnoWarning)]


class TestValues:
    """Complaints 11, 13, 15, 16, 17, 24, 44, 48."""

    @pytest.mark.parametrize("container", [sp.csr_matrix, sp.csc_matrix, np.asarray])
    @pytest.mark.parametrize(
        ("target", "base"), [(1e4, None), (1e6, 2), (None, None)], ids=["CP10k", "log2 CPM", "median"]
    )
    def test_logged_queries_are_predicted_as_their_counts(
        self, target, base, container, model, query, snapshot, changed
    ):
        expected = probabilities(model, query)
        logged = log_normalize(query, target, base)
        logged.X = container(logged.X.toarray())
        before = snapshot(logged)
        with pytest.warns(UserWarning, match="counts of 61 cells were restored") as caught:
            query_model = TransAnno.load_query_data(logged, model)
        told = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
        assert sum("restored" in text for text in told) == 1  # scvi-tools 1.5 warns of other things, too
        assert "Your object is as it was" in next(text for text in told if "restored" in text)
        pd.testing.assert_frame_equal(probabilities(query_model), expected, check_exact=False, atol=1e-6)
        with pytest.warns(UserWarning, match="restored"):
            np.testing.assert_allclose(probabilities(model, logged), expected, atol=1e-6)
        assert changed(before, logged) == set()
        query_model.predict()
        assert changed(before, logged) == {"obs[transanno]", "obs[transanno_confidence]"}

    def test_doubly_logged_backed_files(self, model, query, tmp_path):
        expected = probabilities(model, query)
        logged = log_normalize(query)
        logged.X = logged.X.log1p()
        logged.write_h5ad(tmp_path / "query.h5ad")
        backed = ad.read_h5ad(tmp_path / "query.h5ad", backed="r")
        with pytest.warns(UserWarning, match="log1p taken twice"):
            np.testing.assert_allclose(probabilities(TransAnno.load_query_data(backed, model)), expected, atol=1e-6)
        backed.file.close()

    def test_genes_that_the_model_lacks_help_to_restore(self, model, query):
        """The unit of a cell is found over all genes that were measured, not over those of the model."""
        extra = query.copy()
        extra.X = sp.csr_matrix(2 * query.X.toarray())
        helper = ad.AnnData(sp.csr_matrix(np.ones((61, 1), dtype="float32")), obs=query.obs[[]])
        helper.var_names = ["EXTRA"]
        both = ad.concat([extra, helper], axis=1, merge="first")
        with pytest.warns(UserWarning, match="restored"):
            query_model = TransAnno.load_query_data(log_normalize(both), model)
        np.testing.assert_array_equal(query_model.adata.X.toarray(), extra.X.toarray())

    def test_values_that_cannot_be_restored_are_refused(self, model, query):
        # Of each cell another part, so that cells share no total.
        corrected = query.X.toarray() * np.random.default_rng(0).uniform(0.3, 3.0, size=query.shape)
        query.X = sp.csr_matrix(corrected.astype("float32"))
        for spoiled in (log_normalize(query), query):
            spoiled.X = spoiled.X.toarray()
            spoiled.X[0, 0] = -1
            with pytest.raises(ValueError, match="looks scaled.*raw counts"):
                TransAnno.load_query_data(spoiled, model)
        with pytest.raises(ValueError, match="looks log1p-normalized"):
            query.X = np.log1p(np.abs(query.X))
            TransAnno.load_query_data(query, model)

    def test_counts_of_some_and_logarithms_of_others_are_refused(self, model, query):
        mixed = ad.concat([query[:30], log_normalize(query)[30:]])
        with pytest.raises(ValueError, match="whole numbers in some cells and fractions in others"):
            TransAnno.load_query_data(mixed, model)

    def test_annotate_repairs_query_and_reference(self, query, reference, fast):
        arguments = {"labels_key": "cell_type", "max_epochs": 2, **fast}
        tl.annotate(query, reference, **arguments)
        expected = query.obs.pop("transanno_confidence")
        logged = log_normalize(query)
        with pytest.warns(UserWarning) as caught:
            tl.annotate(logged, log_normalize(reference), **arguments)
        assert [message.split(".X")[0] for message in ours(caught)] == ["reference", "query"]
        np.testing.assert_array_equal(logged.obs["transanno_confidence"], expected)

    def test_mudata(self, make_mdata, small, fast):
        TransAnno.setup_mudata(reference := make_mdata(), "cell_type", modalities={"rna_layer": "rna"})
        model = TransAnno(reference, **small)
        model.train(1, **fast)
        query = make_mdata(61, seed=1)
        expected = probabilities(model, query)
        query["rna"].X = log_normalize(query["rna"]).X
        with pytest.warns(UserWarning, match="restored"):
            np.testing.assert_allclose(probabilities(model, query), expected, atol=1e-6)


class TestGenes:
    """Complaints 14, 18, 19, 20, 22, 23, 25, 26."""

    @pytest.mark.parametrize("how", ["column", "versions", "case"])
    def test_genes_are_found_under_other_names(self, how, reference, query, small, fast, snapshot, changed):
        if how == "versions":
            reference.var_names = [f"ENSG{i:011d}" for i in range(53)]
        TransAnno.setup_anndata(reference, "cell_type")
        model = TransAnno(reference, **small)
        model.train(1, **fast)
        query.var_names = reference.var_names
        expected = probabilities(model, query)
        if how == "column":
            query.var["feature_name"] = pd.Categorical(query.var_names)
            query.var_names = [f"ENSG{i:011d}" for i in range(53)]
        elif how == "versions":
            query.var_names = [f"{name}.{i % 7}" for i, name in enumerate(query.var_names)]
        else:
            query.var_names = [name.capitalize() for name in query.var_names]
        query = query[:, ::-1].copy()
        before = snapshot(query)
        match = {"column": r"var\['feature_name'\]", "versions": "without the version", "case": "another species, or"}
        with pytest.warns(UserWarning, match=match[how]) as caught:
            query_model = TransAnno.load_query_data(query, model)
        assert len(caught) == 1
        np.testing.assert_allclose(probabilities(query_model), expected, atol=1e-6)
        assert changed(before, query) == set()

    def test_a_reference_is_matched_by_the_same_names(self, query, reference, fast):
        query.var["symbol"], query.var_names = list(query.var_names), [f"ENSG{i:011d}" for i in range(53)]
        with pytest.warns(UserWarning, match=r"var\['symbol'\]") as caught:
            model = tl.annotate(query, reference, labels_key="cell_type", max_epochs=1, **fast)
        assert len(ours(caught)) == 1
        assert not model._registered_cells().is_missing.any()

    def test_a_protein_of_the_same_name_is_not_summed_with_its_gene(self, model, query):
        expected = probabilities(model, query)
        proteins = ad.AnnData(np.full((61, 2), 500, dtype="float32"), obs=query.obs[[]])
        proteins.var_names, proteins.var["feature_types"] = ["GENE07", "HTO"], "Antibody Capture"
        query.var["feature_types"] = "Gene Expression"
        with pytest.warns(UserWarning, match="names are not unique"):
            both = ad.concat([query, proteins], axis=1, merge="first")
        with pytest.warns(UserWarning, match=r"1 of them are called like a gene \(GENE07\). None of them is used"):
            found = probabilities(TransAnno.load_query_data(both, model))
        np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_features_that_clash_with_nothing_are_not_worth_a_warning(self, model, query):
        expected = probabilities(model, query)
        proteins = ad.AnnData(np.full((61, 1), 500, dtype="float32"), obs=query.obs[[]])
        proteins.var_names = ["ADT_CD4"]
        both = ad.concat([query, proteins], axis=1, merge="first")
        np.testing.assert_allclose(probabilities(TransAnno.load_query_data(both, model)), expected, atol=1e-6)

    def test_a_model_of_proteins_is_given_proteins(self, reference, query, small, fast):
        for adata in (reference, query):
            adata.var_names = [*adata.var_names[:50], "ADT_CD3", "ADT_CD4", "HTO1"]
        TransAnno.setup_anndata(reference, "cell_type")
        model = TransAnno(reference, **small)
        model.train(1, **fast)
        assert not TransAnno.load_query_data(query, model)._registered_cells().is_missing.any()
        assert pp.check(query, model, fix=True).adata.n_vars == 53

    def test_proteins_of_a_reference_are_no_genes_of_the_model(self, reference, fast):
        proteins = ad.AnnData(np.random.default_rng(0).poisson(50, (97, 2)).astype("float32"), obs=reference.obs[[]])
        proteins.var_names = ["ADT_CD4", "HTO1"]
        both = ad.concat([reference, proteins], axis=1, merge="first")
        model = tl.fit_reference(both, "cell_type", max_epochs=1, **fast)
        assert not model.genes.isin(proteins.var_names).any()

    def test_a_model_of_another_species_warns(self, reference, query, small, fast):
        """Complaint 18: upper-cased mouse symbols match a human model, and mean something else."""
        reference.var_names = [*reference.var_names[:45], *(f"LINC0{i}" for i in range(8))]
        query.var_names = [*query.var_names[:45], *(f"GM{1000 + i}" for i in range(8))]
        TransAnno.setup_anndata(reference, "cell_type")
        model = TransAnno(reference, **small)
        model.train(1, **fast)
        with pytest.warns(UserWarning, match="look like mouse .* those of the model like human"):
            TransAnno.load_query_data(query, model)


@pytest.mark.skipif(not (DATA / "human_pbmc3k_10x.h5ad").exists(), reason="needs the published data sets")
@pytest.mark.parametrize(("target", "base", "twice"), [(1e4, None, False), (1e4, None, True), (1e6, 2, False)])
def test_published_counts_are_restored_bit_by_bit(target, base, twice):
    adata = ad.read_h5ad(DATA / "human_pbmc3k_10x.h5ad")[::5].copy()
    adata.X = sp.csr_matrix(adata.X, dtype="float32")
    logged = log_normalize(adata, target, base)
    if twice:
        logged.X = logged.X.log1p()
    report = pp.check(logged, fix=True)
    assert report.restored
    assert not report.is_inexact.any()
    np.testing.assert_array_equal(report.adata.X.toarray(), adata.X.toarray())
