"""Contributions of genes: what they sum to, what they are of, and what has no influence on them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from transanno import TransAnno
from transanno.nn import Shares

PERFORMER = {"encoder": "performer", "n_hidden": 13, "n_layers": 1, "n_heads": 2, "head_dim": 8}


@pytest.fixture(scope="module")
def performer(make_adata, fast, start_afresh):
    start_afresh()
    adata = make_adata()
    TransAnno.setup_anndata(adata, "cell_type", batch_key="batch")
    model = TransAnno(adata, **PERFORMER)
    model.train(1, plan_kwargs={"lr": 1e-3}, max_steps=9, **fast)
    return model


def per_cell(model, adata=None, indices=None, **kwargs):
    n_cells = len(indices) if indices is not None else (model.adata if adata is None else adata).n_obs
    return model.get_gene_attributions(adata, indices, np.arange(n_cells), **kwargs)


def log_odds(model, label, against, adata=None):
    probabilities = model.predict(adata, soft=True, key_added=None)
    return np.log(probabilities[label] / probabilities[against]).to_numpy()


def ends_of_the_way(model, baseline: str, weights: list[float]) -> np.ndarray:
    """Registered cells -> sum of weighted logits minus that of the baseline, seen from as far as the cell ``(n_cells,)``."""
    module, nothing = model.module.eval(), torch.zeros(1, 53, dtype=torch.bool)
    expression = module.normalize(torch.from_numpy(model.adata.X.toarray()), nothing)
    batch = torch.from_numpy((model.adata.obs["batch"] == "batch2").to_numpy().astype(int))
    # The mean of the data set, five pseudo-cells of the reference included, stays as it is.
    center = (expression.sum(dim=0) + 5 * module.mean_expression) / (97 + 5)
    context = module.context(nothing, center)._replace(length=(expression - center).norm(dim=1))
    start = torch.zeros(53) if baseline == "silent" else module.mean_expression
    found = []
    with torch.inference_mode():
        for x in (expression, start.expand(97, -1)):
            encoded = module.encoder(x, nothing, module.batch_embedding(batch), context)
            found.append(module.classifier(encoded, x, nothing, context) @ torch.tensor(weights))
    return (found[0] - found[1]).numpy()


class TestCompleteness:
    T_AGAINST_THE_REST, T_AGAINST_B = [-0.5, -0.5, 1.0], [-1.0, 0.0, 1.0]  # B, NK, T

    @pytest.mark.parametrize("against", [None, "B cell"])
    @pytest.mark.parametrize("baseline", ["average", "silent"])
    def test_contributions_sum_to_the_difference_from_the_baseline(self, model, baseline, against):
        sums = per_cell(model, label="T cell", against=against, baseline=baseline, n_steps=256).sum(axis=1).to_numpy()
        expected = ends_of_the_way(model, baseline, self.T_AGAINST_B if against else self.T_AGAINST_THE_REST)
        np.testing.assert_allclose(sums, expected, rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("baseline", ["average", "silent"])
    def test_default_steps_are_enough(self, model, baseline):
        sums = per_cell(model, label="T cell", baseline=baseline).sum(axis=1).to_numpy()
        expected = ends_of_the_way(model, baseline, self.T_AGAINST_THE_REST)
        assert np.abs(sums - expected).mean() < 0.01 * np.abs(expected).mean()

    def test_training_cells_are_explained_though_their_mean_is_the_baseline(self, reference, small, fast):
        """Where the way starts at the mean of the data set, a cell has no direction at first."""
        TransAnno.setup_anndata(reference, "cell_type", batch_key="batch")
        model = TransAnno(reference, **small)
        model.train(1, train_size=1.0, **fast)
        torch.testing.assert_close(
            model._center(model._registered_cells()), model.module.mean_expression, rtol=0, atol=1e-4
        )
        with model.module.classifier.weighted(Shares(deep=0.0, cosine=1.0)):
            sums = per_cell(model, label="T cell", against="B cell").sum(axis=1).to_numpy()
            expected = log_odds(model, "T cell", "B cell")
        np.testing.assert_allclose(sums, expected, rtol=1e-3, atol=1e-3)
        sums = per_cell(model, label="T cell").sum(axis=1).to_numpy()
        expected = ends_of_the_way(model, "average", self.T_AGAINST_THE_REST)
        assert np.abs(sums - expected).mean() < 0.01 * np.abs(expected).mean()

    def test_differences_between_cells_are_those_of_their_log_odds(self, model):
        """By the public API alone: the average cell of cells of one batch is nearly the same."""
        sums = per_cell(model, label="T cell", against="B cell", n_steps=256).sum(axis=1).to_numpy()
        expected = log_odds(model, "T cell", "B cell")
        for batch in ("batch1", "batch2"):
            is_batch = (model.adata.obs["batch"] == batch).to_numpy()
            rest = (sums - expected)[is_batch]
            assert np.ptp(rest) < 0.02 * np.ptp(expected)

    @pytest.mark.parametrize("baseline", ["average", "silent"])
    def test_of_the_performer(self, performer, baseline):
        sums = per_cell(performer, label="T cell", against="B cell", baseline=baseline, n_steps=48).sum(axis=1)
        expected = log_odds(performer, "T cell", "B cell")
        is_batch = (performer.adata.obs["batch"] == "batch2").to_numpy()
        assert np.ptp(expected[is_batch]) > 1e-3
        assert np.ptp((sums - expected)[is_batch]) < 0.02 * np.ptp(expected[is_batch])


class TestAttributions:
    def test_without_groups_there_is_a_row_per_called_label(self, model):
        table = model.get_gene_attributions()
        called = model.predict(key_added=None)
        assert list(table.index) == sorted(set(called))
        assert list(table.columns) == list(model.genes)
        assert table.attrs["labels"] == {name: name for name in table.index}
        cells = per_cell(model, label="NK cell").to_numpy()[called == "NK cell"]
        np.testing.assert_allclose(table.loc["NK cell"], cells.mean(axis=0), atol=1e-6)

    def test_markers_of_a_type_speak_for_it(self, model, reference):
        """Genes with the largest difference of means, eight per type in these data, against genes that mark no type."""
        x = np.log1p(reference.X.toarray() / reference.X.sum(axis=1) * 1e4)
        table = model.get_gene_attributions()
        markers = {}
        for name in table.index:
            is_type = (reference.obs["cell_type"] == name).to_numpy()
            difference = np.asarray(x[is_type].mean(axis=0) - x[~is_type].mean(axis=0)).ravel()
            markers[name] = np.argsort(-difference)[:8]
        others = np.setdiff1d(np.arange(53), np.concatenate(list(markers.values())))
        assert len(others) == 53 - 24
        for name, row in table.iterrows():
            assert (row.iloc[markers[name]] > 0).all()
            assert row.iloc[markers[name]].mean() > 4 * row.iloc[others].abs().mean()

    def test_a_group_is_explained_for_its_most_probable_label(self, model):
        table = model.get_gene_attributions(groupby="batch")
        probabilities = model.predict(soft=True, key_added=None)
        expected = probabilities.groupby(model.adata.obs["batch"].to_numpy()).mean().idxmax(axis=1)
        assert table.attrs["labels"] == expected.to_dict()
        assert list(table.index) == ["batch1", "batch2"]
        assert table.index.name == "batch"

    def test_cells_without_a_group_are_left_out(self, model):
        groups = pd.Categorical(["b"] * 10 + [None] * 77 + ["a"] * 10, categories=["c", "b", "a"])
        table = model.get_gene_attributions(groupby=groups, label="B cell")
        assert list(table.index) == ["b", "a"]  # the order of categories, unused ones left out
        expected = model.get_gene_attributions(None, range(10), ["b"] * 10, label="B cell")
        np.testing.assert_allclose(table.loc["b"], expected.loc["b"], atol=1e-6)

    def test_minibatches_and_containers_have_no_influence(self, model, make_adata):
        expected = model.get_gene_attributions()
        pd.testing.assert_frame_equal(model.get_gene_attributions(batch_size=7), expected, atol=1e-5)
        for container in (sp.csc_matrix, np.asarray):
            pd.testing.assert_frame_equal(
                model.get_gene_attributions(make_adata(container=container)), expected, atol=1e-5
            )

    def test_order_of_genes_has_no_influence(self, model, make_adata):
        adata = make_adata()
        shuffled = adata[:, np.random.default_rng(1).permutation(adata.n_vars)].copy()
        pd.testing.assert_frame_equal(
            model.get_gene_attributions(shuffled), model.get_gene_attributions(adata), atol=1e-5
        )

    @pytest.mark.parametrize("baseline", ["average", "silent"])
    @pytest.mark.filterwarnings("ignore:.*of 53 genes:UserWarning")
    def test_genes_that_the_data_lack_contribute_nothing(self, model, performer, make_adata, baseline):
        adata = make_adata()[:, 5:].copy()
        for explained in (model, performer):
            table = explained.get_gene_attributions(adata, baseline=baseline, n_steps=4)
            assert (table.iloc[:, :5] == 0).all(axis=None)
            assert (table.iloc[:, 5:] != 0).any(axis=None)

    def test_a_label_against_itself_is_nothing(self, model):
        table = model.get_gene_attributions(label="T cell", against="T cell")
        assert (table == 0).all(axis=None)

    def test_nothing_is_changed(self, model, query, snapshot, changed):
        before, weights = snapshot(query), {k: v.clone() for k, v in model.module.state_dict().items()}
        model.get_gene_attributions(query)
        assert changed(before, query) == set()
        assert all(torch.equal(weights[k], v) for k, v in model.module.state_dict().items())
        assert all(parameter.grad is None for parameter in model.module.parameters())

    def test_one_cell_and_masks(self, model):
        is_chosen = np.arange(97) == 5
        one = model.get_gene_attributions(indices=is_chosen)
        assert one.shape == (1, 53)
        np.testing.assert_allclose(one, model.get_gene_attributions(indices=[5]))

    def test_of_a_query_model(self, model, new_batch_query):
        query_model = TransAnno.load_query_data(new_batch_query, model, accelerator="cpu", unseen_labels="mask")
        table = query_model.get_gene_attributions(groupby="batch", label="B cell")
        assert list(table.index) == ["batch2", "batch3"]
        assert np.isfinite(table).all(axis=None)

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"label": "B-cell"}, ValueError, "label='B-cell' is not known. Allowed: 'B cell'"),
            ({"against": "Unknown"}, ValueError, "against='Unknown' is not known"),
            ({"baseline": "mean"}, ValueError, "baseline='mean' is not known. Allowed: 'average', 'silent'"),
            ({"n_steps": 0}, ValueError, "n_steps=0 is outside"),
            ({"groupby": "leiden"}, KeyError, "groupby='leiden' is not a column"),
            ({"groupby": ["a", "b"]}, ValueError, "groupby has 2 values for 97 cells"),
            ({"indices": []}, ValueError, "no cells to explain: indices selects none"),
            ({"groupby": [None] * 97}, ValueError, "none of them has a group"),
        ],
    )
    def test_errors_say_what_is_allowed(self, model, arguments, error, message):
        with pytest.raises(error, match=message):
            model.get_gene_attributions(**arguments)

    def test_an_untrained_model_explains_nothing(self, reference, small):
        TransAnno.setup_anndata(reference, "cell_type")
        with pytest.warns(UserWarning, match="untrained model"):
            TransAnno(reference, **small).get_gene_attributions()
