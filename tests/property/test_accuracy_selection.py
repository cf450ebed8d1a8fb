"""A study's scores have no influence on the setting that it is judged with."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("benchmarks", reason="benchmarks are not part of the source distribution")

from benchmarks.accuracy._selection import choose_without_each

SETTINGS = ["simple", "middle", "rich"]
# Enough of them that a task remains without any study.
STUDIES = pd.DataFrame([(a, b) for a in "ABCD" for b in "ABCD" if a != b], columns=["reference", "query"])


def draw(seed):
    values = np.random.default_rng(seed).uniform(size=(len(STUDIES), len(SETTINGS)))
    return pd.DataFrame(values, STUDIES.index, SETTINGS)


@given(st.integers(0, 2**16), st.integers(0, 2**16), st.sampled_from("ABCD"))
def test_scores_of_a_study_do_not_change_what_is_chosen_for_it(seed, other_seed, study):
    scores, is_of_study = draw(seed), (STUDIES == study).any(axis=1)
    changed = scores.where(~is_of_study, draw(other_seed), axis=0)
    before, after = (choose_without_each(each, STUDIES, STUDIES.index) for each in (scores, changed))
    assert before.loc[study, "chosen"] == after.loc[study, "chosen"]


@given(st.integers(0, 2**16), st.sampled_from("ABCD"), st.integers(1, 5))
def test_a_study_with_more_tasks_has_no_more_weight(seed, study, n_copies):
    scores, of_study = draw(seed), STUDIES.index[STUDIES["query"] == study]
    repeated = STUDIES.index.append([of_study] * n_copies)
    before = choose_without_each(scores, STUDIES, STUDIES.index)
    after = choose_without_each(
        scores.loc[repeated].reset_index(drop=True),
        STUDIES.loc[repeated].reset_index(drop=True),
        pd.RangeIndex(len(repeated)),
    )
    assert before["chosen"].to_dict() == after["chosen"].to_dict()
    assert before["score"].to_dict() == pytest.approx(after["score"].to_dict())
