from __future__ import annotations

import pandas as pd
from benchmarks.evidence import MARKERS, recall


def test_recall_is_of_the_markers_that_the_model_has() -> None:
    table = pd.DataFrame([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0]], index=["A", "B"], columns=list("abcd"))
    found = recall(table, {"A": ["a", "c", "absent"], "B": ["a"], "C": ["a"], "D": []}, k=2)
    assert found.to_dict() == {"A": 0.5, "B": 0.0}


def test_markers_are_listed_once() -> None:
    for types in MARKERS.values():
        for genes in types.values():
            assert len(genes) == len(set(genes))
