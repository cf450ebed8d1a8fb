"""Code written for scANVI: its arguments are accepted where they change nothing, and refused with a cure where they ask for more."""

from __future__ import annotations

import inspect
import warnings

import numpy as np
import pytest
import scvi
from scvi.model import SCANVI, SCVI

from transanno import TransAnno, TransAnnoWarning
from transanno.models._from_scanvi import ARGUMENTS

CASES = [(method, name) for method, arguments in ARGUMENTS.items() for name in arguments]


@pytest.mark.parametrize(("method", "name"), CASES)
def test_every_listed_argument_is_one_of_theirs_and_none_of_ours(method, name):
    theirs = [inspect.signature(getattr(cls, method)).parameters for cls in (SCANVI, SCVI) if hasattr(cls, method)]
    assert any(name in parameters for parameters in theirs)
    assert name not in inspect.signature(getattr(TransAnno, method)).parameters


@pytest.mark.parametrize(
    "method", ["predict", "get_latent_representation", "load_query_data", "train", "setup_anndata"]
)
def test_every_argument_of_scanvi_is_ours_or_listed(method):
    parameters = inspect.signature(getattr(SCANVI, method)).parameters.values()
    theirs = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
    ours = inspect.signature(getattr(TransAnno, method)).parameters.keys() | ARGUMENTS[method].keys()
    columns = {
        "size_factor_key",
        "categorical_covariate_keys",
        "continuous_covariate_keys",
    }  # which have an error of their own
    assert theirs - ours - columns == set()


@pytest.mark.parametrize(
    "argument", [{"use_posterior_mean": False}, {"use_posterior_mean": True}, {"ig_interpretability": False}]
)
def test_predict(argument, model, query):
    expected = model.predict(query)
    with pytest.warns(TransAnnoWarning, match=f"{next(iter(argument))}=.* without effect on predict.*Leave it out"):
        found = model.predict(query, **argument)
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("argument", [{"mc_samples": 100}, {"return_dist": False}])
def test_latent_representation(argument, model, query):
    expected = model.get_latent_representation(query)
    with pytest.warns(TransAnnoWarning, match=f"{next(iter(argument))}=.* without effect on get_latent_representation"):
        found = model.get_latent_representation(query, **argument)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("method", "argument", "cure"),
    [
        ("predict", {"ig_interpretability": True}, "get_gene_attributions"),
        ("predict", {"ig_args": {"n_steps": 5}}, "get_gene_attributions"),
        ("get_latent_representation", {"return_dist": True}, "the cell states alone, and not a pair"),
        ("train", {"adversarial_classifier": True}, "batch_dropout"),
    ],
)
def test_what_asks_for_more_is_refused_with_what_to_do(method, argument, cure, model):
    with pytest.raises(
        TypeError, match=f"{next(iter(argument))}=.* is an argument of scANVI that {method}.. does not have.*{cure}"
    ):
        getattr(model, method)(**argument)


@pytest.mark.parametrize("method", ["predict", "get_latent_representation"])
def test_argument_of_nobody_is_refused_as_ever(method, model):
    with pytest.raises(TypeError, match=rf"{method}\(\) has no argument 'batch_sise'. Did you mean 'batch_size'"):
        getattr(model, method)(batch_sise=5)


def test_load_query_data(model, new_batch_query):
    arguments = {
        "freeze_dropout": True,
        "freeze_expression": True,
        "freeze_batchnorm_encoder": True,
        "transfer_batch": True,
    }
    with pytest.warns(TransAnnoWarning) as caught:
        query_model = TransAnno.load_query_data(new_batch_query, model, **arguments, registry=None)
    assert [str(warning.message).partition("=")[0] for warning in caught] == list(arguments)
    expected = TransAnno.load_query_data(new_batch_query, model)
    assert query_model.predict(key_added=None).tolist() == expected.predict(key_added=None).tolist()
    for argument, cure in (
        ({"freeze_expression": False}, "unfrozen=True"),
        ({"transfer_batch": False}, "batch column"),
    ):
        with pytest.raises(TypeError, match=cure):
            TransAnno.load_query_data(new_batch_query, model, **argument)
    with pytest.raises(TypeError, match="has no argument 'unfreeze'. Did you mean 'unfrozen'"):
        TransAnno.load_query_data(new_batch_query, model, unfreeze=True)


def test_setup_model_and_training(reference, small, fast):
    with pytest.warns(TransAnnoWarning, match="use_minified"):
        TransAnno.setup_anndata(reference, "cell_type", use_minified=False)
    with pytest.warns(TransAnnoWarning, match=r"gene_likelihood='nb'.*TransAnno\(\): there is no decoder"):
        model = TransAnno(reference, gene_likelihood="nb", **small)
    assert "gene_likelihood" not in model.init_params_["non_kwargs"]
    with pytest.warns(TransAnnoWarning, match="adversarial_classifier=False"):
        model.train(1, adversarial_classifier=False, **fast)
    assert model.is_trained


def test_warning_points_at_the_line_of_the_user(model, query):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.predict(query, use_posterior_mean=True)
    assert [warning.filename for warning in caught] == [__file__]


def test_from_scvi_model_says_what_to_call(reference):
    with pytest.raises(
        TypeError, match=r"cannot start from an scVI model.*TransAnno.setup_anndata.*TransAnnoPretrain.*from_pretrained"
    ):
        TransAnno.from_scvi_model(object(), "Unlabeled", labels_key="cell_type")


def test_workers_of_scvi_settings_read_the_cells(reference, small, fast):
    """The model is the same however many workers read."""
    weights = []
    for n_workers in (0, 1):
        before = scvi.settings.dl_num_workers
        scvi.settings.dl_num_workers = n_workers
        try:
            scvi.settings.seed = 0
            TransAnno.setup_anndata(reference, "cell_type")
            model = TransAnno(reference, **small)
            model.train(1, train_size=1.0, **fast)
        finally:
            scvi.settings.dl_num_workers = before
        weights.append(model.module.encoder.gene_embedding.detach().numpy())
    np.testing.assert_array_equal(*weights)


def test_seed_of_scvi_settings_makes_training_repeatable(reference, small, fast):
    predicted = []
    for seed in (3, 3, 4):
        scvi.settings.seed = seed
        TransAnno.setup_anndata(reference, "cell_type")
        model = TransAnno(reference, **small)
        model.train(1, train_size=1.0, **fast)
        predicted.append(model.predict(soft=True, key_added=None).to_numpy())
    np.testing.assert_array_equal(predicted[0], predicted[1])
    assert not np.array_equal(predicted[0], predicted[2])
