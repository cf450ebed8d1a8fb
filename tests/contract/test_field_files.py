"""Files of other programs: read, and what is made of them written; or refused before a training, by what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata.io import read_elem, write_elem

from transanno.cli import main
from transanno.data._files import write_h5ad
from transanno.data._writable import check_writable, rename_reserved


@pytest.fixture
def files(tmp_path, monkeypatch, reference, query):
    monkeypatch.chdir(tmp_path)
    query.raw = query
    write_h5ad(reference, "reference.h5ad")
    write_h5ad(query, "query.h5ad")
    return tmp_path


def add_reserved(where: str) -> None:
    """A column ``_index`` beside the names of rows, which SeuratDisk keeps in ``features``."""
    with h5py.File("query.h5ad", "a") as file:
        group = file[where]
        names = read_elem(group[group.attrs["_index"]])
        del group[group.attrs["_index"]]
        for key in ("_index", "features"):
            write_elem(group, key, np.array(names, dtype=object))
        group.attrs["_index"] = "features"
        group.attrs["column-order"] = np.array(["_index", *group.attrs["column-order"]], dtype=object)


ANNOTATE = ["annotate", "--query", "query.h5ad", "--out", "out.h5ad", "--accelerator", "cpu"]
TRAIN = [*ANNOTATE, "--reference", "reference.h5ad", "--labels-key", "cell_type", "--max-epochs", "1"]


@pytest.mark.parametrize("where", ["obs", "var", "raw/var"])
def test_a_reserved_column_is_renamed_in_the_output(where, files, saved_reference, capsys):
    add_reserved(where)
    content = (files / "query.h5ad").read_bytes()
    assert main([*ANNOTATE, "--model", str(saved_reference)]) == 0
    assert f"{where.replace('/', '.')} has a column '_index'" in capsys.readouterr().err
    found = ad.read_h5ad("out.h5ad")
    frame = {"obs": found.obs, "var": found.var, "raw/var": found.raw.var}[where]
    assert list(frame["index"]) == list(frame.index)
    assert found.obs["transanno"].notna().all()
    assert (files / "query.h5ad").read_bytes() == content


def test_reserved_columns_of_tables_elsewhere(query):
    table = pd.DataFrame({"_index": [1.5], "index": [2]})
    query.obsm["table"] = pd.DataFrame({"_index": range(61)}, index=query.obs_names)
    query.uns["results"] = {"markers": {"T cell": table}}
    notes = rename_reserved(query)
    assert [note.split(" has ")[0] for note in notes] == ["obsm['table']", "uns['results']['markers']['T cell']"]
    assert list(query.uns["results"]["markers"]["T cell"].columns) == ["index_1", "index"]
    assert query.uns["results"]["markers"]["T cell"]["index_1"].tolist() == [1.5]
    assert rename_reserved(query) == []


def test_what_cannot_be_written_is_said_before_training(files, capsys):
    before = set(os.listdir("."))
    assert main([*TRAIN, "--key-added", "_index"]) == 2
    error = capsys.readouterr().err
    assert "could not be written to out.h5ad" in error
    assert "'_index' is a reserved name" in error
    assert "Epoch" not in error
    assert set(os.listdir(".")) == before


@pytest.mark.parametrize("spoil", ["uns", "obs", "raw"])
def test_whatever_cannot_be_written_is_found(spoil, query, tmp_path):
    check_writable(query, tmp_path / "new" / "out.h5ad")
    query.raw = query
    if spoil == "uns":
        query.uns["results"] = {"object": object()}
    elif spoil == "obs":
        query.obs["dates"] = pd.period_range("2024", periods=61, freq="D")
    else:
        query.raw.var["lists"] = [["a"]] * 53
    with pytest.raises(ValueError, match="could not be written .* Rename or remove"):
        check_writable(query, tmp_path / "new" / "out.h5ad")
    assert os.listdir(tmp_path) == []


class TestUnreadable:
    def check(self, capsys) -> str:
        assert main(["check", "--query", "query.h5ad"]) == 2
        return capsys.readouterr().err

    def test_a_file_that_another_program_has_open(self, files, capsys):
        program = "import h5py, sys; f = h5py.File('query.h5ad', 'a'); print('open', flush=True); sys.stdin.read()"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen([sys.executable, "-c", program], **pipes) as holder:
            holder.stdout.readline()
            error = self.check(capsys)
            holder.communicate()
        assert "query.h5ad is open in another program" in error
        assert "HDF5_USE_FILE_LOCKING=FALSE" in error
        assert main(["check", "--query", "query.h5ad"]) == 0

    def test_a_filter_that_is_missing_is_named(self, files, capsys, monkeypatch):
        write_h5ad(ad.read_h5ad("query.h5ad"), "query.h5ad", compression="gzip")
        monkeypatch.setattr(h5py.h5z, "filter_avail", lambda number: False)
        error = self.check(capsys)
        assert "is compressed with deflate" in error
        assert "pip install hdf5plugin" in error

    def test_filters_that_are_installed_are_used(self, files):
        hdf5plugin = pytest.importorskip("hdf5plugin")
        ad.read_h5ad("query.h5ad").write_h5ad("query.h5ad", compression=hdf5plugin.FILTERS["zstd"])
        program = (
            "import sys; from transanno.cli import main; sys.exit(main(['check', '--query', 'query.h5ad', '--quiet']))"
        )
        assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
