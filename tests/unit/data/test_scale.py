from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp

from transanno.data._restore import undo_logs
from transanno.data._scale import detect_scale, sampled_rows

N_OBS, N_VARS = 43, 31


@pytest.fixture
def counts() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.poisson(rng.gamma(0.7, 3.0, size=N_VARS), size=(N_OBS, N_VARS)).astype(np.float32)


def scaled_to(counts: np.ndarray, target: float) -> np.ndarray:
    return counts / counts.sum(axis=1, keepdims=True) * np.float32(target)


def log2p1(x: np.ndarray) -> np.ndarray:
    return (np.log1p(x) / np.log(2)).astype(np.float32)


KINDS = [
    pytest.param(lambda x: x, "counts", "raw counts", id="counts"),
    pytest.param(lambda x: x.astype("int64"), "counts", "raw counts", id="int64"),
    pytest.param(lambda x: x > 0, "counts", "raw counts", id="bool"),
    pytest.param(lambda x: np.where(x > 5, x - 0.25, x), "fractional counts", "fractional counts", id="fractional"),
    pytest.param(lambda x: scaled_to(x, 1e4), "normalized", "normalized to 10,000 counts per cell", id="CP10k"),
    pytest.param(lambda x: scaled_to(x, 700), "normalized", "normalized to 700 counts per cell", id="CP700"),
    pytest.param(lambda x: np.log1p(scaled_to(x, 1e4)), "log1p", "log1p (natural) of 10,000 counts", id="log1p"),
    pytest.param(lambda x: log2p1(scaled_to(x, 1e6)), "log1p", "log1p (base 2) of 1,000,000 counts", id="log2 CPM"),
    pytest.param(lambda x: np.log1p(x), "log1p", "log1p (natural) of counts scaled per cell", id="log1p of counts"),
    pytest.param(
        lambda x: np.log1p(np.log1p(scaled_to(x, 1e4))), "double log1p", "log1p taken twice (natural, then", id="twice"
    ),
    pytest.param(lambda x: (x - x.mean(0)) / (x.std(0) + 1), "scaled", "negative values", id="scaled"),
    pytest.param(lambda x: x * 0, "empty", "zeros only", id="zeros"),
    pytest.param(lambda x: np.where(x == 2, np.nan, x), "not finite", "NaN or infinite", id="NaN"),
    pytest.param(lambda x: np.where(x == 2, np.inf, x), "not finite", "NaN or infinite", id="inf"),
    pytest.param(
        lambda x: np.r_[x[:20], np.log1p(scaled_to(x[20:], 1e4))], "mixed", "counts in some cells", id="mixed"
    ),
]


@pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array])
@pytest.mark.parametrize(("change", "kind", "text"), KINDS)
def test_every_scale_is_told(change, kind, text, container, counts):
    """Complaints 15, 16, 17, 44, 48."""
    scale = detect_scale(container(change(counts)))
    assert scale.kind == kind
    assert text in str(scale)


def test_values_far_beyond_logarithms_do_not_overflow(counts):
    """Complaint 12: expm1 of a large count is infinite; here a warning would be an error."""
    counts[:, 0] = 3.7e6
    assert detect_scale(counts).kind == "counts"
    noise = np.random.default_rng(0).uniform(0.5, 2, counts.shape)
    assert detect_scale(counts * noise).kind == "unknown"
    assert undo_logs(counts.ravel(), (math.e,)) is None
    assert undo_logs(np.full(3, 30.0), (math.e, math.e)) is None


def test_logged_values_that_are_no_counts_keep_their_target(counts):
    values = np.log1p(scaled_to(counts / np.random.default_rng(1).uniform(0.3, 3, N_VARS), 1e4))
    scale = detect_scale(values)
    assert (scale.kind, scale.is_restorable) == ("log1p", False)
    assert scale.target_sum == pytest.approx(1e4, rel=1e-3)


def test_a_noted_base_is_tried(counts):
    values = np.log1p(scaled_to(counts, 1e4)) / np.float32(np.log(3))
    assert not detect_scale(values).is_restorable
    assert detect_scale(values, log_base=3.0).is_restorable


@pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_only_a_sample_is_looked_at(container):
    """Cheap enough for every prediction: 256 cells, from the first to the last."""
    matrix = container(np.repeat(np.arange(1.0, 1001.0)[:, None], 3, axis=1))
    sample = sampled_rows(matrix).toarray()
    assert len(sample) == 256
    assert sample[[0, -1], 0].tolist() == [1, 1000]


def test_half_precision_is_read(counts):
    assert detect_scale(counts.astype("float16")).kind == "counts"
    assert detect_scale(np.log1p(scaled_to(counts, 1e4)).astype("float16")).kind == "log1p"


def test_a_single_cell_is_enough(counts):
    assert detect_scale(np.log1p(scaled_to(counts[:1], 1e4))).is_restorable


def test_cells_without_counts_do_not_matter(counts):
    counts[::2] = 0
    totals = counts.sum(axis=1, keepdims=True).clip(1)
    scale = detect_scale(np.log1p(counts / totals * 1e4))
    assert scale.is_restorable
    assert scale.target_sum == pytest.approx(1e4, rel=1e-3)
