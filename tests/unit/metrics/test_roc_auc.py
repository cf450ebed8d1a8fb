from __future__ import annotations

import pandas as pd
import pytest

from transanno import metrics


def test_auc_by_hand():
    probabilities = pd.DataFrame({"T": [0.9, 0.4, 0.6, 0.2], "B": [0.1, 0.6, 0.4, 0.8]})
    # One of the four pairs of a T and a B cell is in the wrong order.
    areas = metrics.roc_auc_per_class(["T", "T", "B", "B"], probabilities)
    assert areas.to_dict() == {"B": 0.75, "T": 0.75}


def test_auc_of_a_single_type_is_undefined():
    areas = metrics.roc_auc_per_class(["T", "T"], pd.DataFrame({"T": [0.9, 0.4], "B": [0.1, 0.6]}))
    assert areas.isna().to_dict() == {"T": True}


def test_type_without_probabilities():
    with pytest.raises(ValueError, match="'Mast' have no column in probabilities, which has: 'T'"):
        metrics.roc_auc_per_class(["T", "Mast"], pd.DataFrame({"T": [1.0, 0.5]}))
