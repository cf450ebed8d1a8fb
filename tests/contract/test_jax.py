"""One contract for both backends: what torch predicts, JAX does, from the same data and with the same complaints."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
import torch

from transanno import TransAnno, tl
from transanno.models._predict import judge_of

needs_jax = pytest.mark.skipif(find_spec("jax") is None, reason="jax, the extra 'jax', is not installed")

PERFORMER = {"encoder": "performer", "n_hidden": 18, "n_layers": 2, "n_heads": 2, "head_dim": 7, "n_features": 11}
# To compile takes most of the time here: sizes are as small, and shapes as few, as they can be.
ARCHITECTURES = {
    "views": {"n_hidden": 14, "n_latent": 22, "n_networks": 2, "n_layers": 1, "n_heads": 2},
    "views, conv head": {"n_hidden": 14, "n_latent": 11, "n_networks": 1, "n_layers": 2, "n_heads": 2, "head": "conv"},
    "performer": PERFORMER,
    "performer, experts": PERFORMER | {"head": "experts"},
}


class Pair(NamedTuple):
    """A model, and what it exported."""

    model: TransAnno
    predictor: object
    folder: Path


@pytest.fixture(scope="module")
def make_pair(make_adata, fast, start_afresh, tmp_path_factory) -> Callable[[str], Pair]:
    made: dict[str, Pair] = {}

    def train(name: str) -> TransAnno:
        adata = make_adata(397)
        if name == "all counts of a cell":
            model = tl.fit_reference(
                adata, "cell_type", genes=adata.var_names[:41], max_epochs=2, train_size=0.8, **fast
            )
            assert model.gene_shares_ is not None
            return model
        TransAnno.setup_anndata(adata, "cell_type", batch_key="batch")
        model = TransAnno(adata, **ARCHITECTURES[name])
        model.train(2, plan_kwargs={"lr": 5e-3}, **fast)
        with torch.no_grad():
            # Norms and biases, too, must not be what they start as, and a rectifier must not be zero for all cells.
            for parameter in model.module.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
            if name in ("performer", "views, conv head"):
                model.module.classifier.convolution.bias.add_(2.0)
        return model

    def make(name: str) -> Pair:
        from transanno.jax import load_predictor

        if name not in made:
            start_afresh()
            model, folder = train(name), tmp_path_factory.mktemp("exported")
            model.export(folder)
            made[name] = Pair(model, load_predictor(folder), folder)
        return made[name]

    return make


@pytest.fixture(params=[*ARCHITECTURES, "all counts of a cell"])
def pair(request, make_pair) -> Pair:
    return make_pair(request.param)


@pytest.fixture
def views(make_pair) -> Pair:
    return make_pair("views")


def outputs_of(pair: Pair, adata, *, projects: bool = True) -> list:
    """-> outputs of torch and of JAX."""
    _, cells = pair.model._resolve(adata)
    axes = judge_of(pair.model).axes if projects else None
    return [pair.model._run(cells, np.arange(adata.n_obs), axes=axes), pair.predictor._run(cells, axes=axes)]


def assert_same(found, expected) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@needs_jax
class TestSameNumbers:
    def test_logits_and_states(self, pair, query):
        expected, found = outputs_of(pair, query)
        assert_same(found.logits, expected.logits)
        assert_same(found.z, expected.z)
        assert np.ptp(expected.logits) > 1e-3  # else nothing was compared

    @pytest.mark.parametrize("n_obs", [1, 601])
    def test_one_cell_and_several_blocks(self, views, make_adata, n_obs):
        expected, found = outputs_of(views, make_adata(n_obs, seed=1), projects=False)
        assert_same(found.logits, expected.logits)
        assert_same(found.z, expected.z)

    def test_projections_and_empty_cells(self, pair, query):
        query.X = sp.csr_matrix(query.X.toarray() * (np.arange(61) != 5)[:, None])
        expected, found = outputs_of(pair, query)
        np.testing.assert_allclose(found.projected, expected.projected, rtol=1e-5, atol=1e-4)  # sums of some hundreds
        np.testing.assert_array_equal(found.is_empty, expected.is_empty)
        assert found.is_empty.sum() == 1

    def test_genes_that_the_data_lack(self, pair, query):
        expected, found = outputs_of(pair, query[:, 4:].copy())
        assert_same(found.logits, expected.logits)
        assert_same(found.z, expected.z)

    def test_counts_at_the_borders_of_bins(self, make_pair, query):
        """One, three, seven ... of ten thousand molecules are just in the next bin."""
        pair = make_pair("performer")
        counts = np.zeros((61, 53), dtype=np.float32)
        counts[:, 1:8] = np.random.default_rng(0).choice([0, 1, 3, 7, 15, 31], size=(61, 7))
        counts[:, 0] = 10_000 - counts.sum(axis=1)
        query.X = sp.csr_matrix(counts)
        expected, found = outputs_of(pair, query)
        assert_same(found.logits, expected.logits)

    def test_latent_representation(self, views, query):
        assert_same(views.predictor.get_latent_representation(query), views.model.get_latent_representation(query))


@needs_jax
class TestSameResult:
    def test_all_that_is_written(self, pair, query):
        arguments = {"fdr": 0.3, "sets": True, "coverage": 0.8, "refine": True, "soft": True}
        expected = pair.model.predict(query, key_added="torch", **arguments)
        found = pair.predictor.predict(query, key_added="jax", **arguments)
        pd.testing.assert_frame_equal(found, expected, atol=1e-5, rtol=1e-5)
        written = {key.removeprefix("torch"): query.obs[key] for key in query.obs if key.startswith("torch")}
        assert {*written} >= {"", "_confidence", "_novelty", "_group", "_set"}
        for key, column in written.items():
            pd.testing.assert_series_equal(query.obs[f"jax{key}"], column, check_names=False, atol=1e-3, rtol=1e-4)
        np.testing.assert_array_equal(query.obsm["jax_sets"], query.obsm["torch_sets"])
        pd.testing.assert_frame_equal(query.uns["jax_groups"], query.uns["torch_groups"], atol=1e-3)

    def test_nothing_is_written_unasked(self, views, query):
        expected = views.model.predict(query, key_added=None)
        np.testing.assert_array_equal(views.predictor.predict(query, key_added=None), expected)
        assert list(query.obs) == ["cell_type", "batch"]

    def test_batches_that_the_model_does_not_know(self, views, new_batch_query):
        expected = TransAnno.load_query_data(new_batch_query, views.model).predict(soft=True)
        pd.testing.assert_frame_equal(views.predictor.predict(new_batch_query, soft=True), expected, atol=1e-5)
        del new_batch_query.obs["batch"]
        expected = TransAnno.load_query_data(new_batch_query, views.model).predict(soft=True)
        pd.testing.assert_frame_equal(views.predictor.predict(new_batch_query, soft=True), expected, atol=1e-5)

    @pytest.mark.filterwarnings("ignore::transanno.TransAnnoWarning")
    def test_counts_are_restored_and_genes_found(self, views, query):
        sc.pp.normalize_total(query, target_sum=1e4)
        sc.pp.log1p(query)
        query = query[:, ::-1].copy()
        query.var_names = query.var_names.str.lower()
        expected = views.model.predict(query, soft=True)
        pd.testing.assert_frame_equal(views.predictor.predict(query, soft=True), expected, atol=1e-5)

    def test_a_model_of_mudata(self, make_mdata, small, fast, tmp_path):
        from transanno.jax import load_predictor

        reference, query = make_mdata(), make_mdata(61, seed=1)
        TransAnno.setup_mudata(reference, "cell_type", batch_key="batch")
        model = TransAnno(reference, **small | {"n_networks": 1})
        model.train(1, **fast)
        model.export(tmp_path)
        expected = model.predict(query, soft=True, key_added=None)
        found = load_predictor(tmp_path).predict(query, soft=True)
        pd.testing.assert_frame_equal(found, expected, atol=1e-5)
        assert "transanno" in query.obs


@needs_jax
class TestSameAttributions:
    # Few steps: rounding is what is compared, not the quadrature.
    @pytest.mark.parametrize("name", ["views", "performer"])
    def test_from_the_average_cell(self, make_pair, query, name):
        pair = make_pair(name)
        expected = pair.model.get_gene_attributions(query, n_steps=3)
        found = pair.predictor.get_gene_attributions(query, n_steps=3)
        pd.testing.assert_frame_equal(found, expected, atol=1e-5, rtol=1e-4)
        assert found.attrs == expected.attrs
        assert expected.abs().max(axis=None) > 1e-3

    def test_groups_labels_and_a_silent_baseline(self, views, query):
        query.obs.loc[query.obs_names[:5], "cell_type"] = np.nan
        arguments = {"label": "T cell", "against": "B cell", "baseline": "silent", "n_steps": 3}
        expected = views.model.get_gene_attributions(query[:, 4:].copy(), groupby=query.obs["cell_type"], **arguments)
        found = views.predictor.get_gene_attributions(query[:, 4:].copy(), query.obs["cell_type"], **arguments)
        pd.testing.assert_frame_equal(found, expected, atol=1e-5, rtol=1e-4)
        assert (found[["GENE00", "GENE03"]] == 0).all(axis=None)  # which the data lack

    @pytest.mark.parametrize(
        "arguments",
        [
            {"label": "B"},
            {"against": "B"},
            {"baseline": "zero"},
            {"n_steps": 0},
            {"groupby": ["a", "b"]},
            {"groupby": "no"},
        ],
    )
    def test_errors(self, views, query, arguments):
        with pytest.raises((ValueError, KeyError)) as expected:
            views.model.get_gene_attributions(query, **arguments)
        with pytest.raises(type(expected.value)) as found:
            views.predictor.get_gene_attributions(query, **arguments)
        assert str(found.value) == str(expected.value)


def few_genes(adata):
    return adata[:, :13].copy(), {}


def scaled(adata):
    adata.X = adata.X.toarray() - 1.0
    return adata, {}


def not_finite(adata):
    adata.X = adata.X.toarray()
    adata.X[3, 5] = np.nan
    return adata, {}


BAD = {
    "few genes": few_genes,
    "scaled": scaled,
    "not finite": not_finite,
    "no cells": lambda adata: (adata[:0].copy(), {}),
    "a frame": lambda adata: (adata.to_df(), {}),
    "a MuData": lambda adata: (mudata.MuData({"rna": adata}), {}),
    "nothing": lambda adata: (None, {}),
    "fdr": lambda adata: (adata, {"fdr": 2}),
    "coverage": lambda adata: (adata, {"sets": True, "coverage": 0}),
}


@needs_jax
class TestSameComplaints:
    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("damage", BAD.values(), ids=[*BAD])
    def test_errors(self, damage, views, query):
        bad, arguments = damage(query)
        if bad is None:  # of which torch has its own
            with pytest.raises(TypeError, match="adata is a NoneType"):
                views.predictor.predict(None)
            return
        with pytest.raises((ValueError, TypeError, KeyError)) as expected:
            views.model.predict(bad, **arguments)
        with pytest.raises(type(expected.value)) as found:
            views.predictor.predict(bad, **arguments)
        assert str(found.value) == str(expected.value)

    def test_warnings(self, views, query):
        query.X = sp.csr_matrix(query.X.toarray() * (np.arange(61) > 2)[:, None])
        heard = []
        for one in (views.model, views.predictor):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                one.predict(query[:40].copy(), fdr=0.7)
            heard.append([str(warning.message) for warning in caught])
        assert heard[0] == heard[1]
        assert len(heard[0]) == 4  # of empty cells, of what a rate is worth, of this rate, of few cells

    def test_a_model_that_was_not_calibrated(self, model, query, tmp_path):
        from transanno.jax import load_predictor

        model.export(tmp_path)
        predictor = load_predictor(tmp_path)
        for one in (model, predictor):
            with pytest.raises(ValueError, match="fdr and sets rest on reference cells that were held out"):
                one.predict(query, fdr=0.1)


@needs_jax
class TestCompiling:
    @pytest.fixture
    def n_compiled(self):
        """-> list that grows with everything that is compiled."""
        import jax

        compiled = []

        def listen(event: str, duration: float, **kwargs) -> None:
            if event == "/jax/core/compile/backend_compile_duration":
                compiled.append(event)

        jax.monitoring.register_event_duration_secs_listener(listen)
        yield compiled
        jax.monitoring.clear_event_listeners()

    def test_once_for_a_shape(self, views, make_adata, n_compiled):
        import jax

        jax.jit(lambda x: x + 1)(1)
        assert n_compiled  # else nothing is listened to
        views.predictor.predict(make_adata(1111, seed=2))
        n_compiled.clear()
        for n_obs in (1111, 700, 513, 512):  # in blocks of 512, the last one padded
            views.predictor.predict(make_adata(n_obs, seed=3))
            views.predictor.get_latent_representation(make_adata(n_obs, seed=3))
        assert n_compiled == []

    def test_few_cells_are_a_small_block(self, views, make_adata, n_compiled):
        views.predictor.predict(make_adata(61, seed=2))
        n_compiled.clear()
        for n_obs in (1, 47, 64):
            views.predictor.predict(make_adata(n_obs, seed=3))
        assert n_compiled == []

    def test_no_dense_copy_is_larger_than_a_block(self, views, make_adata, monkeypatch):
        shapes, toarray = [], sp.csr_matrix.toarray

        def spy(self, *args, **kwargs):
            shapes.append(self.shape)
            return toarray(self, *args, **kwargs)

        monkeypatch.setattr(sp.csr_matrix, "toarray", spy)
        views.predictor.predict(make_adata(1111, seed=2))
        assert shapes == [(512, 53), (512, 53), (87, 53)]


class TestWithout:
    def test_torch_and_scvi_are_not_needed(self, request, tmp_path, make_adata):
        """From import to what is written; an import of either fails."""
        if find_spec("jax") is None:
            pytest.skip("jax, the extra 'jax', is not installed")
        pair = request.getfixturevalue("make_pair")("views")
        query = make_adata(61, seed=1)
        query.write_h5ad(tmp_path / "query.h5ad")
        run_refusing(
            ("torch", "scvi", "lightning", "pytorch_lightning"),
            f"""
            import anndata
            import transanno.jax
            predictor = transanno.jax.load_predictor({str(pair.folder)!r})
            query = anndata.read_h5ad({str(tmp_path / "query.h5ad")!r})
            predictor.predict(query, fdr=0.1, sets=True, refine=True)
            predictor.get_latent_representation(query)
            query.write_h5ad({str(tmp_path / "query.h5ad")!r})
            """,
        )
        expected = pair.model.predict(query, refine=True)
        found = ad.read_h5ad(tmp_path / "query.h5ad").obs["transanno"].to_numpy()
        assert (found == expected)[found != "Unknown"].all()

    def test_jax_is_asked_for_where_it_is_missing(self):
        run_refusing(
            ("jax", "jaxlib"),
            """
            import transanno
            try:
                import transanno.jax
            except ImportError as error:
                assert 'pip install "transanno[jax]"' in str(error), error
            else:
                raise AssertionError("it was imported")
            """,
        )


def run_refusing(names: tuple[str, ...], code: str) -> None:
    """Run code in a fresh interpreter where these packages cannot be imported."""
    refusing = f"""
import sys
class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refusing())
"""
    code = refusing + inspect.cleandoc(code)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
