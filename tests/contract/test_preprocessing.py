"""From ``pp`` to the models: missing genes stay unknown, counts stay counts, vocabularies are saved."""

from __future__ import annotations

from contextlib import nullcontext

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest

from transanno import TransAnno, TransAnnoPretrain, pp, tl


def probabilities(model, adata=None):
    return model.predict(adata, soft=True, key_added=None)


@pytest.fixture
def panel(query) -> ad.AnnData:
    """61 cells, 44 of the model's 53 genes and two others."""
    extra = ad.AnnData(query.X[:, :2], obs=query.obs, var=pd.DataFrame(index=["extra1", "extra2"]))
    return ad.concat([extra, query[:, ::-1][:, 9:].copy()], axis=1, merge="first")


@pytest.fixture
def aligned(panel, model) -> ad.AnnData:
    return pp.align_genes(panel, model)


class TestMissingGenes:
    def test_predictions_are_exactly_those_of_the_original(self, model, panel, aligned):
        expected = probabilities(model, panel)
        assert aligned.var["is_missing"].sum() == 9
        pd.testing.assert_frame_equal(probabilities(model, aligned), expected, check_exact=True)
        query_model = TransAnno.load_query_data(aligned, model)
        pd.testing.assert_frame_equal(probabilities(query_model), expected, check_exact=True)
        np.testing.assert_array_equal(query_model._registered_cells().is_missing, aligned.var["is_missing"])
        np.testing.assert_array_equal(query_model.get_latent_representation(), model.get_latent_representation(panel))

    def test_the_mark_makes_the_difference(self, model, aligned):
        expected = probabilities(model, aligned)
        del aligned.var["is_missing"]
        assert np.abs(probabilities(model, aligned) - expected).to_numpy().max() > 1e-3

    def test_any_vocabulary_will_do(self, model, panel):
        vocabulary = ["other", *model.genes[::-1], "another"]
        found = probabilities(model, pp.align_genes(panel, vocabulary))
        pd.testing.assert_frame_equal(found, probabilities(model, panel), check_exact=True)

    def test_after_writing_and_reading(self, model, panel, aligned, tmp_path):
        aligned.write_h5ad(tmp_path / "a.h5ad")
        backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
        pd.testing.assert_frame_equal(probabilities(model, backed), probabilities(model, panel), check_exact=True)
        backed.file.close()

    def test_loading_a_model_with_aligned_data(self, saved_reference, panel, aligned):
        """Its genes are those of the model, so scvi-tools registers the very object."""
        loaded = TransAnno.load(saved_reference, aligned, accelerator="cpu")
        assert loaded.adata is aligned
        pd.testing.assert_frame_equal(probabilities(loaded), probabilities(loaded, panel), check_exact=True)

    def test_replacing_the_data_of_a_model(self, model, panel, aligned, reference):
        model.adata = aligned
        pd.testing.assert_frame_equal(probabilities(model), probabilities(model, panel), check_exact=True)
        model.adata = reference
        pd.testing.assert_frame_equal(probabilities(model), probabilities(model, reference.copy()), check_exact=True)

    def test_query_model_after_saving_with_data(self, model, aligned, tmp_path):
        query_model = TransAnno.load_query_data(aligned, model)
        query_model.save(tmp_path / "query", save_anndata=True)
        loaded = TransAnno.load(tmp_path / "query")
        pd.testing.assert_frame_equal(probabilities(loaded), probabilities(query_model), check_exact=True)
        assert loaded._registered_cells().is_missing.sum() == 9

    def test_training_on_aligned_data_masks_them(self, make_adata, small, fast):
        adata = make_adata()
        adata = pp.align_genes(adata[:, 7:].copy(), list(adata.var_names))
        for cls, setup in ((TransAnno, {"labels_key": "cell_type"}), (TransAnnoPretrain, {})):
            cls.setup_anndata(adata, **setup)
            model = cls(adata, **small)
            model.train(1, **fast)
            assert list(model.genes[model._registered_cells().is_missing]) == list(adata.var_names[:7])

    def test_filled_in_values_are_refused(self, model, aligned):
        filled = aligned.X.tolil()
        filled[3, int(np.flatnonzero(aligned.var["is_missing"])[4])] = 2
        aligned.X = filled.tocsr()
        with pytest.raises(ValueError, match='1 gene.s. of adata have counts, although var\\["is_missing"\\]'):
            model.predict(aligned)

    def test_too_few_measured_genes_are_refused(self, model, query):
        few = ad.AnnData(
            query.X, obs=query.obs, var=pd.DataFrame({"is_missing": [True] * 40 + [False] * 13}, query.var_names)
        )
        with pytest.raises(ValueError, match="Only 13 of the 53 genes.*among the 13 of query"):
            TransAnno.load_query_data(few, model)

    def test_mudata(self, make_mdata, small, fast):
        reference, query = make_mdata(), make_mdata(61, seed=1)
        TransAnno.setup_mudata(reference, "cell_type", batch_key="batch")
        model = TransAnno(reference, **small)
        model.train(1, **fast)
        # Version 0.3 warns that 0.4 will no longer copy columns of modalities; this is what 0.4 does.
        with mudata.set_options(pull_on_update=False) if hasattr(mudata, "set_options") else nullcontext():
            panel = mudata.MuData({"rna": query["rna"][:, 5:].copy()})
            aligned = mudata.MuData({"rna": pp.align_genes(panel["rna"], model)})
            panel.obs, aligned.obs = query.obs.copy(), query.obs.copy()
        expected = probabilities(model, panel)
        pd.testing.assert_frame_equal(probabilities(model, aligned), expected, check_exact=True)
        query_model = TransAnno.load_query_data(aligned, model)
        pd.testing.assert_frame_equal(probabilities(query_model), expected, check_exact=True)

    def test_annotate_trains_on_measured_genes_only(self, reference, panel, fast):
        aligned = pp.align_genes(panel, list(reference.var_names))
        model = tl.annotate(aligned, reference, labels_key="cell_type", max_epochs=1, **fast)
        assert set(model.genes) == set(panel.var_names) & set(reference.var_names)


