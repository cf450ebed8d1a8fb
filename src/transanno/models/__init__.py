"""The scvi-tools models: AnnData in, cell types in ``obs``."""

from __future__ import annotations

from transanno.models._pretrain import TransAnnoPretrain
from transanno.models._transanno import TransAnno

__all__ = ["TransAnno", "TransAnnoPretrain"]
