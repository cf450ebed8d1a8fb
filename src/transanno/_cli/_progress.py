"""Progress of training: a bar on a terminal, a few lines in a log."""

from __future__ import annotations

import sys
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from transanno._cli._console import Console

_N_LINES = 10


class _Lines(Callback):
    """About ten lines over all epochs."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch, last = trainer.current_epoch + 1, trainer.max_epochs or 0
        if epoch % max(1, last // _N_LINES) == 0 or epoch == last:
            self._console.step(f"Epoch {epoch}/{last}")


def progress_arguments(console: Console) -> dict[str, Any]:
    """-> arguments of ``train``."""
    shows_bar = shows_bars(console)
    callbacks = [] if console.quiet or shows_bar else [_Lines(console)]
    return {"enable_progress_bar": shows_bar, "callbacks": callbacks}


def shows_bars(console: Console) -> bool:
    """Whether somebody looks at them."""
    return not console.quiet and sys.stderr.isatty()
