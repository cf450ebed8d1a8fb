from __future__ import annotations

import numpy as np
import pytest
import torch

from transanno.nn import (
    CellReading,
    CellTypeHead,
    ConvHead,
    PerformerEncoder,
    SlotEncoder,
    attribute,
    gauss_legendre,
)

N_OBS, N_VARS, N_LABELS = 5, 23, 4


def make(encoder: str, head: str):
    torch.manual_seed(1)
    network = (
        SlotEncoder(n_vars=N_VARS, n_hidden=14, n_latent=11, n_slots=3, n_layers=1, n_heads=2)
        if encoder == "slots"
        else PerformerEncoder(n_vars=N_VARS, n_hidden=13, n_layers=1, n_heads=2, head_dim=8)
    )
    sizes = {"n_vars": N_VARS, "n_tokens": network.n_tokens, "n_hidden": network.n_hidden}
    sizes |= {"n_latent": network.n_latent, "n_labels": N_LABELS, "dropout_rate": 0.1}
    classifier = {"wide": CellTypeHead, "conv": ConvHead}[head](**sizes)
    with torch.no_grad():
        for parameter in [*network.parameters(), *classifier.parameters()]:  # nothing at its start value
            parameter.add_(0.2 * torch.randn_like(parameter))
        if head == "wide":
            classifier.initialize(torch.rand(N_VARS))
    return network.double().eval(), classifier.double().eval()


@pytest.fixture
def cells():
    torch.manual_seed(2)
    is_masked = torch.zeros(1, N_VARS, dtype=torch.bool)
    is_masked[0, [3, 17]] = True
    expression = torch.log1p(torch.poisson(torch.full((N_OBS, N_VARS), 1.1, dtype=torch.float64)) * 90)
    return expression.masked_fill(is_masked, 0.0), is_masked


def logits_of(network, classifier, expression, is_masked, batch):
    return classifier(network(expression, is_masked, batch), expression, is_masked)


def explained(network, classifier, cells, *, n_steps: int):
    """-> contributions, and what they should sum to."""
    expression, is_masked = cells
    batch = torch.linspace(-1, 1, network.n_hidden, dtype=torch.float64).expand(N_OBS, -1)
    contrast = torch.linspace(-1, 1, N_LABELS * N_OBS, dtype=torch.float64).view(N_OBS, N_LABELS)
    empty = torch.zeros_like(expression[:1])
    with torch.no_grad():
        start = CellReading(empty, network.read(empty, is_masked))
        end = CellReading(expression, network.read(expression, is_masked))
        found = attribute(network, classifier, start, end, is_masked, batch, contrast, n_steps=n_steps)
        ends = [logits_of(network, classifier, x, is_masked, batch) for x in (expression, empty.expand_as(expression))]
        expected = (contrast * (ends[0] - ends[1])).sum(dim=1)
    return found, expected


@pytest.mark.parametrize("n_steps", [1, 2, 7, 16])
def test_nodes_and_weights_are_those_of_numpy(n_steps: int) -> None:
    nodes, weights = np.polynomial.legendre.leggauss(n_steps)
    found = gauss_legendre(n_steps)
    np.testing.assert_allclose(found[0], (nodes + 1) / 2, atol=1e-14)
    np.testing.assert_allclose(found[1], weights / 2, atol=1e-14)


@pytest.mark.parametrize(
    ("encoder", "head", "n_steps"),
    [("slots", "wide", 96), ("slots", "conv", 256), ("performer", "wide", 32), ("performer", "conv", 256)],
)
def test_contributions_of_a_cell_sum_to_the_difference_from_the_baseline(encoder, head, n_steps, cells) -> None:
    network, classifier = make(encoder, head)
    found, expected = explained(network, classifier, cells, n_steps=n_steps)
    assert found.shape == (N_OBS, N_VARS)
    assert expected.abs().min() > 1e-3
    # The perceptron of "conv" and the maximum in the Performer's attention have kinks, where a quadrature converges slowly.
    tolerance = 1e-5 if (encoder, head) == ("slots", "wide") else 1e-2
    torch.testing.assert_close(
        found.sum(dim=1), expected, rtol=tolerance, atol=tolerance * float(expected.abs().mean())
    )


def test_the_error_of_the_sum_shrinks_with_the_number_of_steps(cells) -> None:
    network, classifier = make("slots", "wide")
    errors = []
    for n_steps in (4, 24, 96):
        found, expected = explained(network, classifier, cells, n_steps=n_steps)
        errors.append(float((found.sum(dim=1) - expected).abs().mean()))
    assert errors[0] > 3 * errors[1] > 30 * errors[2]


@pytest.mark.parametrize("encoder", ["slots", "performer"])
def test_masked_genes_and_genes_like_the_baseline_contribute_nothing(encoder, cells) -> None:
    found, _ = explained(*make(encoder, "wide"), cells, n_steps=4)
    expression, is_masked = cells
    assert (found[expression == 0] == 0).all()
    assert (found[:, is_masked[0]] == 0).all()
    assert (found[expression > 0] != 0).all()


def test_slots_are_explained_as_by_gradients_of_expression_itself(cells) -> None:
    """The short way, through sums over genes, against integrated gradients by autograd along expression."""
    network, classifier = make("slots", "wide")
    expression, is_masked = cells
    found, _ = explained(network, classifier, cells, n_steps=6)
    batch = torch.linspace(-1, 1, network.n_hidden, dtype=torch.float64).expand(N_OBS, -1)
    contrast = torch.linspace(-1, 1, N_LABELS * N_OBS, dtype=torch.float64).view(N_OBS, N_LABELS)
    nodes, weights = np.polynomial.legendre.leggauss(6)
    expected = torch.zeros_like(expression)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        point = (node * expression).requires_grad_()
        total = (contrast * logits_of(network, classifier, point, is_masked, batch)).sum()
        expected += weight * torch.autograd.grad(total, point)[0] * expression
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("encoder", ["slots", "performer"])
def test_reading_and_encoding_are_the_forward_pass_in_two_parts(encoder, cells) -> None:
    network, _ = make(encoder, "wide")
    expression, is_masked = cells
    batch = torch.randn(N_OBS, network.n_hidden, dtype=torch.float64)
    whole = network(expression, is_masked, batch)
    parts = network.encode(network.read(expression, is_masked), is_masked, batch)
    assert torch.equal(whole.cell_state, parts.cell_state)
    assert torch.equal(whole.tokens, parts.tokens)


def test_attention_is_the_formula_of_the_docstring_without_silent_genes(cells) -> None:
    attention = make("slots", "wide")[0].attention
    expression, _ = cells
    weights = attention.gene_slot_weights()  # (n_vars, n_slots)
    found = attention.attend(expression)
    for n in range(N_OBS):
        for s in range(3):
            expected = expression[n] * weights[:, s]
            torch.testing.assert_close(found[n, s], expected / expected.sum())


def test_attention_of_an_empty_cell_is_zero() -> None:
    attention = make("slots", "wide")[0].attention
    assert (attention.attend(torch.zeros(1, N_VARS, dtype=torch.float64)) == 0).all()
