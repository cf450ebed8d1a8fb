from __future__ import annotations

import numpy as np
import pytest
import torch

from transanno.nn import (
    CellReading,
    CellTypeHead,
    Context,
    ConvHead,
    PerformerEncoder,
    Shares,
    ViewEncoder,
    attribute,
)

N_OBS, N_VARS, N_LABELS = 5, 23, 4


def make(encoder: str, head: str):
    torch.manual_seed(1)
    network = (
        ViewEncoder(n_vars=N_VARS, n_hidden=14, n_latent=10, n_networks=2, n_layers=1, n_heads=2)
        if encoder == "views"
        else PerformerEncoder(n_vars=N_VARS, n_hidden=13, n_layers=1, n_heads=2, head_dim=8)
    )
    sizes = {"n_vars": N_VARS, "n_tokens": network.n_tokens, "n_hidden": network.n_hidden}
    sizes |= {"n_latent": network.n_latent, "n_labels": N_LABELS, "dropout_rate": 0.1}
    if head == "experts":
        classifier = CellTypeHead(**sizes, n_networks=network.n_networks)
    else:
        classifier = ConvHead(**sizes)
    with torch.no_grad():
        for parameter in [*network.parameters(), *classifier.parameters()]:  # nothing at its start value
            parameter.add_(0.2 * torch.randn_like(parameter))
    if head == "experts":
        weight, directions = torch.randn(2, N_LABELS, N_VARS)
        classifier.set_experts(weight, torch.randn(N_LABELS), directions, torch.rand(N_VARS), Shares(0.7, 0.2, 0.3))
    return network.double().eval(), classifier.double().eval()


@pytest.fixture
def cells():
    """Expression, mask, and what is known of the data set."""
    torch.manual_seed(2)
    is_masked = torch.zeros(1, N_VARS, dtype=torch.bool)
    is_masked[0, [3, 17]] = True
    expression = torch.log1p(torch.poisson(torch.full((N_OBS, N_VARS), 1.1, dtype=torch.float64)) * 90)
    means = (5.0 * torch.rand(1, N_VARS, dtype=torch.float64) for _ in range(2))
    context = Context(*(mean.masked_fill(is_masked, 0.0) for mean in means))
    return expression.masked_fill(is_masked, 0.0), is_masked, context


def batch_and_contrast(network) -> tuple[torch.Tensor, torch.Tensor]:
    batch = torch.linspace(-1, 1, network.n_hidden, dtype=torch.float64).expand(N_OBS, -1)
    return batch, torch.linspace(-1, 1, N_LABELS * N_OBS, dtype=torch.float64).view(N_OBS, N_LABELS)


def at_distance_of(expression, context) -> Context:
    return context._replace(length=(expression - context.center).norm(dim=1))


def logits_of(network, classifier, expression, is_masked, batch, context):
    return classifier(network(expression, is_masked, batch, context), expression, is_masked, context)


def explained(network, classifier, cells, *, n_steps: int):
    """-> contributions, and what they should sum to: the distance from the mean is that of the cell all the way."""
    expression, is_masked, context = cells
    batch, contrast = batch_and_contrast(network)
    empty = torch.zeros_like(expression[:1])
    with torch.no_grad():
        start = CellReading(empty, network.read(empty, is_masked))
        end = CellReading(expression, network.read(expression, is_masked))
        found = attribute(network, classifier, start, end, is_masked, batch, context, contrast, n_steps=n_steps)
        both, kept = (expression, empty.expand_as(expression)), at_distance_of(expression, context)
        ends = [logits_of(network, classifier, x, is_masked, batch, kept) for x in both]
        expected = (contrast * (ends[0] - ends[1])).sum(dim=1)
    return found, expected


@pytest.mark.parametrize(
    ("encoder", "head", "n_steps"),
    [("views", "experts", 96), ("views", "conv", 256), ("performer", "experts", 32), ("performer", "conv", 256)],
)
def test_contributions_of_a_cell_sum_to_the_difference_from_the_baseline(encoder, head, n_steps, cells) -> None:
    network, classifier = make(encoder, head)
    found, expected = explained(network, classifier, cells, n_steps=n_steps)
    assert found.shape == (N_OBS, N_VARS)
    assert expected.abs().min() > 1e-3
    # The perceptron of "conv" and the maximum in the Performer's attention have kinks, where a quadrature converges slowly.
    tolerance = 1e-5 if (encoder, head) == ("views", "experts") else 1e-2
    torch.testing.assert_close(
        found.sum(dim=1), expected, rtol=tolerance, atol=tolerance * float(expected.abs().mean())
    )


