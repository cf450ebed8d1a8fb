"""Cells end with their model: scvi-tools keeps what was registered for as long as Python runs."""

from __future__ import annotations

import copy
import gc
import weakref

import numpy as np

from transanno import TransAnno, TransAnnoPretrain, tl


def n_managers() -> list[int]:
    gc.collect()
    stores = [
        (cls._setup_adata_manager_store, cls._per_instance_manager_store) for cls in (TransAnno, TransAnnoPretrain)
    ]
    return [len(store) for pair in stores for store in pair]


def test_copies_of_ours_go_with_their_models(make_adata, fast):
    query, reference, before = make_adata(61, seed=1), make_adata(307), n_managers()
    model = tl.annotate(query, reference, labels_key="cell_type", max_epochs=1, **fast)
    pretrained = tl.pretrain(reference, max_epochs=1, **fast)
    seen = [weakref.ref(each.adata) for each in (model, pretrained)]
    assert all(each() is not None for each in seen)
    assert n_managers() != before
    model.predict(query)
    del model, pretrained
    assert n_managers() == before
    assert [each() for each in seen] == [None, None]


def test_no_fold_stays(make_adata, fast):
    reference, before = make_adata(307), n_managers()
    tl.cross_validate(reference, "cell_type", n_splits=3, max_epochs=1, **fast)
    assert n_managers() == before


def test_what_the_user_registered_stays_registered(reference, small, fast):
    TransAnno.setup_anndata(reference, "cell_type")
    model = TransAnno(reference, **small)
    model.train(1, **fast)
    del model
    gc.collect()
    again = TransAnno(reference, **small)
    again.train(1, **fast)
    assert len(again.predict()) == reference.n_obs


def test_a_copy_of_a_model_outlives_it(saved_reference, query):
    model = TransAnno.load_query_data(query, saved_reference, accelerator="cpu")
    copied, expected = copy.deepcopy(model), model.predict(soft=True, key_added=None)
    del model
    gc.collect()
    np.testing.assert_array_equal(copied.predict(soft=True, key_added=None), expected)
