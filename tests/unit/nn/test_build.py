from __future__ import annotations

import pytest
import torch

from transanno.nn import (
    ConvHead,
    ExpressionHead,
    PerformerEncoder,
    SlotEncoder,
    TokenExpressionHead,
    build_classifier,
    build_expression_head,
    default_head,
    encoder_arguments,
)

SLOTS = {"n_hidden": 48, "n_latent": 48, "n_slots": 4, "n_layers": 1, "n_heads": 1}
PERFORMER = {"n_hidden": 200, "n_layers": 6, "n_heads": 10, "head_dim": 64, "n_features": None}
NOTHING = dict.fromkeys([*SLOTS, *PERFORMER])


class TestEncoderArguments:
    @pytest.mark.parametrize(("encoder", "expected"), [("slots", SLOTS), ("performer", PERFORMER)])
    def test_none_stands_for_the_default_of_the_encoder(self, encoder, expected):
        assert encoder_arguments(encoder, NOTHING) == expected

    def test_given_ones_win(self):
        assert encoder_arguments("performer", NOTHING | {"n_hidden": 7, "head_dim": 3})["n_hidden"] == 7

    @pytest.mark.parametrize(
        ("encoder", "given", "found"),
        [
            ("slots", {"head_dim": 5}, "head_dim=5 does not apply to encoder='slots'"),
            ("performer", {"n_slots": 3, "n_latent": 7}, "n_latent=7, n_slots=3 does not apply"),
        ],
    )
    def test_those_of_another_encoder_are_refused(self, encoder, given, found):
        with pytest.raises(ValueError, match=found):
            encoder_arguments(encoder, NOTHING | given)

    def test_unknown_encoder(self):
        with pytest.raises(ValueError, match=r"encoder='ants' is not known\. Allowed: 'slots', 'performer'"):
            encoder_arguments("ants", NOTHING)


class TestHeads:
    def test_defaults(self):
        assert (default_head("slots"), default_head("performer")) == ("wide", "conv")

    def test_convolution_reads_slots_too(self):
        encoder = SlotEncoder(n_vars=23, n_hidden=12, n_latent=11, n_slots=3, n_layers=1, n_heads=2)
        head = build_classifier("conv", encoder, n_vars=23, n_labels=5, dropout_rate=0.1)
        assert isinstance(head, ConvHead)
        is_masked = torch.zeros(1, 23, dtype=torch.bool)
        expression = torch.rand(7, 23)
        assert head(encoder(expression, is_masked, torch.zeros(7, 12)), expression, is_masked).shape == (7, 5)

    def test_unknown_head(self):
        with pytest.raises(ValueError, match=r"head='tail' is not known\. Allowed: 'wide', 'conv'"):
            build_classifier("tail", SlotEncoder(n_vars=3), n_vars=3, n_labels=2, dropout_rate=0.0)

    def test_expression_is_read_where_the_genes_are(self):
        performer = PerformerEncoder(n_vars=3, n_hidden=5, n_layers=1, n_heads=1, head_dim=2)
        assert isinstance(build_expression_head(performer, n_vars=3), TokenExpressionHead)
        assert isinstance(build_expression_head(SlotEncoder(n_vars=3), n_vars=3), ExpressionHead)
