"""Training in several processes, which Lightning starts and joins: how many there are, and that all of them draw the same cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from copy import deepcopy
from typing import Any

import scvi
import torch
from lightning.pytorch import Trainer
from scvi.train import merge_kwargs
from torch.utils.data import Sampler

# Lightning's names of strategies in which gradients are averaged over processes, and how it calls those that do not
# wait for the gradients of parameters that had no part in a loss, as ours need: not every minibatch hides genes.
_STRATEGIES, _FINDS_UNUSED = ("ddp", "ddp_spawn", "ddp_fork", "ddp_notebook"), "_find_unused_parameters_true"
# What decides how many processes there are.
_DECIDING = ("strategy", "num_nodes", "plugins")


def count_processes(
    accelerator: Any, devices: Any, trainer_config: Any, trainer_kwargs: MutableMapping[str, Any]
) -> int:
    """Arguments of a trainer -> number of processes that it trains in; a strategy that would fail is replaced.

    Raises
    ------
    ValueError
        If there are several and nothing is seeded: each would hold out other cells.
    """
    known = merge_kwargs(trainer_config, trainer_kwargs, name="trainer")
    # Copies, because Lightning refuses a strategy that another trainer has had: here, or that of the model before its twin.
    given = {name: deepcopy(known[name]) for name in _DECIDING if name in known}
    if not given and devices in ("auto", 1):
        return 1
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    n_processes = Trainer(accelerator=accelerator, devices=devices, **given, **quiet).world_size
    if n_processes == 1:
        return 1
    if scvi.settings.seed is None:
        raise ValueError(
            f"Training in {n_processes} processes without a seed: each would hold out other cells. Set scvi.settings.seed = 0 "
            "before train(), or give tl.fit_reference a seed."
        )
    strategy = deepcopy(known.get("strategy", "auto"))
    strategy = "ddp" if strategy == "auto" else strategy  # which is what Lightning takes
    trainer_kwargs["strategy"] = strategy + _FINDS_UNUSED if strategy in _STRATEGIES else strategy
    return n_processes


class DrawnAlike(Sampler[list[int]]):
    """-> the minibatches of another sampler, the same in every process, of which Lightning gives each its share.

    ``broadcast`` hands the first process' number to all. It seeds an epoch, because generators drift apart: each process draws
    for its own cells meanwhile.
    """

    def __init__(self, sampler: Sampler[list[int]], broadcast: Callable[[int], int]) -> None:
        self.sampler, self.broadcast = sampler, broadcast

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[int]]:
        seed = self.broadcast(int(torch.randint(2**31, ())))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            minibatches = list(self.sampler)
        return iter(minibatches)
