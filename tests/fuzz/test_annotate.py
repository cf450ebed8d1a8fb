"""Whatever is thrown at ``annotate`` ends in a right result or in an error of ours, and changes nothing else."""

from __future__ import annotations

import os
import pickle
import traceback
import warnings
from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from tests.fuzz.damages import CELLS, CONTAINERS, GENES, LABELS, SCALES

import transanno
from transanno import TransAnno, tl
from transanno.cli import main
from transanno.data._demo import load_demo

PACKAGE = Path(transanno.__file__).parent
WRITTEN = {"transanno", "transanno_confidence", "transanno_novelty", "transanno_group"}
BRIEF = {"max_epochs": 1, "n_top_genes": 50, "enable_progress_bar": False, "batch_size": 32}


@pytest.fixture(scope="session")
def demo():
    """Small parts of real data: 100 cells of five types to train on, 60 to annotate."""
    reference, query = load_demo()
    kept = reference.obs["cell_type"].value_counts().index[:5]
    reference = reference[reference.obs["cell_type"].isin(kept)][:100].copy()
    query = query[query.obs["cell_type"].isin(kept)][:60].copy()
    for adata in (reference, query):
        adata.obs["cell_type"] = adata.obs["cell_type"].astype(str)
        adata.layers["counts"] = adata.X.copy()
        adata.raw = adata.copy()
        adata.obsm["X_other"] = np.arange(2.0 * adata.n_obs).reshape(-1, 2)
        adata.uns["note"] = {"text": "mine", "values": np.arange(3)}
    return reference, query


@pytest.fixture(scope="session")
def trained(demo):
    torch.set_num_threads(1)
    model = tl.fit_reference(demo[0], "cell_type", n_top_genes=150, max_epochs=2, enable_progress_bar=False)
    return model


@pytest.fixture(scope="session")
def calibrated():
    """Model of more cells, of which so many are held out that novelty can be measured."""
    torch.set_num_threads(1)
    reference = load_demo()[0]
    kept = reference.obs["cell_type"].isin(["Dendritic", "CD14+ Monocyte", "CD19+ B"])
    return tl.fit_reference(
        reference[kept].copy(), "cell_type", n_top_genes=150, max_epochs=2, enable_progress_bar=False
    )