class TestPreprocessed:
    def test_models_take_the_counts(self, reference, query, small, fast):
        processed = pp.preprocess(reference, min_genes=5, n_top_genes=41)
        TransAnno.setup_anndata(processed, "cell_type", layer="counts")
        model = TransAnno(processed, **small)
        model.train(1, **fast)
        mapped = pp.preprocess(query, min_genes=5, vocabulary=model)
        assert list(mapped.var_names) == list(model.genes)
        found = probabilities(model, mapped)
        query.layers["counts"] = query.X.copy()
        pd.testing.assert_frame_equal(found, probabilities(model, query), check_exact=True)

    def test_x_is_refused_by_the_models(self, reference):
        processed = pp.preprocess(reference, min_genes=5, n_top_genes=41)
        with pytest.raises(ValueError, match='looks log1p-normalized.*layer="counts"'):
            TransAnno.setup_anndata(processed, "cell_type")

    def test_merged_sources_pretrain(self, make_adata, small, fast):
        merged = pp.merge({"a": make_adata(41, seed=11), "b": make_adata(31, seed=12)[:, 4:].copy()})
        processed = pp.preprocess(merged, min_genes=5, batch_key="source")
        TransAnnoPretrain.setup_anndata(processed, layer="counts", batch_key="source")
        model = TransAnnoPretrain(processed, **small)
        model.train(1, **fast)
        assert model.module.batch_embedding.num_embeddings == 2
        assert list(model.genes) == list(processed.var_names)


class TestSavedVocabulary:
    @pytest.mark.parametrize("prefix", [None, "mine_"])
    @pytest.mark.parametrize("kind", ["model", "pretrained"])
    def test_genes_are_saved_beside_the_weights(self, kind, prefix, request, tmp_path):
        model = request.getfixturevalue(kind)
        model.save(tmp_path / "model", prefix=prefix)
        file = tmp_path / "model" / f"{prefix or ''}genes.txt"
        assert list(pp.read_vocabulary(file)) == list(model.genes)
        assert file.read_text(encoding="utf-8").split("\n")[:-1] == list(model.genes)

    def test_refused_folder_is_left_alone(self, model, pretrained, tmp_path):
        model.save(tmp_path / "model")
        (tmp_path / "model" / "genes.txt").write_text("mine\n")
        with pytest.raises(ValueError, match="already exists"):
            pretrained.save(tmp_path / "model")
        assert (tmp_path / "model" / "genes.txt").read_text() == "mine\n"
        model.save(tmp_path / "model", overwrite=True)
        assert list(pp.read_vocabulary(tmp_path / "model")) == list(model.genes)

    def test_odd_names_do_not_lose_a_model(self, reference, small, fast, tmp_path):
        reference.var_names = ["odd\tname ", *reference.var_names[1:]]
        TransAnno.setup_anndata(reference, "cell_type")
        model = TransAnno(reference, **small)
        model.train(1, **fast)
        model.save(tmp_path / "model")
        assert list(TransAnno.load(tmp_path / "model", False).genes) == list(reference.var_names)
        with pytest.raises(ValueError, match="1 entries that are no names"):
            pp.read_vocabulary(tmp_path / "model")
