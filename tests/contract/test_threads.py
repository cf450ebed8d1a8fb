"""Training leaves torch's threads as they were."""

from __future__ import annotations

import pytest
import torch

from transanno import TransAnno
from transanno.training._threads import at_most_threads


@pytest.mark.parametrize(("asked", "found"), [(1, 1), (5, 3), (None, 3)])
def test_threads_are_limited_and_restored(asked, found):
    torch.set_num_threads(3)
    with at_most_threads(asked):
        assert torch.get_num_threads() == found
    assert torch.get_num_threads() == 3


def test_training_restores_the_threads(reference, small, fast):
    torch.set_num_threads(2)
    TransAnno.setup_anndata(reference, "cell_type")
    TransAnno(reference, **small).train(1, max_steps=2, **fast)
    assert torch.get_num_threads() == 2
