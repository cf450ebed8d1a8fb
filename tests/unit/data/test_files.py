from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest

from transanno.data._files import atomic_path, compression_of, read_h5ad, write_h5ad

# Writes an h5ad of constant values over and over, larger every time.
_WRITER = """
import sys
import anndata, numpy
from transanno.data._files import write_h5ad
print("ready", flush=True)
for i in range(2, 10_000):
    write_h5ad(anndata.AnnData(numpy.full((500 + i, 211), i, dtype="float32")), sys.argv[1])
"""


def test_a_block_without_error_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    for text in ("first", "second"):
        with atomic_path(path) as temporary:
            temporary.write_text(text)
            assert temporary.parent == path.parent
        assert path.read_text() == text
    assert os.listdir(path.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_file_and_no_other(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file.txt"
    path.write_text("good")
    with pytest.raises(error), atomic_path(path) as temporary:
        temporary.write_text("ha")
        raise error
    assert path.read_text() == "good"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "target.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("target.txt")
    with atomic_path(tmp_path / "link.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "target.txt").read_text() == "new"


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_writer_killed_at_random_moments_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "out.h5ad"
    write_h5ad(ad.AnnData(np.ones((503, 211), dtype="float32")), path)
    rng = random.Random(0)
    for _ in range(2):
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.0, 0.3))
        writer.kill()
        assert writer.wait() == -signal.SIGKILL
        writer.stdout.close()
        values = ad.read_h5ad(path).X
        assert values.shape == (500 + int(values[0, 0]), 211) or values[0, 0] == 1
        assert (values == values[0, 0]).all()


def test_what_was_read_is_written_as_it_is(tmp_path: Path, query: ad.AnnData, snapshot, changed) -> None:
    query.obs["free_text"] = ["same", "other"] * 30 + ["same"]
    query.obs["group"] = pd.Categorical(["x", None] * 30 + ["y"])
    query.layers["counts"] = query.X.copy()
    query.obsm["X_pca"] = np.random.default_rng(0).normal(size=(61, 7))
    query.uns["note"] = {"a": 1}
    query.raw = query[:, :31].copy()
    write_h5ad(query, tmp_path / "first.h5ad")
    first = read_h5ad(tmp_path / "first.h5ad", name="query")
    assert first.obs["free_text"].dtype != "category"
    before = snapshot(first)
    write_h5ad(first, tmp_path / "second.h5ad")
    assert changed(before, first) == set()
    assert changed(before, read_h5ad(tmp_path / "second.h5ad", name="query")) == set()


@pytest.mark.parametrize("compression", ["gzip", "lzf", None])
def test_compression_is_that_of_the_input(tmp_path: Path, query: ad.AnnData, compression: str | None) -> None:
    for name, container in (("sparse", query.X), ("dense", query.X.toarray())):
        path = tmp_path / f"{name}.h5ad"
        write_h5ad(ad.AnnData(container, obs=query.obs), path, compression=compression)
        assert compression_of(path) == compression


def test_a_missing_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="The query file nowhere.h5ad does not exist"):
        read_h5ad("nowhere.h5ad", name="query")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder"):
        read_h5ad(tmp_path, name="query")


def test_text_is_no_h5ad(tmp_path: Path) -> None:
    (tmp_path / "a.h5ad").write_text("gene,count\n")
    with pytest.raises(ValueError, match=r"The query file .*a\.h5ad cannot be read as h5ad \(OSError"):
        read_h5ad(tmp_path / "a.h5ad", name="query")


def test_half_a_file_is_no_h5ad(tmp_path: Path, query: ad.AnnData) -> None:
    query.write_h5ad(tmp_path / "whole.h5ad")
    content = (tmp_path / "whole.h5ad").read_bytes()
    (tmp_path / "half.h5ad").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="incomplete"):
        read_h5ad(tmp_path / "half.h5ad", name="query")


@pytest.mark.parametrize(
    ("groups", "expected"),
    [(["matrix"], r"not h5ad: it holds matrix.*read_10x_h5"), (["mod", "obs", "var"], r"a MuData.*mdata\[\"rna\"\]")],
)
def test_other_hdf5_is_told_apart(tmp_path: Path, groups: list[str], expected: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for group in groups:
            file.create_group(group)
    with pytest.raises(ValueError, match=expected):
        read_h5ad(tmp_path / "a.h5", name="query")
