"""Without what libraries say of themselves: their settings are back afterwards."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Which devices there are, advice, advertisements, and that an epoch was the last one.
_TALKATIVE = ("lightning.pytorch", "lightning.fabric")
# Which of them uses another in a way that is going to change is for their developers.
_LIBRARIES = r"(anndata|lightning|mudata|numba|scanpy|scvi|sklearn|torch|torchmetrics)\b"
# Lightning's advice on speed and logging: wrong for data that fit into memory, and scvi-tools logs by epoch.
_ADVICE = (
    r"The .*dataloader. does not have many workers",
    r"The number of training batches .* is smaller than the logging interval",
    r".* available but not used",
)


@contextmanager
def calm_libraries(level: int = logging.WARNING) -> Iterator[None]:
    """Without messages of libraries below ``level``, and their warnings that the user can do nothing about."""
    with quiet_loggers(*_TALKATIVE, level=level), warnings.catch_warnings():
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category, module=_LIBRARIES)
        for message in _ADVICE:
            warnings.filterwarnings("ignore", message=message, category=UserWarning, module=r"lightning\b")
        yield


@contextmanager
def repeated_names() -> Iterator[None]:
    """Objects of ours may have the user's names of cells, repeated or not, without anndata's word on that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Observation names are not unique", category=UserWarning)
        yield


@contextmanager
def quiet_loggers(*names: str, level: int = logging.WARNING) -> Iterator[None]:
    """Without messages of these loggers, and of those below them, that are less important than ``level``."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(max(logger.level, level))
    try:
        yield
    finally:
        for logger, was in zip(loggers, before, strict=True):
            logger.setLevel(was)
