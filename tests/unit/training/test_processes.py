"""How many processes train, and that they draw the same minibatches. What they do with them: tests/contract/test_processes.py."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy

from transanno.training._episodes import EpisodeSampler
from transanno.training._processes import DrawnAlike, count_processes

CODES = np.random.default_rng(0).integers(0, 3, 997)


@pytest.mark.parametrize(
    ("devices", "config", "given", "expected", "strategy"),
    [
        pytest.param("auto", None, {}, 1, None, id="default"),
        pytest.param(1, None, {"strategy": "auto"}, 1, "auto", id="one"),
        pytest.param(1, None, {"strategy": "ddp"}, 1, "ddp", id="one with a strategy"),
        pytest.param(2, None, {}, 2, "ddp_find_unused_parameters_true", id="two"),
        pytest.param(3, None, {"strategy": "ddp"}, 3, "ddp_find_unused_parameters_true", id="three"),
        pytest.param(2, None, {"strategy": "ddp", "num_nodes": 5}, 10, "ddp_find_unused_parameters_true", id="nodes"),
        pytest.param(2, {"strategy": "ddp"}, {}, 2, "ddp_find_unused_parameters_true", id="config"),
        pytest.param(2, None, {"strategy": "ddp_find_unused_parameters_false"}, 2, "ddp_find_unused_parameters_false", id="as told"),
    ],
)  # fmt: skip
def test_number_of_processes_and_a_strategy_that_works(devices, config, given, expected, strategy):
    assert count_processes("cpu", devices, config, given) == expected
    assert given.get("strategy") == strategy


def test_a_strategy_that_the_user_made_can_be_used_again():
    strategy = DDPStrategy(find_unused_parameters=True)
    for _ in range(2):
        given = {"strategy": strategy}
        assert count_processes("cpu", 2, None, given) == 2
        found = given["strategy"]
        assert isinstance(found, DDPStrategy) and found._ddp_kwargs == {"find_unused_parameters": True}
        Trainer(accelerator="cpu", devices=2, strategy=found, logger=False, enable_checkpointing=False)


def test_several_without_a_seed_are_an_error(monkeypatch):
    monkeypatch.setattr(scvi.settings, "_seed", None)
    assert count_processes("cpu", 1, None, {}) == 1
    with pytest.raises(ValueError, match="2 processes without a seed"):
        count_processes("cpu", 2, None, {})


@pytest.mark.usefixtures("whole_epochs")
def test_processes_whose_generators_differ_draw_the_same():
    sent = []

    def first(seed: int) -> int:
        """As the first process: its number is the one that all get."""
        sent.append(seed)
        return seed

    def other(seed: int) -> int:
        assert seed != sent[-1]
        return sent[-1]

    sampler = EpisodeSampler(CODES, batch_size=31, n_processes=2)
    alike = [DrawnAlike(sampler, broadcast) for broadcast in (first, other)]
    epochs = []
    for _ in range(2):
        drawn = []
        for rank, each in enumerate(alike):
            torch.manual_seed(len(epochs) + 7 * rank)
            drawn.append(list(each))
        assert drawn[0] == drawn[1]
        epochs.append(drawn[0])
    assert epochs[0] != epochs[1]
    assert len(alike[0]) == len(epochs[0]) == 50


def test_drawing_leaves_the_generator_as_one_number_does():
    torch.manual_seed(3)
    torch.randint(2**31, ())
    expected = torch.rand(1)
    torch.manual_seed(3)
    list(DrawnAlike(EpisodeSampler(CODES, batch_size=31), lambda seed: seed))
    assert torch.rand(1) == expected
