from __future__ import annotations

import pytest
import torch

from transanno.nn import (
    CellTypeHead,
    Context,
    ConvHead,
    ExpressionHead,
    PerformerEncoder,
    TokenExpressionHead,
    ViewEncoder,
    build_classifier,
    build_expression_head,
    default_head,
    encoder_arguments,
)

VIEWS = {"n_hidden": 48, "n_latent": 64, "n_networks": 2, "n_layers": 1, "n_heads": 2}
PERFORMER = {"n_hidden": 200, "n_layers": 6, "n_heads": 10, "head_dim": 64, "n_features": None}
NOTHING = dict.fromkeys([*VIEWS, *PERFORMER])


class TestEncoderArguments:
    @pytest.mark.parametrize(("encoder", "expected"), [("views", VIEWS), ("performer", PERFORMER)])
    def test_none_stands_for_the_default_of_the_encoder(self, encoder, expected):
        assert encoder_arguments(encoder, NOTHING) == expected

    def test_given_ones_win(self):
        assert encoder_arguments("performer", NOTHING | {"n_hidden": 7, "head_dim": 3})["n_hidden"] == 7

    @pytest.mark.parametrize(
        ("encoder", "given", "found"),
        [
            ("views", {"head_dim": 5}, "head_dim=5 does not apply to encoder='views'"),
            ("performer", {"n_networks": 3, "n_latent": 7}, "n_latent=7, n_networks=3 does not apply"),
        ],
    )
    def test_those_of_another_encoder_are_refused(self, encoder, given, found):
        with pytest.raises(ValueError, match=found):
            encoder_arguments(encoder, NOTHING | given)

    def test_unknown_encoder(self):
        with pytest.raises(ValueError, match=r"encoder='ants' is not known\. Allowed: 'views', 'performer'"):
            encoder_arguments("ants", NOTHING)


class TestHeads:
    def test_defaults(self):
        assert (default_head("views"), default_head("performer")) == ("experts", "conv")

    @pytest.mark.parametrize(("name", "kind"), [("experts", CellTypeHead), ("conv", ConvHead)])
    @pytest.mark.parametrize("encoder", ["views", "performer"])
    def test_every_head_reads_every_encoder(self, name, kind, encoder):
        network = (
            ViewEncoder(n_vars=23, n_hidden=12, n_latent=10, n_networks=2, n_layers=1, n_heads=2)
            if encoder == "views"
            else PerformerEncoder(n_vars=23, n_hidden=12, n_layers=1, n_heads=2, head_dim=5)
        )
        head = build_classifier(name, network, n_vars=23, n_labels=5, dropout_rate=0.1).eval()
        assert isinstance(head, kind)
        is_masked = torch.zeros(1, 23, dtype=torch.bool)
        expression, context = torch.rand(7, 23), Context(torch.rand(1, 23), torch.rand(1, 23))
        encoded = network(expression, is_masked, torch.zeros(7, 12), context)
        assert head(encoded, expression, is_masked, context).shape == (7, 5)

    @pytest.mark.parametrize("n_networks", [1, 4])
    def test_every_network_has_logits_of_its_own(self, n_networks):
        encoder = ViewEncoder(n_vars=3, n_latent=20, n_networks=n_networks)
        head = build_classifier("experts", encoder, n_vars=3, n_labels=5, dropout_rate=0.0)
        assert [layer.weight.shape for layer in head.to_logits] == [(5, 20 // n_networks)] * n_networks

    def test_unknown_head(self):
        with pytest.raises(ValueError, match=r"head='tail' is not known\. Allowed: 'experts', 'conv'"):
            build_classifier("tail", ViewEncoder(n_vars=3), n_vars=3, n_labels=2, dropout_rate=0.0)

    def test_expression_is_read_where_the_genes_are(self):
        performer = PerformerEncoder(n_vars=3, n_hidden=5, n_layers=1, n_heads=1, head_dim=2)
        assert isinstance(build_expression_head(performer, n_vars=3), TokenExpressionHead)
        assert isinstance(build_expression_head(ViewEncoder(n_vars=3), n_vars=3), ExpressionHead)
