"""Numbers of threads stay what they were, whatever is called."""

from __future__ import annotations

import os
import subprocess
import sys

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


def test_annotating_leaves_the_threads_that_torch_was_given(tmp_path):
    """In a process of its own: numba sets them when it first runs something. Those of the environment: test_quiet.py."""
    code = """
import torch, transanno
from threadpoolctl import threadpool_info
torch.set_num_threads(1)
from transanno.data._demo import load_demo
reference, query = load_demo()
before = torch.get_num_threads(), [(each["filepath"], each["num_threads"]) for each in threadpool_info()]
assert before[0] == 1
seen = []
class Look(__import__("lightning.pytorch").pytorch.Callback):
    def on_train_start(self, trainer, module):
        seen.append(torch.get_num_threads())
transanno.tl.annotate(query, reference, labels_key="cell_type", max_epochs=1, n_top_genes=100, calibrate=False,
                      accelerator="cpu", enable_progress_bar=False, callbacks=[Look()])
assert seen == [1], seen
after = {each["filepath"]: each["num_threads"] for each in threadpool_info()}
assert torch.get_num_threads() == 1
assert all(after[path] == number for path, number in before[1]), (before[1], after)
"""
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_NUM_THREADS"}
    environment |= {"OMP_NUM_THREADS": "2"}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300, check=False,
        env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
