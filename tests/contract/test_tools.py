"""``transanno.tl``: one call from reference and query to cell types."""

from __future__ import annotations

import os
import random

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
import scvi
import torch

from transanno import TransAnno, tl


@pytest.fixture
def brief(fast):
    """Arguments of a run of some epochs; the architecture is the default one."""
    return {**fast, "max_epochs": 1, "plan_kwargs": {"lr": 5e-3}}


class TestAnnotate:
    def test_writes_labels_confidence_and_cell_states(self, reference, query, brief, snapshot, changed):
        before, before_query = snapshot(reference), snapshot(query)
        model = tl.annotate(query, reference, labels_key="cell_type", batch_key="batch", **brief)
        assert changed(before, reference) == set()
        assert changed(before_query, query) == {"obs[transanno]", "obs[transanno_confidence]", "obsm[X_transanno]"}
        assert (query.obs["transanno"] == query.obs["cell_type"]).mean() > 0.9
        assert query.obs["transanno_confidence"].between(0, 1).all()
        assert query.obsm["X_transanno"].shape == (61, model.module.n_latent)
        np.testing.assert_array_equal(model.get_latent_representation(), query.obsm["X_transanno"])

    def test_key_added(self, model, query, snapshot, changed):
        before = snapshot(query)
        tl.annotate(query, model=model, key_added="mine")
        assert changed(before, query) == {"obs[mine]", "obs[mine_confidence]", "obsm[X_transanno]"}

    def test_a_rate_adds_novelty_and_groups(self, reference, query, brief, snapshot, changed):
        expected = query.copy()
        tl.annotate(expected, reference, labels_key="cell_type", batch_key="batch", **brief)
        before = snapshot(expected)
        model = tl.annotate(query, reference, labels_key="cell_type", batch_key="batch", fdr=0.1, **brief)
        assert changed(before, query) == {"obs[transanno_novelty]", "obs[transanno_group]", "uns"}
        assert list(query.uns) == ["transanno_groups"]
        again = model.predict(query, fdr=0.1, refine=True, key_added="again")
        np.testing.assert_array_equal(again, query.obs["transanno"].astype(str))
        np.testing.assert_allclose(query.obs["again_novelty"], query.obs["transanno_novelty"], atol=1e-6)

    @pytest.mark.parametrize("as_type", [str, lambda path: path], ids=["str", "Path"])
    def test_model_in_a_folder(self, as_type, model, saved_reference, query):
        expected = TransAnno.load_query_data(query, model).predict(soft=True, refine=True, key_added=None)
        tl.annotate(query, model=as_type(saved_reference))
        np.testing.assert_allclose(query.obs["transanno_confidence"], expected.max(axis=1), atol=1e-6)
        assert list(query.obs["transanno"]) == list(expected.columns[expected.to_numpy().argmax(axis=1)])

    def test_refinement_can_be_switched_off(self, model, query):
        expected = model.predict(query, soft=True, key_added=None)
        tl.annotate(query, model=model, refine=False)
        np.testing.assert_allclose(query.obs["transanno_confidence"], expected.max(axis=1), atol=1e-6)

    def test_same_seed_gives_the_same_annotation(self, make_adata, brief):
        found = []
        for seed in (3, 3, 4):
            query = make_adata(61, seed=1)
            tl.annotate(query, make_adata(), labels_key="cell_type", seed=seed, **brief)
            found.append((query.obs["transanno_confidence"].to_numpy(), query.obsm["X_transanno"]))
            np.random.random(7)
            torch.rand(5)
        np.testing.assert_array_equal(found[0][0], found[1][0])
        np.testing.assert_array_equal(found[0][1], found[1][1])
        assert not np.array_equal(found[0][1], found[2][1])

    def test_the_sessions_randomness_is_left_alone(self, reference, query, brief):
        scvi.settings.seed = 17
        states = random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()
        flags = os.environ.get("XLA_FLAGS")  # to which scvi-tools adds at every seed
        tl.annotate(query, reference, labels_key="cell_type", **brief)
        assert scvi.settings.seed == 17
        assert os.environ.get("XLA_FLAGS") == flags
        after = random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()
        assert after == states

    def test_query_without_any_column(self, reference, query, brief):
        expected = query.obs["cell_type"].to_numpy()
        query.obs = query.obs[[]]
        tl.annotate(query, reference, labels_key="cell_type", batch_key="batch", **brief)
        assert (query.obs["transanno"] == expected).mean() > 0.9

    def test_labels_of_the_query_are_not_looked_at(self, model, query):
        expected = model.predict(query, key_added=None)
        query.obs["cell_type"] = "Platypus cell"  # no warning, since nobody asked
        tl.annotate(query, model=model, refine=False)
        assert list(query.obs["transanno"]) == list(expected)

    @pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix, sp.csc_matrix], ids=["dense", "csr", "csc"])
    def test_any_container_on_both_sides(self, container, make_adata, brief):
        found = []
        for side in (sp.csr_matrix, container):
            query = make_adata(61, seed=1, container=side)
            tl.annotate(query, make_adata(container=side, dtype="int32"), labels_key="cell_type", **brief)
            found.append(query.obs["transanno_confidence"].to_numpy())
        np.testing.assert_allclose(*found, atol=1e-5)

    def test_backed(self, make_adata, brief, tmp_path):
        expected, reference = make_adata(61, seed=1), make_adata()
        tl.annotate(expected, reference, labels_key="cell_type", **brief)
        for name, adata in (("query", make_adata(61, seed=1)), ("reference", reference)):
            adata.write_h5ad(tmp_path / f"{name}.h5ad")
        query, reference = (ad.read_h5ad(tmp_path / f"{name}.h5ad", backed="r") for name in ("query", "reference"))
        tl.annotate(query, reference, labels_key="cell_type", **brief)
        np.testing.assert_allclose(query.obs["transanno_confidence"], expected.obs["transanno_confidence"], atol=1e-5)
        query.file.close()
        reference.file.close()

    def test_layer(self, reference, query, brief):
        for adata in (reference, query):
            adata.layers["counts"] = adata.X.copy()
            adata.X = np.log1p(adata.X.toarray())
        tl.annotate(query, reference, labels_key="cell_type", layer="counts", **brief)
        assert (query.obs["transanno"] == query.obs["cell_type"]).mean() > 0.9

    def test_genes_that_only_one_side_has_are_not_used(self, reference, query, brief):
        model = tl.annotate(query[:, 10:].copy(), reference[:, :45].copy(), labels_key="cell_type", **brief)
        assert list(model.genes) == list(reference.var_names[10:45])
        assert not model._registered_cells().is_missing.any()

    def test_pretrained(self, reference, query, pretrained, saved_pretrained, brief):
        confidences = []
        for source in (pretrained, saved_pretrained):
            adata = query.copy()
            model = tl.annotate(adata, reference, labels_key="cell_type", pretrained=source, **brief)
            assert model.was_pretrained_
            confidences.append(adata.obs["transanno_confidence"].to_numpy())
        np.testing.assert_array_equal(*confidences)

    def test_refused(self, model, reference, query, make_mdata):
        with pytest.raises(ValueError, match="either reference=.*or model="):
            tl.annotate(query)
        with pytest.raises(ValueError, match="either reference=.*or model="):
            tl.annotate(query, reference, model=model)
        with pytest.raises(ValueError, match="labels_key is missing"):
            tl.annotate(query, reference)
        with pytest.raises(TypeError, match="max_epochs only concern"):
            tl.annotate(query, model=model, max_epochs=3)
        with pytest.raises(TypeError, match=r'mdata\["rna"\]'):
            tl.annotate(make_mdata(), reference, labels_key="cell_type")
        with pytest.raises(KeyError, match="Did you mean 'cell_type'"):
            tl.annotate(query, reference, labels_key="celltype")