@pytest.fixture(scope="session")
def saved(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "model"
    trained.save(folder)
    return folder


# -- what must hold ----------------------------------------------------------------------------------------------


def state(matrix):
    """Matrix of any kind -> what can be compared."""
    if sp.issparse(matrix):
        parts = [matrix.data, matrix.indices, matrix.indptr]
        return [matrix.format, matrix.shape, *[(part.dtype.str, part.tobytes()) for part in parts]]
    if isinstance(matrix, np.ndarray):
        data = matrix.tolist() if matrix.dtype.kind == "O" else np.asarray(matrix).tobytes()
        return [matrix.shape, matrix.dtype.str, data]
    if isinstance(matrix, pd.DataFrame):
        return [list(matrix.columns), matrix.dtypes.astype(str).tolist(), pickle.dumps(matrix.to_dict("list"))]
    return [type(matrix).__name__]


def _other_uns(data) -> dict:
    return {key: value for key, value in data.uns.items() if key != "transanno_groups"}


def snapshot(data) -> dict:
    """All parts of an AnnData but the keys that annotate writes."""
    if not isinstance(data, ad.AnnData):
        return {"same": repr(data)[:2000]}
    parts = {
        "X": None if data.isbacked else state(data.X),
        "names": (list(data.obs_names), list(data.var_names)),
        "var": state(data.var),
        "columns": [key for key in data.obs if key not in WRITTEN],
        "uns": repr({key: dict(value) if hasattr(value, "keys") else value for key, value in _other_uns(data).items()}),
        "backed": data.isbacked,
    }
    for key in parts["columns"]:
        column = data.obs[key]
        parts[f"obs {key}"] = (str(column.dtype), repr(list(column)))
    for name in ("layers", "obsm", "varm", "obsp"):
        for key, value in getattr(data, name).items():
            if key not in (None, "X_transanno"):
                parts[f"{name} {key}"] = state(value)
    if data.raw is not None and not data.isbacked:
        parts["raw"] = (state(data.raw.X), list(data.raw.var_names))
    return parts


def written(data) -> dict:
    """The keys that annotate writes."""
    if not isinstance(data, ad.AnnData):
        return {}
    found = {key: repr(list(data.obs[key])) for key in WRITTEN if key in data.obs}
    found |= {key: state(data.uns[key]) for key in ["transanno_groups"] if key in data.uns}
    return found | ({"obsm": state(data.obsm["X_transanno"])} if "X_transanno" in data.obsm else {})


def check_error(error: BaseException) -> None:
    """Fail unless the error is one of ours, and tells what to do."""
    shown = "".join(traceback.format_exception(error))[-3000:]
    assert isinstance(error, ValueError | TypeError | KeyError | FileNotFoundError), shown
    frames = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    assert frames[-1].is_relative_to(PACKAGE), f"raised by {frames[-1]}\n{shown}"
    message = str(error)
    assert len(message) >= 40, message
    assert "Traceback" not in message
    assert len(message) < 3000, f"{len(message)} characters"


def check_result(model, query, fdr) -> None:
    found = query.obs["transanno"]
    assert isinstance(found.dtype, pd.CategoricalDtype)
    assert found.notna().all()
    assert set(found) <= {*model.labels.tolist(), "Unassigned", *(["Unknown"] if fdr is not None else [])}
    if fdr is not None:
        check_groups(query)
    confidence = query.obs["transanno_confidence"].to_numpy()
    assert ((confidence >= 0) & (confidence <= 1 + 1e-9)).all(), confidence
    states = query.obsm["X_transanno"]
    assert states.shape[0] == query.n_obs
    assert np.isfinite(states).all()


def check_groups(query) -> None:
    is_empty = (query.obs["transanno"] == "Unassigned").to_numpy()  # no threshold was given
    np.testing.assert_array_equal(np.isfinite(query.obs["transanno_novelty"]), ~is_empty)
    assert ("transanno_group" in query.obs) == ("transanno_groups" in query.uns) == (query.n_obs >= 50)
    if query.n_obs >= 50:
        group, table = query.obs["transanno_group"], query.uns["transanno_groups"]
        assert (query.obs["transanno"][group.notna()] == "Unknown").all()
        counts = group.value_counts()
        assert counts.loc[table["group"]].tolist() == table["n_cells"].tolist()
        assert counts.sum() == table["n_cells"].sum()


def attempt(query, *args, others=(), **kwargs) -> str:
    """Annotate; -> "result" or "error", after checking either."""
    inputs = [query, *others]
    before, written_before = [snapshot(data) for data in inputs], written(query)
    outcome = "result"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # ours, and anndata's of views and names; no others
        try:
            model = tl.annotate(query, *args, accelerator=kwargs.pop("accelerator", "cpu"), **kwargs)
        except Exception as error:  # noqa: BLE001
            check_error(error)
            outcome = "error"
    for data, parts in zip(inputs, before, strict=True):
        after = snapshot(data)
        changed = {
            f"{key}: {parts.get(key)} -> {after.get(key)}"[:1000]
            for key in parts.keys() | after.keys()
            if parts.get(key) != after.get(key)
        }
        assert not changed, f"changed by {outcome}"
    if outcome == "error":
        assert written(query) == written_before, "written before the error"
    else:
        check_result(model, query, kwargs.get("fdr"))
    return outcome


# -- damaged queries ---------------------------------------------------------------------------------------------

QUERIES = {
    f"{kind}: {name}": damage
    for kind, damages in {"scale": SCALES, "container": CONTAINERS, "genes": GENES, "cells": CELLS}.items()
    for name, damage in damages.items()
}
# What has to work: nothing is wrong with it, or what is wrong does not concern the model.
HARMLESS = {
    *[f"container: {name}" for name in CONTAINERS if name not in ("complex", "objects", "strings")],
    *[f"cells: {name}" for name in CELLS if name != "none of them"],
    "genes: permuted",
    *[f"genes: {name}" for name in ("with genome", "with genome and dash", "symbol and id", "with white space")],
    *[f"genes: {name}" for name in ("types with gaps", "types in another spelling", "column of lists")],
    "genes: ids and a column of lists",
    *[f"scale: log1p of CP10k, {name}" for name in ("3 decimals", "4 significant digits", "half precision")],
    *[f"scale: {name}" for name in ("TPM", "log1p of TPM", "corrected for ambient RNA")],
    "genes: unicode",
    "scale: doubled",
    "scale: empty cells",
    "scale: empty genes",
}
ACCEPTED = {name for name in HARMLESS if name.startswith("scale:")}
HOPELESS = {
    *[f"scale: {name}" for name in SCALES if ("NaN" in name or "infinite" in name) and name != "infinite gene"],
    *[f"genes: {name}" for name in ("one", "none", "one name", "Ensembl", "numbers", "all marked as missing")],
    *[f"scale: {name}" for name in ("scaled", "all zero", "overflown", "negated", "a few negative counts")],
    *[f"container: {name}" for name in ("complex", "objects", "strings")],
    "cells: none of them",
}


def without_other_counts(query):
    """-> nothing beside X from which counts could be had."""
    query = ad.AnnData(query.X, obs=query.obs[[]], var=query.var)
    return query


def damaged(query, names, seed):
    rng = np.random.default_rng(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        query = query.copy()
        for name in names:
            query = QUERIES[name](query, rng)
    return query


@pytest.mark.parametrize("name", QUERIES)
def test_damaged_query(name, demo, trained):
    query = damaged(demo[1], [name], 0)
    if name.startswith("scale:") and name in HOPELESS:
        query = without_other_counts(query)
    outcome = attempt(query, model=trained)
    if name in HARMLESS:
        assert outcome == "result"
        if name in ACCEPTED:  # and not because of the counts beside X
            assert attempt(without_other_counts(damaged(demo[1], [name], 0)), model=trained) == "result"
    if name in HOPELESS:
        assert outcome == "error"


# What has to do with novelty, neighbors and groups.
OF_CELLS = ("one", "two", "none of them", "batch and one", "one repeated", "repeated names", "columns of ours")
OF_VALUES = ("log1p of CP10k", "tiny", "ranks", "binary", "all zero", "all one", "one huge", "one fraction")
OF_VALUES += ("empty cells", "empty genes", "one cell with counts", "one count")


@pytest.mark.parametrize("name", [*(f"cells: {name}" for name in OF_CELLS), *(f"scale: {name}" for name in OF_VALUES)])
def test_damaged_query_with_a_rate(name, demo, calibrated):
    """Of two types of the query the model knows nothing."""
    query = damaged(demo[1], [name], 0)
    if name.startswith("scale:") and name in HOPELESS:
        query = without_other_counts(query)
    outcome = attempt(query, model=calibrated, fdr=0.5)
    if name in HARMLESS | HOPELESS:
        assert outcome == ("result" if name in HARMLESS else "error")


def _combinations(n: int) -> list[tuple[str, ...]]:
    """Damages of different kinds together, the matrix's container last so that it stays what it is."""
    rng = np.random.default_rng(0)
    kinds = [[name for name in QUERIES if name.startswith(kind)] for kind in ("cells", "genes", "scale", "container")]
    chosen = []
    for _ in range(n):
        which = np.sort(rng.choice(4, size=rng.integers(2, 4), replace=False))
        chosen.append(tuple(str(rng.choice(kinds[i])) for i in which))
    return chosen


@pytest.mark.parametrize("names", _combinations(110), ids=" + ".join)
def test_damages_together(names, demo, trained):
    attempt(damaged(demo[1], names, 1), model=trained)


@pytest.mark.parametrize("scale", SCALES)
def test_damaged_layer(scale, demo, trained):
    """The layer is read and not X, whatever X holds."""
    query = damaged(demo[1], [f"scale: {scale}"], 2)
    query.layers["counts"], query.X = query.X, demo[1].X
    query.layers["whole"] = demo[1].X.copy()
    attempt(query, model=trained, layer="counts")
    query = query.copy()
    query.X = query.layers["counts"]
    assert attempt(query, model=trained, layer="whole") == "result"


VIEWS = {
    "of cells": lambda query: query[::2],
    "of genes": lambda query: query[:, ::-1],
    "of both": lambda query: query[5:50, 3:700],
    "of a view": lambda query: query[5:][::3],
    "of dense": lambda query: _with_x(query, query.X.toarray())[::2],
    "of CSC": lambda query: _with_x(query, query.X.tocsc())[::2, ::-1],
    "of one cell": lambda query: query[0],
    "of no cells": lambda query: query[:0],
    "by a mask": lambda query: query[np.arange(query.n_obs) % 2 == 0],
}


def _with_x(query, x):
    query.X = x
    return query


@pytest.mark.parametrize("name", VIEWS)
def test_view(name, demo, trained):
    parent = demo[1].copy()
    view = VIEWS[name](parent)
    assert attempt(view, model=trained, others=[parent]) == ("error" if name == "of no cells" else "result")


@pytest.mark.parametrize("container", ["dense", "CSR", "CSC"])
@pytest.mark.parametrize("scale", [None, "one NaN", "log1p of CP10k", "one negative", "all zero"])
@pytest.mark.parametrize("view", [False, True], ids=["whole", "view"])
def test_backed_query(container, scale, view, demo, trained, tmp_path):
    query = demo[1].copy()
    if scale is not None:
        query = without_other_counts(SCALES[scale](query, np.random.default_rng(0)))
    x = query.X.toarray()
    query.X = {"dense": x, "CSR": sp.csr_matrix(x), "CSC": sp.csc_matrix(x)}[container]
    query.write_h5ad(tmp_path / "query.h5ad")
    content = (tmp_path / "query.h5ad").read_bytes()
    backed = ad.read_h5ad(tmp_path / "query.h5ad", backed="r")
    outcome = attempt(backed[::2] if view else backed, model=trained)
    backed.file.close()
    assert (tmp_path / "query.h5ad").read_bytes() == content
    if scale is None and not view:
        assert outcome == "result"
    if scale in ("one NaN", "one negative", "all zero") and not view:
        assert outcome == "error"


# -- wrong arguments ---------------------------------------------------------------------------------------------

NO_QUERY = {
    "None": lambda query: None,
    "array": lambda query: query.X.toarray(),
    "sparse": lambda query: query.X,
    "frame": lambda query: query.to_df(),
    "text": lambda query: "query.h5ad",
    "dictionary": lambda query: {"X": query.X},
    "list": lambda query: [query],
    "class": lambda query: ad.AnnData,
    "MuData": lambda query: _mudata(query),
    "raw": lambda query: query.raw,
    "without X": lambda query: ad.AnnData(obs=query.obs, var=query.var),
    "empty": lambda query: ad.AnnData(),
}


def _mudata(query):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mudata.MuData({"rna": query})


@pytest.mark.parametrize("name", NO_QUERY)
@pytest.mark.parametrize("source", ["model", "reference"])
def test_not_a_query(name, source, demo, trained):
    made = NO_QUERY[name](demo[1].copy())
    how = {"model": trained} if source == "model" else {"reference": demo[0], "labels_key": "cell_type", **BRIEF}
    assert attempt(made, **how) == "error"


class Bomb:
    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace,)


def _file(path, content: bytes):
    path.mkdir()
    (path / "model.pt").write_bytes(content)
    return path


NO_MODEL = {
    "number": lambda path: 7,
    "bytes": lambda path: b"model",
    "class": lambda path: TransAnno,
    "dictionary": lambda path: {},
    "false": lambda path: False,
    "empty text": lambda path: "",
    "absent folder": lambda path: path / "nowhere",
    "empty folder": lambda path: path.parent,
    "empty file": lambda path: _file(path, b""),
    "text file": lambda path: _file(path, b"version https://git-lfs.github.com/spec/v1"),
    **{
        f"random bytes {seed}": lambda path, seed=seed: _file(path, np.random.default_rng(seed).bytes(500))
        for seed in range(8)
    },
    **{
        f"random pickle {seed}": lambda path, seed=seed: _file(
            path, b"\x80\x02" + np.random.default_rng(seed).bytes(99)
        )
        for seed in range(8)
    },
    "random zip": lambda path: _file(path, b"PK\x03\x04" + np.random.default_rng(0).bytes(500)),
    "bomb": lambda path: _file(path, pickle.dumps(Bomb(path.parent / "trace"))),
    "file instead of folder": lambda path: _file(path, b"x") / "model.pt",
    "list": lambda path: [str(path)],
    "null byte": lambda path: "mod\0el",
}


@pytest.mark.parametrize("argument", ["model", "pretrained"])
@pytest.mark.parametrize("name", NO_MODEL)
def test_not_a_model(name, argument, demo, tmp_path):
    made = NO_MODEL[name](tmp_path / "model")
    more = {} if argument == "model" else {"reference": demo[0], "labels_key": "cell_type", **BRIEF}
    assert attempt(demo[1].copy(), **{argument: made}, **more) == "error"
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_cut_model(share, saved, demo, tmp_path):
    content = (saved / "model.pt").read_bytes()
    folder = _file(tmp_path / "model", content[: int(share * len(content))])
    assert attempt(demo[1].copy(), model=folder) == "error"


ARGUMENTS = [
    {"layer": "nowhere"},
    {"layer": 3},
    {"layer": ["counts"]},
    {"key_added": 3},
    {"key_added": ""},
    {"key_added": None},
    {"key_added": ["a"]},
    {"unassigned_threshold": "0.5"},
    {"unassigned_threshold": -0.1},
    {"unassigned_threshold": 1.1},
    {"unassigned_threshold": np.nan},
    {"unassigned_threshold": True},
    {"unassigned_threshold": [0.5]},
    {"fdr": "0.1"},
    {"fdr": 0},
    {"fdr": 1},
    {"fdr": -0.1},
    {"fdr": np.nan},
    {"fdr": True},
    {"fdr": [0.1]},
    {"seed": "x"},
    {"seed": -1},
    {"seed": 1.5},
    {"seed": 2**70},
    {"seed": [1]},
    {"refine": "yes"},
    {"refine": None},
    {"accelerator": "banana"},
    {"accelerator": 3},
    {"accelerator": None},
    {"accelerator": "tpu"},
    {"max_epochs": 3},
    {"nonsense": 1},
    {"pretrained": "folder"},
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=repr)
def test_wrong_arguments(arguments, demo, trained):
    assert attempt(demo[1].copy(), model=trained, **arguments) == "error"


# -- damaged references ------------------------------------------------------------------------------------------

REFERENCES = {
    **{f"labels: {name}": damage for name, damage in LABELS.items()},
    **{
        f"scale: {name}": SCALES[name]
        for name in list(SCALES)[:8]
        + [
            "one NaN",
            "one infinite",
            "one negative",
            "all zero",
            "binary",
            "one count",
            "one cell with counts",
            "empty genes",
            "empty cells",
            "all one",
        ]
    },
    **{
        f"genes: {name}": GENES[name]
        for name in (
            "permuted",
            "repeated columns",
            "one name",
            "mixed ids",
            "unicode",
            "empty names",
            "very long names",
            "few",
            "one",
            "none",
            "marked as missing",
            "all marked as missing",
            "new lines in names",
        )
    },
    **{
        f"cells: {name}": CELLS[name]
        for name in (
            "one",
            "two",
            "none of them",
            "repeated names",
            "batches with NaN",
            "batch per cell",
            "batches as dates",
            "batches as booleans",
        )
    },
    **{
        f"container: {name}": CONTAINERS[name]
        for name in (
            "dense float16",
            "dense bool",
            "sparse uint8",
            "CSC of int64",
            "CSR array",
            "objects",
            "complex",
            "unsorted CSR",
            "entries in two halves",
            "dense >f4",
            "float16 stored as CSR",
        )
    },
}


@pytest.mark.parametrize("name", REFERENCES)
def test_damaged_reference(name, demo):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = REFERENCES[name](demo[0].copy(), np.random.default_rng(0))
    arguments = {"batch_key": "batch"} if "batch" in reference.obs else {}
    attempt(demo[1].copy(), reference, labels_key="cell_type", others=[reference], **arguments, **BRIEF)


def _pairs(n: int) -> list[tuple[str, str]]:
    """Damages of two kinds at once."""
    rng, kinds = np.random.default_rng(3), ("labels", "scale", "genes", "cells", "container")
    of_kind = {kind: [name for name in REFERENCES if name.startswith(kind)] for kind in kinds}
    chosen = [np.sort(rng.choice(len(kinds), size=2, replace=False)) for _ in range(n)]
    return [(str(rng.choice(of_kind[kinds[a]])), str(rng.choice(of_kind[kinds[b]]))) for a, b in chosen]


@pytest.mark.parametrize("names", _pairs(20), ids=" + ".join)
def test_pairs_of_damages_of_a_reference(names, demo):
    reference = demo[0].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            reference = REFERENCES[name](reference, np.random.default_rng(0))
    arguments = {"batch_key": "batch"} if "batch" in reference.obs else {}
    attempt(demo[1].copy(), reference, labels_key="cell_type", others=[reference], **arguments, **BRIEF)


REFERENCE_ARGUMENTS = [
    {"labels_key": None},
    {"labels_key": "nowhere"},
    {"labels_key": 3},
    {"labels_key": ["cell_type"]},
    {"batch_key": "nowhere"},
    {"batch_key": 3},
    {"batch_key": ["a", "b"]},
    {"unlabeled_category": 3},
    {"unlabeled_category": None},
    {"n_top_genes": 0},
    {"n_top_genes": -5},
    {"n_top_genes": "many"},
    {"n_top_genes": 2.5},
    {"max_epochs": -1},
    {"max_epochs": "many"},
    {"max_epochs": 1.5},
    {"train_size": 0},
    {"train_size": 2},
    {"train_size": "most"},
    {"batch_size": 0},
    {"batch_size": -3},
    {"batch_size": "x"},
    {"nonsense": 1},
    {"plan_kwargs": {"nonsense": 1}},
    {"plan_kwargs": {"lr": "fast"}},
    {"plan_kwargs": 3},
    {"n_samples_per_label": -1},
    {"freeze": "all"},
    {"reference": "reference.h5ad"},
    {"reference": np.ones((3, 3))},
    {"reference": pd.DataFrame()},
    {"reference": None},
    {"model": "both"},
    {"layer": "nowhere"},
]


@pytest.mark.parametrize("arguments", REFERENCE_ARGUMENTS, ids=lambda arguments: repr(arguments)[:60])
def test_wrong_arguments_of_training(arguments, demo):
    arguments = {"reference": demo[0], "labels_key": "cell_type", **BRIEF, **arguments}
    assert attempt(demo[1].copy(), **arguments) == "error"


def test_batch_key_in_a_list(demo):
    arguments = {"labels_key": "cell_type", "batch_key": ["cell_type"], **BRIEF}
    assert attempt(demo[1].copy(), demo[0], others=[demo[0]], **arguments) == "result"


def test_backed_reference_and_view(demo, tmp_path):
    demo[0].write_h5ad(tmp_path / "reference.h5ad")
    backed = ad.read_h5ad(tmp_path / "reference.h5ad", backed="r")
    attempt(demo[1].copy(), backed, labels_key="cell_type", others=[backed], **BRIEF)
    backed.file.close()
    view = demo[0][::2]
    assert attempt(demo[1].copy(), view, labels_key="cell_type", others=[view], **BRIEF) == "result"


# -- damaged files, by the command line --------------------------------------------------------------------------


def _cut(share: float):
    return lambda content: content[: int(share * len(content))]


def _flipped(seed: int):
    def damage(content: bytes) -> bytes:
        rng = np.random.default_rng(seed)
        values = np.frombuffer(content, np.uint8).copy()
        values[rng.integers(0, values.size, 300)] ^= np.uint8(255)
        return values.tobytes()

    return damage


FILES = {
    **{f"cut at {share}": _cut(share) for share in (0, 0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999)},
    **{f"bytes changed {seed}": _flipped(seed) for seed in range(8)},
    "text": lambda content: b"cell,gene\n1,2\n",
    "random": lambda content: np.random.default_rng(0).bytes(1000),
    "pickle": lambda content: pickle.dumps({"X": 1}),
}


@pytest.mark.parametrize("name", FILES)
def test_damaged_file(name, demo, saved, tmp_path, capsys):
    query = demo[1].copy()
    query.write_h5ad(tmp_path / "query.h5ad")
    path = tmp_path / "damaged.h5ad"
    path.write_bytes(FILES[name]((tmp_path / "query.h5ad").read_bytes()))
    content = path.read_bytes()
    options = ["annotate", "--query", path, "--model", saved, "--out", tmp_path / "out.h5ad", "--accelerator", "cpu"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        code = main([str(option) for option in options])
    printed = capsys.readouterr().err
    assert path.read_bytes() == content
    assert code in (0, 2), printed
    assert (tmp_path / "out.h5ad").exists() == (code == 0)
    if code:
        assert "Traceback" not in printed
        assert len(printed) > 60
    assert not name.startswith(("cut", "text", "random", "pickle")) or code == 2
