"""Progress bars that say which of the runs of a call they are of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from scvi.utils import track

_stage: ContextVar[str | None] = ContextVar("stage", default=None)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """What bars call the training runs in this context."""
    token = _stage.set(name)
    try:
        yield
    finally:
        _stage.reset(token)


def current_stage() -> str | None:
    """-> what the training run that begins is called; None if nobody has said."""
    return _stage.get()


class EpochBar(ProgressBar):
    """A bar over the epochs, like that of scvi-tools."""

    def __init__(self) -> None:
        super().__init__()
        self._is_enabled = True
        self._bar: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_bar": None}  # bars cannot be copied to other processes

    def enable(self) -> None:
        """Show it."""
        self._is_enabled = True

    def disable(self) -> None:
        """Do not show it, as in all processes of a run but the first."""
        self._is_enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar."""
        if self._is_enabled:
            self._bar = track(None, current_stage() or "training", style="tqdm", total=trainer.max_epochs, unit="epoch")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move it on."""
        if self._bar is not None:
            shown = {name: value for name, value in self.get_metrics(trainer, pl_module).items() if name != "v_num"}
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close it."""
        if self._bar is not None:
            self._bar.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close it."""
        self.on_train_end(trainer, pl_module)


def with_bar(trainer_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of :class:`scvi.train.Trainer` -> the same, with our bar in the place of scvi-tools'."""
    callbacks = list(trainer_kwargs.get("callbacks") or [])
    wanted = (("enable_progress_bar", True), ("simple_progress_bar", True), ("progress_bar_refresh_rate", 1))
    if all(trainer_kwargs.get(name, default) for name, default in wanted):
        if not any(isinstance(callback, ProgressBar) for callback in callbacks):
            callbacks.append(EpochBar())
        trainer_kwargs = {**trainer_kwargs, "simple_progress_bar": False}
    return {**trainer_kwargs, "callbacks": callbacks}  # a list of ours, since scvi-tools appends to it
