"""Labels withheld from a reference, for any composition of it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("benchmarks", reason="benchmarks are not part of the source distribution")

from benchmarks.accuracy._tasks import _withhold_labels

labels = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=40)


def withheld(names, **few):
    obs = pd.DataFrame({"cell_type": names}, index=[f"cell{i}" for i in range(len(names))])
    adata = AnnData(np.zeros((len(names), 2), dtype="float32"), obs=obs)
    _withhold_labels(adata, few.get("fraction"), few.get("per_type"))
    return list(adata.obs["cell_type"])


@given(labels, st.integers(1, 12))
def test_number_per_type(names, per_type):
    found = withheld(names, per_type=per_type)
    assert all(label in (name, "Unknown") for label, name in zip(found, names, strict=True))
    assert Counter(label for label in found if label != "Unknown") == {
        name: min(n, per_type) for name, n in Counter(names).items()
    }


@given(labels, st.floats(0.01, 1.0))
def test_share_leaves_every_type_a_label(names, fraction):
    found = Counter(withheld(names, fraction=fraction))
    assert all(max(1, round(fraction * n)) == found[name] for name, n in Counter(names).items())


@given(labels)
def test_same_draw_every_time(names):
    assert withheld(names, per_type=3) == withheld(names, per_type=3)
