from __future__ import annotations

import numpy as np
import pytest
import torch

from transanno.training._module import TransAnnoModule
from transanno.training._transfer import transfer_weights

SMALL = {"n_hidden": 12, "n_latent": 22, "n_networks": 2, "n_layers": 1, "n_heads": 3}
GENE_ROWS = ("encoder.gene_embedding", "expression_head.gene_embedding", "expression_head.gene_bias")
SOURCE_GENES, TARGET_GENES = list("ABCDEFGHIJKLM"), list("zMyCxAwK")


def make_module(n_vars: int, n_batch: int, n_labels: int, **kwargs) -> TransAnnoModule:
    module = TransAnnoModule(n_vars, n_batch, n_labels, **(SMALL | kwargs))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))
    return module


def rows() -> dict[str, np.ndarray]:
    shared = [gene for gene in TARGET_GENES if gene in SOURCE_GENES]
    return {
        "source_rows": np.array([SOURCE_GENES.index(gene) for gene in shared]),
        "target_rows": np.array([TARGET_GENES.index(gene) for gene in shared]),
    }


def copied(module: TransAnnoModule) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in module.state_dict().items()}


def test_genes_by_name_and_the_rest_by_place():
    source, target = make_module(13, 5, 0), make_module(8, 3, 4)
    source.is_other[1] = True
    before, theirs = copied(target), copied(source)
    transfer_weights(source, target, **rows())
    after = target.state_dict()
    for name in GENE_ROWS:
        for i, gene in enumerate(TARGET_GENES):
            expected = theirs[name][SOURCE_GENES.index(gene)] if gene in SOURCE_GENES else before[name][i]
            assert torch.equal(after[name][i], expected), (name, gene)
    kept = {"batch_embedding.weight", "is_other", "mean_expression", "commonest_bins"}
    kept |= {name for name in after if name.startswith("classifier.")}
    assert len(kept) == 4 + 8
    for name in after.keys() - set(GENE_ROWS):
        assert torch.equal(after[name], before[name] if name in kept else theirs[name]), name
    assert all(torch.equal(weight, theirs[name]) for name, weight in source.state_dict().items())


def test_classifier_of_the_source_stays_behind():
    source, target = make_module(13, 5, 7), make_module(8, 3, 4)
    before = copied(target)
    transfer_weights(source, target, **rows())
    for k in (0, 1):
        name = f"classifier.to_logits.{k}.weight"
        assert torch.equal(target.state_dict()[name], before[name])


def test_unknown_batch_is_carried_over():
    source, target = make_module(13, 5, 0), make_module(8, 3, 4)
    transfer_weights(source, target, **rows())
    assert torch.equal(source.unknown_batch, target.unknown_batch)


def test_errors_list_what_does_not_fit():
    source = make_module(13, 5, 0)
    target = make_module(8, 3, 4, n_latent=26)
    before = copied(target)
    with pytest.raises(ValueError, match="5 pretrained weights do not fit the model") as error:
        transfer_weights(source, target, **rows())
    for k in (0, 1):
        name = f"encoder.networks.{k}.to_cell_state"
        assert f"{name}.weight (11, 36) → (13, 36)" in str(error.value)
        assert f"{name}.bias (11,) → (13,)" in str(error.value)
    assert "expression_head.to_bins.0.weight (12, 34) → (12, 38)" in str(error.value)
    assert "Leave out architecture arguments" in str(error.value)
    assert all(torch.equal(weight, before[name]) for name, weight in target.state_dict().items())


@pytest.mark.parametrize(("source_layers", "target_layers", "found"), [(1, 2, "absent → "), (2, 1, " → absent")])
def test_layers_on_one_side_only(source_layers, target_layers, found):
    source = make_module(13, 5, 0, n_layers=source_layers)
    target = make_module(8, 3, 4, n_layers=target_layers)
    with pytest.raises(ValueError, match=r"encoder.networks.\d.blocks.1") as error:
        transfer_weights(source, target, **rows())
    assert found in str(error.value)


@pytest.mark.parametrize("arguments", [{"n_hidden": 15}, {"n_networks": 1, "n_latent": 11}], ids=str)
def test_other_width(arguments):
    with pytest.raises(ValueError, match="do not fit the model"):
        transfer_weights(make_module(13, 5, 0), make_module(8, 3, 4, **arguments), **rows())