class TestFitReference:
    def test_reference_is_not_changed(self, reference, brief, snapshot, changed):
        before = snapshot(reference)
        model = tl.fit_reference(reference, "cell_type", batch_key="batch", **brief)
        assert changed(before, reference) == set()
        assert model.is_trained
        assert (model.predict(reference) == reference.obs["cell_type"].to_numpy()).mean() > 0.9

    def test_same_seed_gives_the_same_weights(self, make_adata, brief):
        states = [
            tl.fit_reference(make_adata(), "cell_type", seed=seed, **brief).module.state_dict() for seed in (1, 1, 2)
        ]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
        assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])

    def test_number_of_genes(self, reference, brief):
        model = tl.fit_reference(reference, "cell_type", n_top_genes=31, **brief)
        assert len(model.genes) == 31
        assert (model.predict(reference) == reference.obs["cell_type"].to_numpy()).mean() > 0.9

    def test_unlabeled_cells(self, reference, brief):
        reference.obs.loc[reference.obs_names[::3], "cell_type"] = "dunno"
        model = tl.fit_reference(reference, "cell_type", unlabeled_category="dunno", **brief)
        assert list(model.predict(soft=True).columns) == ["B cell", "NK cell", "T cell"]

    def test_saved_model_is_enough_for_others(self, reference, query, brief, tmp_path):
        model = tl.fit_reference(reference, "cell_type", batch_key="batch", n_top_genes=41, **brief)
        model.save(tmp_path / "model")
        tl.annotate(query, model=tmp_path / "model")
        assert (query.obs["transanno"] == query.obs["cell_type"]).mean() > 0.9

    @pytest.mark.parametrize("missing", [0, 11])
    def test_batches_with_missing_values(self, missing, reference, brief):
        reference.obs.loc[reference.obs_names[:missing], "batch"] = np.nan
        model = tl.fit_reference(reference, "cell_type", batch_key="batch", n_top_genes=31, **brief)
        assert model.module.batch_embedding.num_embeddings == 2 + bool(missing)


