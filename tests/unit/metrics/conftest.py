from __future__ import annotations

import pytest

from transanno import metrics

TRUTH = ["T"] * 5 + ["B"] * 3 + ["NK"] * 2 + ["Mast"] * 3 + [None, "Unlabeled"]
PREDICTED = ["T"] * 3 + ["B", "Unassigned"] + ["B"] * 2 + ["T"] + ["NK", None] + ["T", "Unassigned", "NK"] + ["B", "T"]
KNOWN = ["T", "B", "NK"]


@pytest.fixture
def result() -> metrics.Evaluation:
    return metrics.evaluate(TRUTH, PREDICTED, labels=KNOWN)
