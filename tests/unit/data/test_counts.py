"""Counts are read alike wherever they are."""

from __future__ import annotations

import warnings

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from transanno.data._counts import MatrixCounts, in_memory

N_OBS, N_VARS = 43, 31
IN_MEMORY = [np.asarray, np.asfortranarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.csc_array]
ON_DISK = ["dense", "csr", "csc"]


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).poisson(0.7, size=(N_OBS, N_VARS)).astype(np.float32)


@pytest.fixture(params=[*IN_MEMORY, *ON_DISK], ids=lambda kind: kind if isinstance(kind, str) else kind.__name__)
def matrix(request, values, tmp_path):
    if request.param in IN_MEMORY:
        yield request.param(values)
        return
    container = {"dense": np.asarray, "csr": sp.csr_matrix, "csc": sp.csc_matrix}[request.param]
    ad.AnnData(container(values)).write_h5ad(tmp_path / "counts.h5ad")
    backed = ad.read_h5ad(tmp_path / "counts.h5ad", backed="r")
    yield backed.X
    backed.file.close()


def is_plain(block) -> bool:
    return type(block) is sp.csr_matrix and bool((block.data != 0).all()) and block.has_sorted_indices


@pytest.mark.parametrize("n_rows", [1, 7, N_OBS, 1000])
def test_blocks_hold_all_rows_in_order(matrix, values, n_rows):
    blocks = list(MatrixCounts(matrix).blocks(n_rows))
    assert [block.shape[0] for block in blocks] == [min(n_rows, N_OBS - start) for start in range(0, N_OBS, n_rows)]
    assert all(map(is_plain, blocks))
    np.testing.assert_array_equal(sp.vstack(blocks).toarray(), values)


@pytest.mark.parametrize(
    "positions",
    [[], [5], [3, 4, 5, 6], [6, 5, 4], [40, 3, 17, 3, 3, 42], range(N_OBS)],
    ids=lambda each: str(len(each)),
)
def test_rows_come_in_the_order_that_is_asked_for(matrix, values, positions):
    positions = np.array(positions, dtype=int)
    found = MatrixCounts(matrix).rows(positions)
    assert is_plain(found)
    np.testing.assert_array_equal(found.toarray(), values[positions])


def test_in_memory_holds_the_same_in_single_precision(matrix, values):
    found = in_memory(MatrixCounts(matrix)).matrix
    assert is_plain(found)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.toarray(), values)


def test_given_blocks_are_what_is_kept(values):
    counts = MatrixCounts(sp.csr_matrix(values))
    found = in_memory(counts, (2 * block for block in counts.blocks(7))).matrix
    np.testing.assert_array_equal(found.toarray(), 2 * values)


def test_stored_zeros_and_repeated_entries_are_no_counts_of_their_own():
    indices, indptr = [4, 1, 4, 2, 0, 0], [0, 4, 6]
    matrix = sp.csr_matrix((np.array([200, 3, 100, 0, 7, 5], dtype=np.uint8), indices, indptr), shape=(2, 5))
    kept = [matrix.data.copy(), matrix.indices.copy(), matrix.indptr.copy()]
    expected = [[0, 3, 0, 0, 300], [12, 0, 0, 0, 0]]  # uint8 would wrap around
    counts = MatrixCounts(matrix)
    for found in (counts.rows(np.arange(2)), next(counts.blocks()), in_memory(counts).matrix):
        assert is_plain(found)
        np.testing.assert_array_equal(found.toarray(), expected)
    for before, after in zip(kept, (matrix.data, matrix.indices, matrix.indptr), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("container", [sp.csr_matrix, sp.csc_matrix])
def test_sparse_half_precision_is_read(container, values):
    """scipy can hold it, and neither copy nor slice it."""
    matrix = container(values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matrix.data = matrix.data.astype(np.float16)
    np.testing.assert_array_equal(in_memory(MatrixCounts(matrix)).matrix.toarray(), values)


def test_dense_half_precision_and_other_byte_orders_are_read(values, tmp_path):
    with h5py.File(tmp_path / "counts.h5", "w") as file:
        for dtype in (np.float16, ">f4", ">i8", "bool"):
            dataset = file.create_dataset(str(dtype), data=values.astype(dtype))
            expected = values.astype(dtype).astype(np.float32)
            for matrix in (dataset, dataset[:]):
                np.testing.assert_array_equal(in_memory(MatrixCounts(matrix)).matrix.toarray(), expected)


class TestDamaged:
    """scipy reads where the arrays point, and Python ends."""

    @pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_matrix, sp.csr_array])
    @pytest.mark.parametrize(
        ("name", "position", "value", "what"),
        [
            ("indices", 3, 10**6, "indices go from 0 to 1000000"),
            ("indices", 3, -5, "indices go from -5"),
            ("indptr", 5, 10**8, "indptr does not rise"),
            ("indptr", 5, 0, "indptr does not rise"),
            ("indptr", -1, 10**8, "indptr does not rise from 0 to at most"),
            ("indptr", 0, 2, "indptr does not rise"),
        ],
    )
    def test_arrays_that_point_outside_are_refused(self, kind, name, position, value, what, values):
        matrix = kind(values)
        getattr(matrix, name)[position] = value
        for read in (lambda counts: counts.rows(np.arange(9)), lambda counts: list(counts.blocks())):
            with pytest.raises(ValueError, match=f"is damaged: {what}.* Read it again"):
                read(MatrixCounts(matrix))

    def test_a_file_is_checked_as_it_is_read(self, values, tmp_path):
        ad.AnnData(sp.csr_matrix(values)).write_h5ad(tmp_path / "counts.h5ad")
        with h5py.File(tmp_path / "counts.h5ad", "r+") as file:
            file["X/indices"][3] = 10**6
        backed = ad.read_h5ad(tmp_path / "counts.h5ad", backed="r")
        with pytest.raises(ValueError, match="is damaged: indices go from 0 to 1000000"):
            list(MatrixCounts(backed.X).blocks())
        backed.file.close()


def test_no_cells_are_no_rows():
    found = in_memory(MatrixCounts(np.zeros((0, N_VARS), np.float32))).matrix
    assert found.shape == (0, N_VARS)
