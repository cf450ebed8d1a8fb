from __future__ import annotations

import hashlib
import warnings
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from transanno.data._align_counts import align_counts
from transanno.data._match_genes import GeneMatch, match_genes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

N_OBS = 17
HUMAN = [f"{letters}{i}" for i in range(1, 21) for letters in ("CD", "IL", "GATA", "KRT", "FOX")]


def as_np_matrix(x) -> np.matrix:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy: the matrix class is no longer recommended
        return np.matrix(x)


CONTAINERS = [
    pytest.param(np.asarray, id="array"),
    pytest.param(np.asfortranarray, id="fortran"),
    pytest.param(as_np_matrix, id="matrix"),
    pytest.param(sp.csr_matrix, id="csr_matrix"),
    pytest.param(sp.csr_array, id="csr_array"),
    pytest.param(sp.csc_matrix, id="csc_matrix"),
    pytest.param(sp.csc_array, id="csc_array"),
]


CONTAINERS_AND_DTYPES = [
    pytest.param(container.values[0], dtype, id=f"{container.id}-{dtype}")
    for container in CONTAINERS
    for dtype in ("bool", "uint8", "int32", "int64", "float16", "float32", "float64")
    if dtype != "float16" or not container.id.startswith("cs")  # scipy has no sparse float16
]


