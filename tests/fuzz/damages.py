"""Ways to damage data: each takes an AnnData of its own and a generator, and returns what to annotate."""

from __future__ import annotations

from collections.abc import Callable

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

Damage = Callable[[ad.AnnData, np.random.Generator], ad.AnnData]


def _dense(adata: ad.AnnData) -> np.ndarray:
    return np.asarray(adata.X.toarray() if sp.issparse(adata.X) else adata.X, dtype=np.float64)


def values(function: Callable[[np.ndarray], np.ndarray], container: Callable = sp.csr_matrix) -> Damage:
    """Damage of the matrix: dense float64 -> what takes its place."""

    def damage(adata: ad.AnnData, rng: np.random.Generator) -> ad.AnnData:
        with np.errstate(all="ignore"):
            adata.X = container(np.asarray(function(_dense(adata)), dtype=np.float32))
        return adata

    return damage


def some(value: float, n: int = 1) -> Damage:
    """Damage of a few values."""

    def damage(adata: ad.AnnData, rng: np.random.Generator) -> ad.AnnData:
        x = _dense(adata).astype(np.float32)
        if x.size:
            x[rng.integers(0, x.shape[0], n), rng.integers(0, x.shape[1], n)] = value
        adata.X = sp.csr_matrix(x)
        return adata

    return damage


def stored(function: Callable[[np.ndarray], object]) -> Damage:
    """Damage of how the matrix is stored: dense float64 -> matrix of any kind."""

    def damage(adata: ad.AnnData, rng: np.random.Generator) -> ad.AnnData:
        return ad.AnnData(function(_dense(adata)), obs=adata.obs, var=adata.var, uns=adata.uns, obsm=adata.obsm)

    return damage


def names(function: Callable[[list[str], np.random.Generator], list]) -> Damage:
    """Damage of the names of genes."""

    def damage(adata: ad.AnnData, rng: np.random.Generator) -> ad.AnnData:
        adata.var_names = pd.Index(function(list(adata.var_names), rng), dtype=object)
        return adata

    return damage


def cells(function: Callable[[int, np.random.Generator], object]) -> Damage:
    """Damage of which cells there are: number of cells -> selector."""

    def damage(adata: ad.AnnData, rng: np.random.Generator) -> ad.AnnData:
        return adata[function(adata.n_obs, rng)].copy()

    return damage


def genes(function: Callable[[int, np.random.Generator], object]) -> Damage:
    """Damage of which genes there are: number of genes -> selector."""

    def damage(adata: ad.AnnData, rng: np.random.Generator) -> ad.AnnData:
        return adata[:, function(adata.n_vars, rng)].copy()

    return damage


def column(key: str, function: Callable[[int, np.random.Generator], object], *, where: str = "obs") -> Damage:
    """Damage of a column."""

    def damage(adata: ad.AnnData, rng: np.random.Generator) -> ad.AnnData:
        frame = getattr(adata, where)
        frame[key] = function(len(frame), rng)
        return adata

    return damage


def _per_total(x: np.ndarray, total: float = 1e4) -> np.ndarray:
    return x / np.maximum(x.sum(axis=1, keepdims=True), 1) * total


def _lengths(x: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.5, 5.0, x.shape[1])


def _significant(x: np.ndarray, digits: int) -> np.ndarray:
    unit = 10.0 ** (np.floor(np.log10(np.maximum(x, 1e-30))) + 1 - digits)
    return np.round(x / unit) * unit


def _zscore(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-8)


def _unsorted(x: np.ndarray) -> sp.csr_matrix:
    matrix = sp.csr_matrix(x.astype(np.float32))
    for row in range(matrix.shape[0]):
        part = slice(matrix.indptr[row], matrix.indptr[row + 1])
        matrix.indices[part], matrix.data[part] = matrix.indices[part][::-1].copy(), matrix.data[part][::-1].copy()
    matrix.has_sorted_indices = False
    return matrix


def _split_entries(x: np.ndarray) -> sp.csr_matrix:
    """Every value stored as two halves."""
    matrix = sp.coo_matrix(x)
    data, row, col = (np.r_[part, part] for part in (matrix.data / 2, matrix.row, matrix.col))
    order = np.argsort(row, kind="stable")
    indptr = np.r_[0, np.cumsum(np.bincount(row, minlength=x.shape[0]))]
    return sp.csr_matrix((data[order].astype(np.float32), col[order], indptr), x.shape)


