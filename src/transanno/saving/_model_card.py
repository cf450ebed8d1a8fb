"""The page of a shared model, which people read before they use it. It says what the model stores and what its authors say, and no more."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from transanno.metrics import Evaluation
from transanno.predictions._calibration import Calibration
from transanno.saving._hub import huggingface_hub

_TEMPLATE = Path(__file__).with_name("model_card.md")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def model_card(
    model: Any, *, name: str, license: str, description: str, evaluation: Mapping[str, Evaluation] | None
) -> Any:
    """A trained :class:`~transanno.TransAnno` and what its authors say -> ``huggingface_hub.ModelCard``."""
    hub = huggingface_hub("The card of a shared model")
    if not isinstance(license, str) or not _LICENSE.fullmatch(license):
        raise ValueError(
            f"license={license!r}. Allowed: an identifier of the Hugging Face Hub, such as 'cc-by-4.0', 'mit', 'other', or 'unknown' if nobody "
            "knows what the data allow."
        )
    if not isinstance(description, str) or not description.strip():
        raise ValueError(
            f"description={description!r}. Allowed: a text that says what the cells are: species, tissue, platform, study, and where "
            "they can be had."
        )
    evaluation = dict(evaluation or {})
    for data, scores in evaluation.items():
        if not isinstance(scores, Evaluation):
            raise TypeError(
                f"evaluation[{data!r}] is a {type(scores).__name__}. Allowed: a dictionary of names of data and what transanno.tl.evaluate or "
                "transanno.metrics.evaluate gave on them."
            )
    tags = [
        "biology",
        "genomics",
        "single-cell",
        "scRNA-seq",
        "cell-type-annotation",
        "scvi-tools",
        f"model_cls_name:{type(model).__name__}",
    ]
    return hub.ModelCard.from_template(
        hub.ModelCardData(license=license, library_name="transanno", tags=tags),
        template_path=str(_TEMPLATE),
        name=name,
        license=license,
        description=description.strip(),
        evaluation=evaluation,
        types=model.labels.tolist(),
        counts=model.label_counts_,
        n_genes=len(model.genes),
        calibration=model.calibration_,
        held_out=_scores_of_held_out(model.labels, model.calibration_),
        versions={package: version(package) for package in ("transanno", "scvi-tools")},
    )


def _scores_of_held_out(labels: np.ndarray, calibration: Calibration | None) -> list[dict[str, Any]] | None:
    """-> a row for every type, as text; None if the model does not store how its held-out cells were called."""
    if calibration is None or calibration.confusion is None:
        return None
    right = np.diag(calibration.confusion)
    support, called = calibration.confusion.sum(axis=1), calibration.confusion.sum(axis=0)
    columns = {"precision": (right, called), "recall": (right, support), "f1": (2 * right, support + called)}
    return [
        {"type": str(label), "support": int(support[i])}
        # Of no cells, there is nothing to say.
        | {key: f"{part[i] / whole[i]:.3f}" if whole[i] else "–" for key, (part, whole) in columns.items()}
        for i, label in enumerate(labels)
    ]
