"""Predictions of a trained model by JAX: no torch, no scvi-tools, and a pure function for programs of one's own.

Nothing here trains. :meth:`transanno.TransAnno.export` writes what :func:`load_predictor` reads.
"""

from __future__ import annotations

try:
    import jax  # noqa: F401
except ImportError as error:
    raise ImportError(
        'transanno.jax needs JAX, which is not installed. Install it with: pip install "transanno[jax]"'
    ) from error

from transanno.jax._forward import forward
from transanno.jax._predictor import Predictor, load_predictor
from transanno.jax._weights import Weights

__all__ = ["Predictor", "Weights", "forward", "load_predictor"]
