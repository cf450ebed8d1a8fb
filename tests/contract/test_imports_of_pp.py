"""Looking at data needs neither a network nor a plot."""

from __future__ import annotations

import subprocess
import sys


def test_pp_loads_neither_torch_nor_scvi_nor_matplotlib():
    code = """
import sys
import transanno.pp
from transanno.pp import check, align_genes
heavy = {"torch", "scvi", "lightning", "matplotlib", "scanpy"} & set(sys.modules)
assert not heavy, heavy
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
