"""Progress of training: a bar on a terminal, a few lines in a log."""

from __future__ import annotations

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from transanno._cli._console import Console
from transanno.training._progress import current_stage

_N_LINES = 10


class _Lines(ProgressBar):
    """About ten lines over all epochs."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def enable(self) -> None:
        pass

    def disable(self) -> None:
        pass

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch, last = trainer.current_epoch + 1, trainer.max_epochs or 0
        if epoch % max(1, last // _N_LINES) == 0 or epoch == last:
            self._console.step(f"Epoch {epoch}/{last} ({current_stage()})")


def progress_arguments(console: Console) -> dict[str, Any]:
    """-> arguments of ``train``."""
    if console.quiet:
        return {"enable_progress_bar": False}
    return {} if shows_bars(console) else {"callbacks": [_Lines(console)]}


def shows_bars(console: Console) -> bool:
    """Whether somebody looks at them."""
    return not console.quiet and sys.stderr.isatty()
