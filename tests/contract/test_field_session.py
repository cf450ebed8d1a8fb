"""What other code of the session has set up: torch's default dtype, lazy matrices."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import torch

from transanno import TransAnno, pp, tl


@pytest.fixture
def other_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class TestDefaultDtype:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
    def test_predictions_are_the_same(self, dtype, saved_reference, query, other_default):
        torch.set_default_dtype(torch.float32)
        expected = TransAnno.load_query_data(query.copy(), saved_reference, accelerator="cpu").predict(soft=True)
        torch.set_default_dtype(dtype)
        found = TransAnno.load_query_data(query.copy(), saved_reference, accelerator="cpu").predict(soft=True)
        pd.testing.assert_frame_equal(found, expected)

    def test_annotate_calibrates_and_judges(self, make_adata, query, fast, other_default):
        model = tl.annotate(query, make_adata(211), labels_key="cell_type", max_epochs=1, fdr=0.2, **fast)
        assert model.get_latent_representation().dtype == np.float32
        assert {parameter.dtype for parameter in model.module.parameters()} == {torch.float32}
        assert query.obs["transanno"].notna().all()
        assert query.obs["transanno_novelty"].notna().all()

    @pytest.mark.parametrize("encoder", ["views", "performer"])
    def test_training_with_a_reconstruction(self, encoder, reference, fast, other_default):
        TransAnno.setup_anndata(reference, "cell_type", batch_key="batch")
        model = TransAnno(reference, encoder=encoder, n_hidden=16, n_layers=1, n_heads=2)
        model.train(1, plan_kwargs={"reconstruction_weight": 1.0}, **fast)
        assert model.predict(soft=True).shape == (97, 3)

    def test_pretraining(self, reference, fast, other_default):
        assert tl.pretrain(reference, max_epochs=1, **fast).is_trained


class Lazy:
    """As little of a dask array as is looked at, so that dask is not needed."""

    def __init__(self, matrix) -> None:
        self.shape, self.dtype, self.ndim = matrix.shape, matrix.dtype, 2

    def __dask_graph__(self) -> None:
        return None


class TestLazy:
    @pytest.fixture(params=["X", "layer"])
    def lazy(self, request, query, model, monkeypatch):
        query.layers["counts"] = query.X.copy()
        if request.param == "X":
            matrix = Lazy(query.X)
            monkeypatch.setattr(type(query), "X", property(lambda adata: matrix))
            return query
        monkeypatch.setattr(type(query.layers), "__getitem__", lambda layers, key: Lazy(layers._data["counts"]))
        return query

    def test_is_one_sentence_wherever_all_cells_are_needed(self, lazy, model):
        for function in (
            lambda: pp.check(lazy),
            lambda: TransAnno.setup_anndata(lazy, "cell_type"),
            lambda: tl.cross_validate(lazy, "cell_type"),
            lambda: pp.align_genes(lazy, model),
        ):
            with pytest.raises(TypeError, match=r"is lazy .*to_memory\(\)"):
                function()

    def test_dask_arrays(self, query, model):
        dask = pytest.importorskip("dask.array")
        query.X = dask.from_array(query.X.toarray(), chunks=(20, 53))
        with pytest.raises(TypeError, match=r"adata\.X is lazy.*adata = adata\.to_memory\(\)"):
            TransAnno.setup_anndata(query, "cell_type")
        TransAnno.setup_anndata(query.to_memory(), "cell_type")