def _read_only(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float32)
    x.flags.writeable = False
    return x


SCALES: dict[str, Damage] = {
    "log1p of CP10k": values(lambda x: np.log1p(_per_total(x))),
    "log2 of CP10k": values(lambda x: np.log2(1 + _per_total(x))),
    "log1p of CPM": values(lambda x: np.log1p(_per_total(x, 1e6))),
    "log1p of counts": values(np.log1p),
    "log1p twice": values(lambda x: np.log1p(np.log1p(_per_total(x)))),
    "CPM": values(lambda x: _per_total(x, 1e6)),
    "CP10k, rounded": values(lambda x: np.round(_per_total(x))),
    "scaled": values(_zscore, np.asarray),
    "scaled and clipped": values(lambda x: np.clip(_zscore(x), -1, 1), np.asarray),
    "square root": values(np.sqrt),
    "shares": values(lambda x: _per_total(x, 1.0)),
    "percent": values(lambda x: _per_total(x, 100.0)),
    "tiny": values(lambda x: x * 1e-6),
    "huge": values(lambda x: x * 1e30),
    "overflown": values(lambda x: x * 1e38),
    "exponential": values(np.exp),
    "log1p of CP10k, 3 decimals": values(lambda x: np.round(np.log1p(_per_total(x)), 3)),
    "log1p of CP10k, 4 significant digits": values(lambda x: _significant(np.log1p(_per_total(x)), 4)),
    "log1p of CP10k, half precision": values(lambda x: np.log1p(_per_total(x)).astype(np.float16)),
    "TPM": values(lambda x: _per_total(x / _lengths(x), 1e6)),
    "log1p of TPM": values(lambda x: np.log1p(_per_total(x / _lengths(x), 1e6))),
    "corrected for ambient RNA": values(lambda x: np.where(np.arange(x.size).reshape(x.shape) % 4 == 0, 0.9 * x, x)),
    "a few negative counts": values(
        lambda x: np.where((x > 0) & (np.arange(x.size).reshape(x.shape) % 97 == 0), -1, x)
    ),
    "NaN genes": values(lambda x: np.where(np.arange(x.shape[1]) % 9 == 0, np.nan, x)),
    "NaN genes in a part": values(
        lambda x: np.where((np.arange(x.shape[1]) % 9 == 0) & (np.arange(len(x))[:, None] < len(x) // 2), np.nan, x)
    ),
    "doubled": values(lambda x: 2 * x),
    "expected counts": values(lambda x: x + 0.3 * (x > 2)),
    "ranks": values(lambda x: x.argsort(axis=1).argsort(axis=1)),
    "binary": values(lambda x: x > 0),
    "negated": values(lambda x: -x),
    "all zero": values(np.zeros_like),
    "all one": values(np.ones_like),
    "all NaN": values(lambda x: np.full_like(x, np.nan)),
    "all infinite": values(lambda x: np.full_like(x, np.inf)),
    "one NaN": some(np.nan),
    "some NaN": some(np.nan, 50),
    "one infinite": some(np.inf),
    "one minus infinite": some(-np.inf),
    "one negative": some(-1),
    "one slightly negative": some(-1e-6),
    "one huge": some(1e30),
    "one fraction": some(0.5),
    "one at the end of float32": some(3e38),
    "NaN batch of cells": values(lambda x: np.where(np.arange(len(x))[:, None] < len(x) // 3, np.nan, x)),
    "infinite gene": values(lambda x: np.where(np.arange(x.shape[1]) == 0, np.inf, x)),
    "empty cells": values(lambda x: np.where(np.arange(len(x))[:, None] % 3 == 0, 0, x)),
    "empty genes": values(lambda x: np.where(np.arange(x.shape[1]) % 2 == 0, 0, x)),
    "one cell with counts": values(lambda x: np.where(np.arange(len(x))[:, None] == 0, x, 0)),
    "one count": values(lambda x: np.where(np.arange(x.size).reshape(x.shape) == 0, 1, 0)),
}

CONTAINERS: dict[str, Damage] = {
    **{
        f"dense {dtype}": stored(lambda x, dtype=dtype: x.astype(dtype))
        for dtype in (
            "float16",
            "float64",
            "bool",
            "int8",
            "uint8",
            "int16",
            "int32",
            "int64",
            "uint64",
            ">f4",
            "<f8",
            ">i4",
        )
    },
    **{
        f"sparse {dtype}": stored(lambda x, dtype=dtype: sp.csr_matrix(x.astype(dtype)))
        for dtype in ("float64", "bool", "uint8", "int64", "uint16")
    },
    "float16 stored as CSR": stored(lambda x: _with_data(sp.csr_matrix(x), np.float16)),
    "long double": stored(lambda x: x.astype(np.longdouble)),
    "complex": stored(lambda x: x.astype(np.complex64)),
    "objects": stored(lambda x: x.astype(object)),
    "strings": stored(lambda x: x.astype(str)),
    "Fortran order": stored(lambda x: np.asfortranarray(x.astype(np.float32))),
    "strided": stored(lambda x: np.repeat(x.astype(np.float32), 2, axis=1)[:, ::2]),
    "read only": stored(_read_only),
    "CSC": stored(lambda x: sp.csc_matrix(x.astype(np.float32))),
    "CSC of int64": stored(lambda x: sp.csc_matrix(x.astype(np.int64))),
    "CSR array": stored(lambda x: sp.csr_array(x.astype(np.float32))),
    "CSC array": stored(lambda x: sp.csc_array(x.astype(np.float32))),
    "unsorted CSR": stored(_unsorted),
    "entries in two halves": stored(_split_entries),
    "zeros stored": stored(lambda x: sp.csr_matrix((x.ravel(), np.indices(x.shape)[1].ravel(), _indptr(x)), x.shape)),
    "64-bit indices": stored(lambda x: _long_indices(sp.csr_matrix(x.astype(np.float32)))),
    "matrix": stored(lambda x: np.matrix(x.astype(np.float32))),
    "masked array": stored(lambda x: np.ma.masked_array(x.astype(np.float32), mask=x == 0)),
}


def _with_data(matrix: sp.csr_matrix, dtype: type) -> sp.csr_matrix:
    matrix.data = matrix.data.astype(dtype)
    return matrix


def _indptr(x: np.ndarray) -> np.ndarray:
    return np.arange(x.shape[0] + 1) * x.shape[1]


def _long_indices(matrix: sp.csr_matrix) -> sp.csr_matrix:
    matrix.indices, matrix.indptr = matrix.indices.astype(np.int64), matrix.indptr.astype(np.int64)
    return matrix


def _permuted(adata: ad.AnnData, rng: np.random.Generator) -> ad.AnnData:
    return adata[:, rng.permutation(adata.n_vars)].copy()


def _repeated_columns(adata: ad.AnnData, rng: np.random.Generator) -> ad.AnnData:
    return adata[:, np.r_[np.arange(adata.n_vars), np.arange(adata.n_vars // 3)]].copy()


GENES: dict[str, Damage] = {
    "permuted": _permuted,
    "repeated columns": _repeated_columns,
    "names of neighbors": names(lambda old, rng: [old[i // 2 * 2] for i in range(len(old))]),
    "one name": names(lambda old, rng: ["CD3D"] * len(old)),
    "shuffled names": names(lambda old, rng: list(rng.permutation(old))),
    "lower case": names(lambda old, rng: [name.lower() for name in old]),
    "capitalized": names(lambda old, rng: [name.capitalize() for name in old]),
    "Ensembl": names(lambda old, rng: [f"ENSG{i:011d}" for i in range(len(old))]),
    "versioned Ensembl": names(lambda old, rng: [f"ENSG{i:011d}.{i % 9}" for i in range(len(old))]),
    "mixed ids": names(lambda old, rng: [f"ENSG{i:011d}" if i % 2 else name for i, name in enumerate(old)]),
    "with suffix": names(lambda old, rng: [f"{name}.1" for name in old]),
    "with genome": names(lambda old, rng: [f"GRCh38_{name}" for name in old]),
    "with genome and dash": names(lambda old, rng: [f"hg19-{name}" for name in old]),
    "symbol and id": names(lambda old, rng: [f"{name}_ENSG{i:011d}" for i, name in enumerate(old)]),
    "with white space": names(lambda old, rng: [f" {name} " for name in old]),
    "numbers": names(lambda old, rng: [str(i) for i in range(len(old))]),
    "unicode": names(lambda old, rng: [f"{name}α\u200b🧬" if i % 2 else name for i, name in enumerate(old)]),
    "empty names": names(lambda old, rng: ["" if i % 5 == 0 else name for i, name in enumerate(old)]),
    "very long names": names(lambda old, rng: [name * 300 if i % 3 == 0 else name for i, name in enumerate(old)]),
    "only very long names": names(lambda old, rng: [name * 300 for name in old]),
    "NaN among names": names(lambda old, rng: ["nan", *old[1:]]),
    "new lines in names": names(lambda old, rng: [f"{name}\n" if i % 2 else name for i, name in enumerate(old)]),
    "types with gaps": column(
        "feature_types", lambda n, rng: np.array(["Gene Expression", None, ""], object)[np.arange(n) % 3], where="var"
    ),
    "types in another spelling": column("feature_types", lambda n, rng: ["gene_expression"] * n, where="var"),
    "column of lists": column("alias", lambda n, rng: pd.Series([["a", "b"]] * n).to_numpy(), where="var"),
    "ids and a column of lists": lambda adata, rng: _ids_and_lists(adata),
    "few": genes(lambda n, rng: np.sort(rng.permutation(n)[:60])),
    "one": genes(lambda n, rng: [0]),
    "none": genes(lambda n, rng: []),
    "marked as missing": column("is_missing", lambda n, rng: rng.random(n) < 0.3, where="var"),
    "all marked as missing": column("is_missing", lambda n, rng: np.ones(n, bool), where="var"),
    "marked by numbers": column("is_missing", lambda n, rng: rng.integers(0, 3, n), where="var"),
    "marked by text": column("is_missing", lambda n, rng: ["no"] * n, where="var"),
    "marked by NaN": column("is_missing", lambda n, rng: np.full(n, np.nan), where="var"),
}


def _ids_and_lists(adata: ad.AnnData) -> ad.AnnData:
    adata.var["alias"] = pd.Series([["a"]] * adata.n_vars, index=adata.var_names, dtype=object).to_numpy()
    adata.var["symbol"] = list(adata.var_names)
    adata.var_names = [f"ENSG{i:011d}" for i in range(adata.n_vars)]
    return adata


CELLS: dict[str, Damage] = {
    "one": cells(lambda n, rng: [0]),
    "two": cells(lambda n, rng: [0, 1]),
    "none of them": cells(lambda n, rng: []),
    "batch and one": cells(lambda n, rng: np.r_[np.arange(n), np.arange(n), np.arange(9)][:129]),
    "one repeated": cells(lambda n, rng: np.zeros(60, int)),
    "repeated names": lambda adata, rng: _renamed(adata, ["cell"] * adata.n_obs),
    "numbers as names": lambda adata, rng: _renamed(adata, [str(i) for i in range(adata.n_obs)]),
    "unicode names": lambda adata, rng: _renamed(adata, [f"célula {i} 🧬" for i in range(adata.n_obs)]),
    "very long cell names": lambda adata, rng: _renamed(adata, [f"{i}" * 5000 for i in range(adata.n_obs)]),
    "empty cell names": lambda adata, rng: _renamed(adata, [""] * adata.n_obs),
    "batches with NaN": column("batch", lambda n, rng: np.array(["a", np.nan], object)[np.arange(n) % 2]),
    "batch per cell": column("batch", lambda n, rng: np.arange(n)),
    "batches as dates": column("batch", lambda n, rng: pd.date_range("2024", periods=n)),
    "batches as booleans": column("batch", lambda n, rng: np.arange(n) % 2 == 0),
    "labels as numbers": column("cell_type", lambda n, rng: rng.integers(0, 5, n)),
    "labels as floats": column("cell_type", lambda n, rng: rng.random(n)),
    "labels as booleans": column("cell_type", lambda n, rng: rng.random(n) < 0.5),
    "labels as NaN": column("cell_type", lambda n, rng: np.full(n, np.nan)),
    "labels as nullable": column("cell_type", lambda n, rng: pd.array([None] * n, dtype="string")),
    "labels as mixture": column(
        "cell_type", lambda n, rng: np.array([1, "a", None, 2.5, ("x",)], object)[np.arange(n) % 5]
    ),
    "labels as dates": column("cell_type", lambda n, rng: pd.date_range("2024", periods=n)),
    "labels with unused categories": column(
        "cell_type", lambda n, rng: pd.Categorical(["CD4+/CD25 T Reg"] * n, categories=["x", "CD4+/CD25 T Reg", "y"])
    ),
    "labels unordered": column("cell_type", lambda n, rng: pd.Categorical(["b"] * n, ["b", "a"], ordered=True)),
    "unseen labels": column("cell_type", lambda n, rng: [f"type {i}" for i in range(n)]),
    "absent labels": lambda adata, rng: _without(adata, "cell_type"),
    "columns of ours": column("transanno", lambda n, rng: np.arange(n)),
    "categories of ours": column("transanno", lambda n, rng: pd.Categorical(["old"] * n)),
    "columns of scvi-tools": column("_scvi_batch", lambda n, rng: ["x"] * n),
    "column with odd name": column("a/b\n🧬", lambda n, rng: np.arange(n)),
    "states of ours": lambda adata, rng: _with_obsm(adata),
}


def _renamed(adata: ad.AnnData, new: list[str]) -> ad.AnnData:
    adata.obs_names = pd.Index(new, dtype=object)
    return adata


def _without(adata: ad.AnnData, key: str) -> ad.AnnData:
    if key in adata.obs:
        del adata.obs[key]
    return adata


def _with_obsm(adata: ad.AnnData) -> ad.AnnData:
    adata.obsm["X_transanno"] = np.ones((adata.n_obs, 2))
    return adata


LABELS: dict[str, Damage] = {
    "integers": column("cell_type", lambda n, rng: np.arange(n) % 3),
    "floats": column("cell_type", lambda n, rng: np.arange(n) % 3 + 0.5),
    "booleans": column("cell_type", lambda n, rng: np.arange(n) % 2 == 0),
    "nullable booleans": column("cell_type", lambda n, rng: pd.array(np.arange(n) % 2 == 0, dtype="boolean")),
    "nullable integers": column("cell_type", lambda n, rng: pd.array(np.arange(n) % 3, dtype="Int64")),
    "dates": column("cell_type", lambda n, rng: pd.date_range("2024", periods=2)[np.arange(n) % 2]),
    "integer categories": column("cell_type", lambda n, rng: pd.Categorical(np.arange(n) % 3, categories=range(9))),
    "unused categories": column(
        "cell_type", lambda n, rng: pd.Categorical(np.array(["b", "a"])[np.arange(n) % 2], list("xaybz"))
    ),
    "some NaN": column("cell_type", lambda n, rng: np.array(["a", "b", np.nan], object)[np.arange(n) % 3]),
    "some None": column("cell_type", lambda n, rng: np.array(["a", "b", None], object)[np.arange(n) % 3]),
    "all NaN": column("cell_type", lambda n, rng: np.full(n, np.nan)),
    "all unlabeled": column("cell_type", lambda n, rng: ["Unlabeled"] * n),
    "one class": column("cell_type", lambda n, rng: ["a"] * n),
    "one class and unlabeled": column("cell_type", lambda n, rng: np.array(["a", "Unlabeled"])[np.arange(n) % 2]),
    "class per cell": column("cell_type", lambda n, rng: [f"type {i}" for i in range(n)]),
    "one cell of a class": column("cell_type", lambda n, rng: ["rare", *["a", "b"] * n][:n]),
    "very long": column("cell_type", lambda n, rng: np.array(["a" * 5000, "b" * 5000])[np.arange(n) % 2]),
    "unknown": column("cell_type", lambda n, rng: np.array(["unknown", "b", "c"])[np.arange(n) % 3]),
    "nan as text": column("cell_type", lambda n, rng: pd.Categorical(np.array(["nan", "b", "c"])[np.arange(n) % 3])),
    "white space behind": column("cell_type", lambda n, rng: np.array(["b", "b ", "c"])[np.arange(n) % 3]),
    "lists": column("cell_type", lambda n, rng: pd.Series([["a"], ["b"]] * n, dtype=object).to_numpy()[:n]),
    "empty text": column("cell_type", lambda n, rng: np.array(["", "b"])[np.arange(n) % 2]),
    "unicode": column("cell_type", lambda n, rng: np.array(["T 細胞", "Б/клетка\n"])[np.arange(n) % 2]),
    "mixture": column("cell_type", lambda n, rng: np.array([1, "1", 1.0, True], object)[np.arange(n) % 4]),
    "tuples": column("cell_type", lambda n, rng: pd.Series([("a",), ("b",)] * n, dtype=object).to_numpy()[:n]),
    "called Unassigned": column("cell_type", lambda n, rng: np.array(["Unassigned", "b"])[np.arange(n) % 2]),
    "absent": lambda adata, rng: _without(adata, "cell_type"),
}
