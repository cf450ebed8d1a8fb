"""Cell-type annotation with a Transformer, as scvi-tools models."""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transanno import metrics, pl, pp, presets, tl
    from transanno.checks._warn import TransAnnoWarning
    from transanno.models import TransAnno, TransAnnoPretrain

__version__ = version("transanno")
__all__ = ["TransAnno", "TransAnnoPretrain", "TransAnnoWarning", "metrics", "pl", "pp", "presets", "tl"]


def __getattr__(name: str) -> Any:
    """Load models and subpackages on first use: `import transanno` itself is instant."""
    if name in {"TransAnno", "TransAnnoPretrain", "models", "tl"}:
        _load_bars()
    if name in {"TransAnno", "TransAnnoPretrain"}:
        return getattr(import_module("transanno.models"), name)
    if name == "TransAnnoWarning":
        return import_module("transanno.checks._warn").TransAnnoWarning
    if name in {"metrics", "pl", "pp", "presets", "tl", "models", "nn", "jax"}:
        return import_module(f"transanno.{name}")
    raise AttributeError(f"module 'transanno' has no attribute {name!r}")


def _load_bars() -> None:
    """Load what scvi-tools draws progress bars with, without its advice to install something in every notebook."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        import_module("tqdm.auto")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