class TestAllCounts:
    """A model of some genes normalizes cells by the counts of all of them."""

    @pytest.fixture
    def fitted(self, reference, brief):
        return tl.fit_reference(reference, "cell_type", n_top_genes=23, **brief)

    def expression(self, model, adata) -> np.ndarray:
        """What the network reads of some cells."""
        _, aligned = model._resolve(adata)
        counts = torch.from_numpy(aligned.counts.matrix.toarray())
        return model.module.normalize(counts, torch.from_numpy(aligned.is_missing)[None, :]).numpy()

    def test_query_is_normalized_by_all_of_its_counts(self, fitted, query):
        x = np.asarray(query.X.todense() if sp.issparse(query.X) else query.X)
        expected = np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4)
        found = self.expression(fitted, query)
        np.testing.assert_allclose(found[:, :-1], expected[:, query.var_names.get_indexer(fitted.genes)], rtol=1e-4)
        assert (found[:, -1] == 0).all()

    def test_the_column_is_no_gene(self, fitted, query):
        assert len(fitted.genes) == 23
        assert not fitted.genes.str.contains("other").any()
        assert fitted.get_gene_attributions(query).columns.equals(fitted.genes)

    def test_a_panel_is_normalized_as_the_whole_would_be(self, fitted, query):
        """Counts of the measured genes over their share of the reference's counts stand in for the total."""
        panel = query[:, fitted.genes].copy()
        whole, part = self.expression(fitted, query)[:, :-1], self.expression(fitted, panel)[:, :-1]
        is_expressed = whole > 0
        assert np.median(np.abs(part - whole)[is_expressed]) < 0.25
        naive = np.asarray(panel.X.todense() if sp.issparse(panel.X) else panel.X)
        naive = np.log1p(naive / naive.sum(axis=1, keepdims=True) * 1e4)
        assert np.median(np.abs(naive - whole)[is_expressed]) > 2 * np.median(np.abs(part - whole)[is_expressed])

    def test_saved_models_and_queries_know_the_shares(self, fitted, query, tmp_path):
        fitted.save(tmp_path / "model")
        loaded = TransAnno.load(tmp_path / "model", False)
        assert loaded.gene_shares_ == fitted.gene_shares_
        expected = fitted.predict(query, soft=True, key_added=None)
        pd.testing.assert_frame_equal(loaded.predict(query, soft=True, key_added=None), expected)
        query_model = TransAnno.load_query_data(query, tmp_path / "model")
        np.testing.assert_allclose(query_model.predict(soft=True, key_added=None), expected, atol=1e-6)
        attached = TransAnno.load(tmp_path / "model", query[:, ::-1].copy())
        np.testing.assert_allclose(attached.predict(soft=True, key_added=None), expected, atol=1e-6)

    def test_all_genes_need_no_column(self, reference, brief):
        model = tl.fit_reference(reference, "cell_type", **brief)
        assert model.gene_shares_ is None
        assert model.module.n_input == len(model.genes)

    def test_genes_of_ones_own(self, reference, query, brief):
        chosen = reference.var_names[[11, 3, 7, *range(12, 40)]]
        model = tl.fit_reference(reference, "cell_type", genes=[*chosen, "no gene"], **brief)
        assert model.genes.tolist() == chosen.tolist()
        with pytest.raises(ValueError, match="0 are genes that can be used here"):
            tl.fit_reference(reference, "cell_type", genes=["no gene"], **brief)

    def test_pretraining_and_fine_tuning_agree(self, reference, query, brief):
        pretrained = tl.pretrain(reference, n_top_genes=31, **brief)
        assert len(pretrained.genes) == 31
        model = tl.fit_reference(reference, "cell_type", n_top_genes=25, pretrained=pretrained, **brief)
        assert model.genes.isin(pretrained.genes).all()
        assert len(model.genes) < 31
        assert model.n_new_genes_ == 0
        assert model.gene_shares_ == pretrained.gene_shares_
        tl.annotate(query, reference, labels_key="cell_type", pretrained=pretrained, **brief)
        assert (query.obs["transanno"] == query.obs["cell_type"]).mean() > 0.9


