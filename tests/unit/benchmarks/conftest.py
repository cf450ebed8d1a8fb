"""A folder of data like the one that the benchmarks read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("benchmarks", reason="benchmarks are not part of the source distribution")

from benchmarks import _data

FILE = "atlas.h5ad"


@pytest.fixture
def data_folder(tmp_path, make_adata, monkeypatch) -> Path:
    """97 cells × 53 genes in three batches, two libraries, and a pair of two of its batches."""
    adata = make_adata(batches=("batch1", "batch2", "batch3"))
    adata.obs["library"] = np.where(np.arange(adata.n_obs) % 2 == 0, "even", "odd")
    adata.write_h5ad(tmp_path / FILE)
    sides = {
        side: {"file": FILE, "filter": {"column": "batch", "op": "in", "values": [batch]}}
        for side, batch in (("ref", "batch1"), ("query", "batch2"))
    }
    (tmp_path / "pairs.json").write_text(json.dumps([{"id": "P", "label": "cell_type", **sides}]))
    monkeypatch.setenv("TRANSANNO_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def published_data() -> Path:
    """Folder of the published data sets; the test is skipped where there is none."""
    try:
        return _data.data_folder()
    except SystemExit as missing:
        pytest.skip(str(missing))
