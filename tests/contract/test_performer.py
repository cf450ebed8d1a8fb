"""The paper's encoder goes every way that the default one goes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from transanno import TransAnno, TransAnnoPretrain

PERFORMER = {"encoder": "performer", "n_hidden": 18, "n_layers": 1, "n_heads": 2, "head_dim": 7, "n_features": 11}
# Nine tokens: with three, the one rectified channel of the head may be zero for all of them.
VIEWS_CONV = {"n_hidden": 16, "n_latent": 33, "n_networks": 3, "n_layers": 1, "n_heads": 2, "head": "conv"}
PERFORMER_EXPERTS = PERFORMER | {"head": "experts"}


def probabilities(model: TransAnno, adata=None) -> pd.DataFrame:
    return model.predict(adata, soft=True, key_added=None)


def trained(adata, fast, architecture, n_epochs=1) -> TransAnno:
    TransAnno.setup_anndata(adata, "cell_type", batch_key="batch")
    model = TransAnno(adata, **architecture)
    model.train(n_epochs, plan_kwargs={"lr": 3e-3}, **fast)
    return model


def copied(model: TransAnno) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.module.state_dict().items()}


@pytest.mark.parametrize(
    "architecture",
    [PERFORMER, PERFORMER_EXPERTS, VIEWS_CONV],
    ids=["performer", "performer, experts", "views, conv head"],
)
class TestWorkflow:
    def test_learns(self, architecture, reference, query, fast):
        # The head of the paper starts without the hint that the experts get from the data.
        model = trained(reference, fast, architecture, n_epochs=8)
        accuracy = (model.predict(query) == query.obs["cell_type"]).mean()
        majority = query.obs["cell_type"].value_counts(normalize=True).max()
        assert accuracy > majority + 0.2
        assert model.get_latent_representation(query).shape == (61, model.module.n_latent)

    def test_save_and_load(self, architecture, reference, query, fast, tmp_path):
        model = trained(reference, fast, architecture)
        expected = probabilities(model, query)
        model.save(tmp_path / "model")
        loaded = TransAnno.load(tmp_path / "model", adata=False)
        assert loaded.init_params_ == model.init_params_
        assert loaded.init_params_["non_kwargs"].items() >= architecture.items()
        pd.testing.assert_frame_equal(probabilities(loaded, query), expected, check_exact=True)

    def test_genes_in_any_order(self, architecture, reference, query, fast):
        model = trained(reference, fast, architecture)
        shuffled = query[:, np.random.default_rng(0).permutation(53)].copy()
        pd.testing.assert_frame_equal(probabilities(model, shuffled), probabilities(model, query), atol=1e-5)

    def test_missing_genes_are_masked(self, architecture, reference, query, fast):
        model = trained(reference, fast, architecture)
        found = probabilities(model, query[:, :47].copy())
        assert np.isfinite(found).all(axis=None)
        silent = query.copy()
        silent.X = query.X.toarray() * (np.arange(53) < 47)
        assert not np.allclose(found, probabilities(model, silent), rtol=0, atol=1e-6)

    def test_query_trains_new_batches_only(self, architecture, reference, new_batch_query, fast):
        model = trained(reference, fast, architecture)
        before = copied(model)
        query_model = TransAnno.load_query_data(new_batch_query, model)
        query_model.module.encoder.redraw_interval = 1  # would be due at once
        query_model.train(1, max_steps=5, **fast)
        for name, weight in query_model.module.state_dict().items():
            if name == "batch_embedding.weight":
                weight = weight[:2]
            assert torch.equal(weight, before[name]), name

    def test_summary_names_the_sizes(self, architecture, reference, fast):
        TransAnno.setup_anndata(reference, "cell_type")
        summary = TransAnno(reference, **architecture)._model_summary_string
        assert f"encoder: {architecture.get('encoder', 'views')}, n_hidden: {architecture['n_hidden']}" in summary
        assert "None" not in summary


class TestPretraining:
    def test_weights_are_carried_over_by_gene(self, reference, make_adata, fast):
        atlas = make_adata(seed=3)
        TransAnnoPretrain.setup_anndata(atlas, batch_key="batch")
        pretrained = TransAnnoPretrain(atlas, **PERFORMER)
        pretrained.train(6, plan_kwargs={"lr": 3e-3}, **fast)
        losses = pretrained.history["train_loss"]["train_loss"].astype(float)
        assert losses.iloc[-1] < losses.iloc[0]
        order = np.random.default_rng(0).permutation(53)
        model = TransAnno.from_pretrained(pretrained, reference[:, order].copy(), "cell_type")
        theirs, ours = copied(pretrained), copied(model)
        torch.testing.assert_close(ours["encoder.gene_embedding"], theirs["encoder.gene_embedding"][order])
        for name in theirs.keys() - {
            "encoder.gene_embedding",
            "batch_embedding.weight",
            "is_missing",
            "mean_expression",
            "commonest_bins",
        }:
            assert torch.equal(ours[name], theirs[name]), name
        model.train(2, **fast)
        assert set(model.predict()) <= set(reference.obs["cell_type"])

    def test_views_do_not_fit_a_performer(self, pretrained, reference):
        with pytest.raises(ValueError, match="n_latent=22, n_networks=2 does not apply to encoder='performer'"):
            TransAnno.from_pretrained(pretrained, reference, "cell_type", encoder="performer")


class TestRefused:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"encoder": "performer", "n_latent": 7}, "n_latent=7 does not apply to encoder='performer'"),
            ({"head_dim": 5}, "head_dim=5 does not apply to encoder='views'"),
            ({"head": "tail"}, "head='tail' is not known"),
        ],
    )
    def test_arguments_of_the_other_encoder(self, arguments, message, reference):
        TransAnno.setup_anndata(reference, "cell_type")
        with pytest.raises(ValueError, match=message):
            TransAnno(reference, **arguments)


def test_sparse_minibatches(reference, fast):
    TransAnno.setup_anndata(reference, "cell_type")
    model = TransAnno(reference, **PERFORMER)
    model.train(1, **fast)
    minibatches = [
        {"X": torch.from_numpy(reference.X[:40].toarray()).to_sparse(layout=layout), "batch": torch.zeros(40, 1)}
        for layout in (torch.sparse_csr, torch.sparse_csc, torch.sparse_coo)
    ]
    expected = model.predict(indices=np.arange(40), soft=True, key_added=None)
    for minibatch in minibatches:
        np.testing.assert_allclose(model.predict(dataloader=[minibatch], soft=True), expected, atol=1e-5)
