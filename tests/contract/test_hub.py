"""Conformance 51: models through scvi-tools' hub."""

from __future__ import annotations

import pandas as pd
import pytest

from transanno import TransAnno

huggingface_hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub, the extra 'hub', is not installed")
hub = pytest.importorskip("scvi.hub", reason="scvi.hub needs huggingface_hub", exc_type=ImportError)


@pytest.fixture
def local_dir(model, tmp_path):
    model.save(tmp_path / "model", save_anndata=True)
    return str(tmp_path / "model")


@pytest.fixture
def metadata(local_dir):
    return hub.HubMetadata.from_dir(local_dir, anndata_version="0.12", model_parent_module="transanno")


def test_metadata_name_class_and_module(metadata):
    assert metadata.model_cls_name == "TransAnno"
    assert metadata.model_parent_module == "transanno"


def test_model_comes_back(model, local_dir, metadata, query):
    expected = model.predict(query, soft=True, key_added=None)
    card = huggingface_hub.ModelCard("---\nlibrary_name: transanno\n---\n# A model")
    hub_model = hub.HubModel(local_dir, metadata=metadata, model_card=card)
    assert isinstance(hub_model.model, TransAnno)
    pd.testing.assert_frame_equal(hub_model.model.predict(query, soft=True), expected, check_exact=True)


def test_hub_model_as_reference(local_dir, metadata, new_batch_query, fast):
    card = huggingface_hub.ModelCard("# A model")
    hub_model = hub.HubModel(local_dir, metadata=metadata, model_card=card)
    query_model = TransAnno.load_query_data(new_batch_query, hub_model.model)
    assert (query_model.predict() == new_batch_query.obs["cell_type"].to_numpy()).mean() > 0.9