class TestSelectGenes:
    def test_equals_scanpy(self, reference):
        adata = reference[:, reference.X.toarray().any(axis=0)].copy()
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
        sc.pp.highly_variable_genes(adata, n_top_genes=23)
        assert list(tl.select_genes(reference, n_top_genes=23)) == list(adata.var_names[adata.var["highly_variable"]])

    def test_batches_matter(self, reference):
        with_batches = tl.select_genes(reference, n_top_genes=11, batch_key="batch")
        assert len(with_batches) == 11
        assert list(with_batches) == [gene for gene in reference.var_names if gene in set(with_batches)]

    def test_batches_of_a_few_cells_do_not(self, reference):
        reference.obs["batch"] = ["rare"] * 3 + ["common"] * 94
        found = tl.select_genes(reference, n_top_genes=11, batch_key="batch")
        assert list(found) == list(tl.select_genes(reference, n_top_genes=11))

    def test_silent_genes_are_never_chosen(self, reference):
        counts = reference.X.toarray()
        counts[:, ::7] = 0
        adata = ad.AnnData(sp.csr_matrix(counts), var=pd.DataFrame(index=reference.var_names))
        found = tl.select_genes(adata)
        assert list(found) == list(reference.var_names[(counts > 0).any(axis=0)])

    def test_nothing_changes(self, reference, snapshot, changed):
        before = snapshot(reference)
        tl.select_genes(reference, n_top_genes=11, batch_key="batch")
        assert changed(before, reference) == set()