def test_the_error_of_the_sum_shrinks_with_the_number_of_steps(cells) -> None:
    network, classifier = make("views", "experts")
    errors = []
    for n_steps in (4, 24, 96):
        found, expected = explained(network, classifier, cells, n_steps=n_steps)
        errors.append(float((found.sum(dim=1) - expected).abs().mean()))
    assert errors[0] > 3 * errors[1] > 30 * errors[2]


@pytest.mark.parametrize("encoder", ["views", "performer"])
def test_masked_genes_and_genes_like_the_baseline_contribute_nothing(encoder, cells) -> None:
    found, _ = explained(*make(encoder, "experts"), cells, n_steps=4)
    expression, is_masked, _ = cells
    assert (found[expression == 0] == 0).all()
    assert (found[:, is_masked[0]] == 0).all()
    assert (found[expression > 0] != 0).all()


def test_views_are_explained_as_by_gradients_of_expression_itself(cells) -> None:
    """Through reading and expression apart, against integrated gradients by autograd along expression."""
    network, classifier = make("views", "experts")
    expression, is_masked, context = cells
    found, _ = explained(network, classifier, cells, n_steps=6)
    batch, contrast = batch_and_contrast(network)
    nodes, weights = np.polynomial.legendre.leggauss(6)
    expected = torch.zeros_like(expression)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        point = (node * expression).requires_grad_()
        kept = at_distance_of(expression, context)
        total = (contrast * logits_of(network, classifier, point, is_masked, batch, kept)).sum()
        expected += weight * torch.autograd.grad(total, point)[0] * expression
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("expert", ["deep", "linear", "cosine"])
def test_contributions_to_one_expert_sum_up_too(expert, cells) -> None:
    network, classifier = make("views", "experts")
    with classifier.weighted(Shares(0.0, 0.0, 0.0)._replace(**{expert: 0.8})):
        found, expected = explained(network, classifier, cells, n_steps=96)
    torch.testing.assert_close(found.sum(dim=1), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().mean()))


def test_contributions_from_the_mean_of_the_data_set_are_complete(cells) -> None:
    """There a cell has no direction, and its first step away would turn it at once."""
    network, classifier = make("views", "experts")
    expression, is_masked, context = cells
    batch, contrast = batch_and_contrast(network)
    with torch.no_grad():
        start, end = (CellReading(x, network.read(x, is_masked)) for x in (context.center, expression))
        found = attribute(network, classifier, start, end, is_masked, batch, context, contrast, n_steps=96)
        kept = at_distance_of(expression, context)
        both = expression, context.center.expand_as(expression)
        ends = [logits_of(network, classifier, x, is_masked, batch, kept) for x in both]
    expected = (contrast * (ends[0] - ends[1])).sum(dim=1)
    torch.testing.assert_close(found.sum(dim=1), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().mean()))


def test_contributions_to_the_cosine_expert_are_those_to_the_scalar_product(cells) -> None:
    """So that one step is enough, and from the mean of the data set they sum to the whole cosine."""
    network, classifier = make("views", "experts")
    expression, is_masked, context = cells
    batch, contrast = batch_and_contrast(network)
    with torch.no_grad(), classifier.weighted(Shares(deep=0.0, cosine=0.6)):
        start, end = (CellReading(x, network.read(x, is_masked)) for x in (context.center, expression))
        found = attribute(network, classifier, start, end, is_masked, batch, context, contrast, n_steps=1)
        logits = logits_of(network, classifier, expression, is_masked, batch, context)
    torch.testing.assert_close(found.sum(dim=1), (contrast * logits).sum(dim=1))
    directions = classifier.directions.masked_fill(is_masked, 0.0)
    cells_, types = (each / each.norm(dim=1, keepdim=True) for each in (expression - context.center, directions))
    torch.testing.assert_close(found, 0.6 * 20 * cells_ * (contrast @ types))


def test_contributions_to_the_linear_expert_are_weight_times_expression(cells) -> None:
    network, classifier = make("views", "experts")
    with classifier.weighted(Shares(deep=0.0, linear=0.8)):
        found, _ = explained(network, classifier, cells, n_steps=1)
    _, contrast = batch_and_contrast(network)
    torch.testing.assert_close(found, 0.8 * cells[0] * (contrast @ classifier.linear_weight))
