"""The network as a pure function: under jit, vmap and grad, and whatever it is padded with."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("jax", reason="jax, the extra 'jax', is not installed")

import jax
import jax.numpy as jnp

import transanno.jax
from transanno import TransAnno
from transanno.jax import forward
from transanno.jax._backend import JaxBackend, rows_per_block
from transanno.saving._export import read_export

PAGE = Path(__file__).parents[3] / "docs" / "user_guide" / "jax.md"


@pytest.fixture(scope="module")
def model(make_adata, small, fast, start_afresh):
    """With one network, which compiles in half the time of two."""
    start_afresh()
    adata = make_adata()
    TransAnno.setup_anndata(adata, "cell_type", batch_key="batch")
    model = TransAnno(adata, **small | {"n_networks": 1})
    model.train(2, plan_kwargs={"lr": 5e-3}, **fast)
    return model


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    model.export(folder)
    return folder


@pytest.fixture(scope="module")
def weights(exported):
    return transanno.jax.load_predictor(exported).weights


@pytest.fixture(scope="module")
def counts(make_adata) -> np.ndarray:
    return make_adata(7, seed=1).X.toarray()


@pytest.fixture(scope="module")
def compiled():
    return jax.jit(forward)


class TestForward:
    def test_equals_the_module_of_torch(self, model, weights, counts, compiled):
        module = model.module.eval()
        is_missing, center = np.arange(53) % 5 == 0, np.linspace(0, 2, 53, dtype=np.float32)
        batch = np.array([0, 1, 1, 0, 0, 1, 0])
        with torch.inference_mode():
            arguments = [torch.from_numpy(values) for values in (counts, batch[:, None], is_missing, center)]
            expected = module.inference(*arguments)
        found = compiled(weights, counts, is_missing, batch, center)
        np.testing.assert_allclose(found.logits, expected["logits"], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found.z, expected["z"], rtol=1e-5, atol=1e-5)
        assert found.projected.shape == (7, 0)

    def test_a_cell_is_a_vector(self, weights, counts, compiled):
        expected = compiled(weights, counts)
        found = jax.jit(jax.vmap(forward, in_axes=(None, 0)))(weights, counts)
        assert found.logits.shape == (7, 3)
        np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found.z, expected.z, rtol=1e-5, atol=1e-5)

    def test_gradients_by_weights_and_counts_are_finite(self, weights, counts):
        @jax.jit
        def gradients(weights, counts):
            return jax.grad(lambda w, x: forward(w, x).logits[:, 0].sum(), argnums=(0, 1))(weights, counts)

        by_weights, by_counts = gradients(weights, np.vstack([counts[:6], np.zeros((1, 53), np.float32)]))
        assert all(jnp.isfinite(values).all() for values in jax.tree.leaves(by_weights))
        assert jnp.isfinite(by_counts).all()
        assert (by_counts[:6] != 0).any(axis=1).all()

    def test_an_unknown_batch_has_an_embedding_of_its_own(self, exported, weights):
        embedding = weights.arrays["batch_embedding.weight"]
        np.testing.assert_array_equal(embedding[-1], read_export(exported).weights["unknown_batch"])
        assert len(embedding) == 3


class TestBlocks:
    @pytest.mark.parametrize("n_rows", [7, 11, 64])
    def test_padding_has_no_influence(self, weights, make_adata, compiled, n_rows):
        rows = make_adata(7, seed=1).X
        is_missing, batch, center = (
            np.zeros(53, dtype=bool),
            np.array([0, 1, 1, 0, 0, 1, 0]),
            np.full(53, 0.5, np.float32),
        )
        backend = JaxBackend(weights, n_rows=n_rows, center=center)
        first = backend(rows, batch, is_missing)
        expected = compiled(weights, rows.toarray(), is_missing, batch, center)
        for found, wanted in zip(first, expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
        # What an earlier block left in memory has none, either.
        for found, wanted in zip(backend(rows[:2], batch[:2], is_missing), first, strict=True):
            np.testing.assert_allclose(found, wanted[:2], rtol=1e-5, atol=1e-5)

    def test_outputs_are_not_overwritten_by_the_next_block(self, weights, make_adata):
        backend = JaxBackend(weights, n_rows=7)
        is_missing, batch = np.zeros(53, dtype=bool), np.zeros(7, dtype=int)
        first = backend(make_adata(7, seed=1).X, batch, is_missing)
        kept = first.z.copy()
        backend(make_adata(7, seed=2).X, batch, is_missing)
        np.testing.assert_array_equal(first.z, kept)

    def test_there_are_few_shapes(self):
        assert {rows_per_block(n_cells, 1024) for n_cells in range(5000)} == {64, 128, 256, 512}
        assert {rows_per_block(n_cells, 37) for n_cells in range(5000)} == {37}
        assert all(rows_per_block(n_cells, 1024) >= n_cells for n_cells in range(513))


class TestPage:
    @pytest.mark.parametrize("optimizer", ["", " by optax"])
    def test_head_of_ones_own_learns(self, exported, make_adata, optimizer):
        """The lines of the page, as they are; those by optax go on from a head that has learnt nothing."""
        if optimizer:
            pytest.importorskip("optax", reason="optax, which no extra brings, is not installed")
        adata = make_adata(97, seed=2)
        types, y = np.unique(adata.obs["cell_type"], return_inverse=True)
        blocks = dict(re.findall(r"<!-- own head(.*?) -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
        names = {
            "transanno": transanno,
            "predictor": transanno.jax.load_predictor(exported),
            "counts": adata.X.toarray(),
            "y": jnp.asarray(y),
            "n_classes": len(types),
        }
        exec(blocks[""], names)
        if optimizer:
            names["head"] = jax.tree.map(jnp.zeros_like, names["head"])
            exec(blocks[optimizer], names)
        called = (names["z"] @ names["head"]["weight"] + names["head"]["bias"]).argmax(axis=1)
        assert (called == y).mean() > 0.9
