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
    build_encoder,
    build_expression_head,
    fill_architecture,
)

VIEWS = {"n_hidden": 48, "n_latent": 64, "n_networks": 2, "n_layers": 1, "n_heads": 2}
PERFORMER = {"n_hidden": 200, "n_layers": 6, "n_heads": 10, "head_dim": 64, "n_features": None}
NOTHING = dict.fromkeys([*VIEWS, *PERFORMER])


class TestArchitecture:
    @pytest.mark.parametrize(("encoder", "expected"), [("views", VIEWS), ("performer", PERFORMER)])
    def test_none_stands_for_the_default_of_the_encoder(self, encoder, expected):
        filled = fill_architecture({"encoder": encoder, **NOTHING}, has_labels=False)
        assert filled == {"encoder": encoder, "dropout_rate": 0.1, **expected}
        assert fill_architecture(filled, has_labels=False) == filled

    def test_views_are_the_default(self):
        assert fill_architecture({}, has_labels=True)["encoder"] == "views"

    def test_given_ones_win(self):
        given = {"encoder": "performer", **NOTHING, "n_hidden": 7, "head_dim": 3, "dropout_rate": 0.3}
        filled = fill_architecture(given, has_labels=False)
        assert (filled["n_hidden"], filled["head_dim"], filled["dropout_rate"]) == (7, 3, 0.3)
        encoder = build_encoder(filled, n_vars=5)
        assert encoder.n_hidden == 7

    @pytest.mark.parametrize(
        ("encoder", "given", "found"),
        [
            ("views", {"head_dim": 5}, "head_dim=5 does not apply to encoder='views'"),
            ("performer", {"n_networks": 3, "n_latent": 7}, "n_latent=7, n_networks=3 does not apply"),
        ],
    )
    def test_those_of_another_encoder_are_refused(self, encoder, given, found):
        with pytest.raises(ValueError, match=found):
            fill_architecture({"encoder": encoder, **NOTHING, **given}, has_labels=False)

    def test_unknown_encoder(self):
        with pytest.raises(ValueError, match=r"encoder='ants' is not known\. Allowed: 'views', 'performer'"):
            fill_architecture({"encoder": "ants"}, has_labels=False)


class TestHeads:
    def test_defaults(self):
        heads = [fill_architecture({"encoder": name}, has_labels=True)["head"] for name in ("views", "performer")]
        assert heads == ["experts", "conv"]
        assert "head" not in fill_architecture({}, has_labels=False)

    @pytest.mark.parametrize(("name", "kind"), [("experts", CellTypeHead), ("conv", ConvHead)])
    @pytest.mark.parametrize("encoder", ["views", "performer"])
    def test_every_head_reads_every_encoder(self, name, kind, encoder):
        network = (
            ViewEncoder(n_vars=23, n_hidden=12, n_latent=10, n_networks=2, n_layers=1, n_heads=2)
            if encoder == "views"
            else PerformerEncoder(n_vars=23, n_hidden=12, n_layers=1, n_heads=2, head_dim=5)
        )
        head = build_classifier({"head": name, "dropout_rate": 0.1}, network, n_vars=23, n_labels=5).eval()
        assert isinstance(head, kind)
        is_masked = torch.zeros(1, 23, dtype=torch.bool)
        expression, context = torch.rand(7, 23), Context(torch.rand(1, 23), torch.rand(1, 23))
        encoded = network(expression, is_masked, torch.zeros(7, 12), context)
        assert head(encoded, expression, is_masked, context).shape == (7, 5)

    @pytest.mark.parametrize("n_networks", [1, 4])
    def test_every_network_has_logits_of_its_own(self, n_networks):
        encoder = ViewEncoder(n_vars=3, n_latent=20, n_networks=n_networks)
        head = build_classifier({"head": "experts", "dropout_rate": 0.0}, encoder, n_vars=3, n_labels=5)
        assert [layer.weight.shape for layer in head.to_logits] == [(5, 20 // n_networks)] * n_networks

    def test_unknown_head(self):
        with pytest.raises(ValueError, match=r"head='tail' is not known\. Allowed: 'experts', 'conv'"):
            fill_architecture({"head": "tail"}, has_labels=True)

    def test_expression_is_read_where_the_genes_are(self):
        performer = PerformerEncoder(n_vars=3, n_hidden=5, n_layers=1, n_heads=1, head_dim=2)
        assert isinstance(build_expression_head(performer, n_vars=3), TokenExpressionHead)
        assert isinstance(build_expression_head(ViewEncoder(n_vars=3), n_vars=3), ExpressionHead)
