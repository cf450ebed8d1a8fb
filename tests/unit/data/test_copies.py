"""Cells that are copies of one another."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from transanno.data._copies import identical_cells


def test_cells_with_the_same_counts_share_a_code():
    rng = np.random.default_rng(0)
    counts = rng.poisson(1.0, size=(13, 31)).astype(np.float32)
    counts[7] = counts[2]
    counts[11] = counts[2]
    counts[5] = counts[4][::-1]  # the same values of other genes
    codes = identical_cells(sp.csr_matrix(counts))
    assert codes[2] == codes[7] == codes[11]
    assert len(np.unique(codes)) == 11


def test_explicit_zeros_and_order_of_storage_have_no_influence():
    row = sp.csr_matrix(np.array([[0, 3, 0, 1]], dtype=np.float32))
    other = sp.csr_matrix((np.array([1, 0, 3], dtype=np.float32), np.array([3, 2, 1]), np.array([0, 3])), shape=(1, 4))
    both = sp.vstack([row, other], format="csr")
    assert len(np.unique(identical_cells(both))) == 1
    assert both.nnz == 5  # what was passed is not changed


def test_empty_cells_are_no_copies():
    assert len(np.unique(identical_cells(sp.csr_matrix((3, 5), dtype=np.float32)))) == 3