def make_counts(n_vars: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.poisson(0.7, size=(N_OBS, n_vars)) * rng.integers(1, 90, size=(N_OBS, n_vars))


def make_adata(x, var_names: Sequence[str], **kwargs) -> ad.AnnData:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata: names are not unique, np.matrix is deprecated
        return ad.AnnData(x, var=pd.DataFrame(index=list(var_names)), **kwargs)


def match_quietly(var_names: Sequence[str], vocabulary: Sequence[str], **kwargs) -> GeneMatch:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return match_genes(var_names, vocabulary, **kwargs)


def align_slowly(x: np.ndarray, var_names: Sequence[str], vocabulary: Sequence[str]) -> np.ndarray:
    """One gene at a time, from a dict."""
    columns: dict[str, list[int]] = {}
    for column, gene in enumerate(var_names):
        columns.setdefault(gene, []).append(column)
    aligned = np.zeros((x.shape[0], len(vocabulary)))
    for position, gene in enumerate(vocabulary):
        for column in columns.get(gene, []):
            aligned[:, position] += x[:, column].astype(np.float64)
    return aligned


def fingerprint(adata: ad.AnnData) -> str:
    """Hash of X (as stored), names, obs and var."""
    digest = hashlib.sha256()
    x = adata.X
    for part in (x.data, x.indices, x.indptr) if sp.issparse(x) else (np.asarray(x),):
        digest.update(np.ascontiguousarray(part).tobytes())
        digest.update(str(part.dtype).encode())
    for frame in (adata.obs, adata.var):
        digest.update(frame.to_csv().encode())
    return digest.hexdigest()


# Query: shuffled, 20 genes missing, 7 unknown, 3 twice (one of them three times).
QUERY = [HUMAN[i] for i in np.random.default_rng(5).permutation(100)[:80]]
QUERY = [*QUERY[:40], *(f"extra{i}" for i in range(7)), *QUERY[40:], QUERY[3], QUERY[11], QUERY[3], "extra0"]


@pytest.fixture
def match() -> GeneMatch:
    return match_quietly(QUERY, HUMAN)


class TestAlign:
    @pytest.mark.parametrize(("container", "dtype"), CONTAINERS_AND_DTYPES)
    @pytest.mark.parametrize("chunk_size", [5, 1000])
    @pytest.mark.parametrize("layer", [None, "counts"])
    def test_every_container_and_dtype_agrees_with_the_slow_way(self, match, container, dtype, chunk_size, layer):
        x = make_counts(len(QUERY)).astype(dtype)
        adata = make_adata(container(x), QUERY, layers={"counts": container(x[::-1])})
        aligned = align_counts(adata, match, layer=layer, chunk_size=chunk_size)
        assert type(aligned) is sp.csr_matrix
        assert aligned.dtype == np.float32
        assert aligned.has_sorted_indices
        np.testing.assert_array_equal(aligned.toarray(), align_slowly(x if layer is None else x[::-1], QUERY, HUMAN))

    def test_duplicated_query_genes_are_summed(self):
        x = np.array([[1, 2, 200, 8], [0, 16, 100, 0]], dtype=np.uint8)
        adata = make_adata(x, ["CD1", "CD2", "CD1", "CD1"])
        match = match_quietly(adata.var_names, ["CD2", "CD1"])
        np.testing.assert_array_equal(align_counts(adata, match).toarray(), [[2, 209], [16, 100]])

    def test_bool_duplicates_are_counted_not_united(self):
        adata = make_adata(sp.csr_matrix(np.array([[True, True], [False, True]])), ["CD1", "CD1"])
        match = match_quietly(adata.var_names, ["CD1"])
        np.testing.assert_array_equal(align_counts(adata, match).toarray(), [[2], [1]])

    def test_missing_genes_store_nothing(self, match):
        aligned = align_counts(make_adata(make_counts(len(QUERY)) + 1, QUERY), match)
        np.testing.assert_array_equal(aligned.getnnz(axis=0) == 0, match.is_missing)

    def test_result_is_never_dense_in_between(self, match, monkeypatch):
        def refuse(*args, **kwargs):
            raise AssertionError("sparse counts were made dense")

        adatas = [make_adata(kind(make_counts(len(QUERY))), QUERY) for kind in (sp.csr_matrix, sp.csc_array)]
        for kind in (sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.csc_array):
            monkeypatch.setattr(kind, "toarray", refuse)
            monkeypatch.setattr(kind, "todense", refuse)
        for adata in adatas:
            align_counts(adata, match)

    @pytest.mark.parametrize("container", CONTAINERS)
    def test_views_are_aligned(self, container):
        x = make_counts(len(QUERY))
        rows, columns = [11, 2, 3, 16, 0], np.arange(0, len(QUERY), 2)
        view = make_adata(container(x), QUERY)[rows, columns]
        names = list(view.var_names)
        match = match_quietly(names, HUMAN)
        aligned = align_counts(view, match, chunk_size=2)
        assert view.is_view
        np.testing.assert_array_equal(aligned.toarray(), align_slowly(x[np.ix_(rows, columns)], names, HUMAN))

    @pytest.mark.parametrize("container", CONTAINERS)
    def test_input_is_not_modified(self, match, container):
        adata = make_adata(container(make_counts(len(QUERY)).astype(np.float32)), QUERY)
        before, x = fingerprint(adata), adata.X
        align_counts(adata, match)
        assert fingerprint(adata) == before
        assert adata.X is x

    @pytest.mark.parametrize("genes", [QUERY, HUMAN], ids=["other genes", "the model's genes"])
    @pytest.mark.parametrize("dtype", ["float32", "uint8"])
    def test_unsorted_indices_with_duplicate_entries_are_summed_and_left_alone(self, genes, dtype):
        rng = np.random.default_rng(7)
        indices = rng.integers(0, len(genes), size=N_OBS * 50)
        data = rng.integers(100, 200, size=N_OBS * 50).astype(dtype)
        x = sp.csr_matrix((data, indices, np.arange(N_OBS + 1) * 50), shape=(N_OBS, len(genes)))
        expected = align_slowly(x.astype(np.float32).toarray(), genes, HUMAN)
        adata = make_adata(x, genes)
        before = fingerprint(adata)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* occur more than once in query")
            match = match_genes(genes, HUMAN)
        aligned = align_counts(adata, match)
        np.testing.assert_array_equal(aligned.toarray(), expected)
        assert aligned.has_canonical_format
        assert fingerprint(adata) == before

    def test_aligned_counts_do_not_share_memory_with_the_input(self):
        adata = make_adata(sp.csr_matrix(make_counts(100).astype(np.float32)), HUMAN)
        aligned = align_counts(adata, match_genes(HUMAN, HUMAN))
        assert not np.shares_memory(aligned.data, adata.X.data)

    @pytest.mark.parametrize("container", CONTAINERS)
    def test_one_cell(self, match, container):
        x = make_counts(len(QUERY))[:1]
        aligned = align_counts(make_adata(container(x), QUERY), match)
        np.testing.assert_array_equal(aligned.toarray(), align_slowly(x, QUERY, HUMAN))

    def test_other_number_of_genes_is_refused(self, match):
        with pytest.raises(ValueError, match="query has 100 genes, but .* there were 91"):
            align_counts(make_adata(make_counts(100), HUMAN), match)

    def test_missing_layer_is_refused(self, match):
        with pytest.raises(KeyError, match="layer='counts' is not a layer of pbmc"):
            align_counts(make_adata(make_counts(len(QUERY)), QUERY), match, layer="counts", name="pbmc")

    def test_missing_x_is_refused(self, match):
        adata = make_adata(None, QUERY, obs=pd.DataFrame(index=["a", "b"]))
        with pytest.raises(ValueError, match="query has no X"):
            align_counts(adata, match)

    def test_no_cells_is_refused(self, match):
        with pytest.raises(ValueError, match="query has 0 cells"):
            align_counts(make_adata(make_counts(len(QUERY)), QUERY)[:0], match)

    def test_objects_are_refused(self, match):
        adata = make_adata(make_counts(len(QUERY)), QUERY)
        adata.layers["objects"] = make_counts(len(QUERY)).astype(object)
        with pytest.raises(TypeError, match="dtype object"):
            align_counts(adata, match, layer="objects")


class TestPlaceholders:
    """Columns that only stand for a gene that was not measured."""

    def test_a_measured_column_beside_one_counts(self):
        x = np.array([[0, 2, 3], [0, 5, 7]])
        with pytest.warns(UserWarning, match="occur more than once"):
            match = match_genes(["CD1", "CD1", "CD2"], ["CD1", "CD2"], is_missing=np.array([True, False, False]))
        assert not match.is_missing.any()
        np.testing.assert_array_equal(align_counts(make_adata(x, ["CD1", "CD1", "CD2"]), match).toarray(), x[:, 1:])

    def test_values_in_them_are_refused(self):
        match = match_genes(HUMAN, HUMAN, is_missing=np.arange(100) < 2)
        x = make_counts(100)
        x[:, :2] = 0
        np.testing.assert_array_equal(align_counts(make_adata(x, HUMAN), match).toarray(), x)
        x[5, 1] = 1
        with pytest.raises(ValueError, match=f"1 gene.s. of query have counts.*not measured: {HUMAN[1]}"):
            align_counts(make_adata(sp.csr_matrix(x), HUMAN), match)


class TestBacked:
    @pytest.fixture(params=[np.asarray, sp.csr_matrix, sp.csc_matrix], ids=["dense", "csr", "csc"])
    def path(self, request, tmp_path: Path) -> Path:
        x = request.param(make_counts(len(QUERY)).astype(np.float32))
        adata = make_adata(x, QUERY, layers={"counts": x})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adata.write_h5ad(tmp_path / "query.h5ad")
        return tmp_path / "query.h5ad"

    @pytest.fixture
    def backed(self, path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adata = ad.read_h5ad(path, backed="r")
        yield adata
        adata.file.close()

    @pytest.mark.parametrize("chunk_size", [1, 5, 1000])
    @pytest.mark.parametrize("layer", [None, "counts"])
    def test_backed_agrees_with_the_slow_way(self, backed, match, chunk_size, layer):
        aligned = align_counts(backed, match, layer=layer, chunk_size=chunk_size)
        assert backed.isbacked
        np.testing.assert_array_equal(aligned.toarray(), align_slowly(make_counts(len(QUERY)), QUERY, HUMAN))
        assert aligned.has_sorted_indices

    def test_view_of_backed(self, backed, match):
        aligned = align_counts(backed[3:9], match, chunk_size=4)
        np.testing.assert_array_equal(aligned.toarray(), align_slowly(make_counts(len(QUERY))[3:9], QUERY, HUMAN))

    def test_file_is_not_modified(self, path, backed, match):
        before = hashlib.sha256(path.read_bytes()).hexdigest()
        align_counts(backed, match)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == before

    def test_no_read_is_larger_than_a_chunk(self, backed, match, monkeypatch):
        import h5py

        sizes = []
        read = h5py.Dataset.__getitem__

        def spy(dataset, key, **kwargs):
            values = read(dataset, key, **kwargs)
            if dataset.name.endswith(("/X", "/data")):
                sizes.append(np.size(values))
            return values

        monkeypatch.setattr(h5py.Dataset, "__getitem__", spy)
        align_counts(backed, match, chunk_size=2)
        assert len(sizes) >= N_OBS / 2
        assert max(sizes) <= 2 * len(QUERY)


GENES = [f"g{i}" for i in range(13)]


@settings(deadline=None, max_examples=60, database=None)
@given(
    query=st.lists(st.sampled_from([*GENES, "x1", "x2", "x3"]), min_size=1, max_size=19),
    vocabulary=st.lists(st.sampled_from(GENES), min_size=1, max_size=11, unique=True),
    container=st.sampled_from([np.asarray, sp.csr_matrix, sp.csc_array]),
    chunk_size=st.integers(1, 20),
    seed=st.integers(0, 2**16),
)
def test_alignment_equals_the_slow_way(query, vocabulary, container, chunk_size, seed):
    shared = [gene for gene in vocabulary if gene in query]
    if not shared:
        with pytest.raises(ValueError, match="Only 0 of the"):
            match_quietly(query, vocabulary, min_shared=1)
        return
    x = make_counts(len(query), seed)
    adata = make_adata(container(x), query)
    before = fingerprint(adata)
    match = match_quietly(adata.var_names, vocabulary, min_shared=1)
    aligned = align_counts(adata, match, chunk_size=chunk_size)

    np.testing.assert_array_equal(aligned.toarray(), align_slowly(x, query, vocabulary))
    assert match.n_shared == len(shared)
    assert match.n_extra == sum(gene not in vocabulary for gene in query)
    assert match.duplicated == list(dict.fromkeys(g for g in query if g in vocabulary and query.count(g) > 1))
    np.testing.assert_array_equal(match.is_missing, [gene not in query for gene in vocabulary])
    assert fingerprint(adata) == before


@settings(deadline=None, max_examples=30, database=None)
@given(order=st.permutations(range(len(GENES))), seed=st.integers(0, 2**16))
def test_order_of_query_genes_changes_nothing(order, seed):
    x = make_counts(len(GENES), seed)
    straight, shuffled = make_adata(x, GENES), make_adata(x[:, order], [GENES[i] for i in order])
    aligned = [align_counts(adata, match_genes(adata.var_names, GENES)) for adata in (straight, shuffled)]
    for attribute in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(aligned[0], attribute), getattr(aligned[1], attribute))
