from __future__ import annotations

import anndata as ad
import pytest
import scanpy as sc

from transanno import pp
from transanno.pp import Finding


def log_normalize(adata: ad.AnnData) -> ad.AnnData:
    adata = adata.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata


def test_printing_shows_an_aligned_table(query, reference):
    text = str(pp.check(log_normalize(query)[:, :9].copy(), reference, labels_key="cell_type"))
    lines = text.splitlines()
    assert lines[0] == "61 cells x 9 features: not usable as they are (1 error)"
    assert max(map(len, lines)) <= 110
    column = next(line.index("note") for line in lines if line.startswith("scale"))
    starts = [line for line in lines[2:] if line.startswith(("scale", "gene", "empty", "outliers"))]
    assert len(starts) == 6
    assert {line[column:].split()[0] for line in starts} == {"ok", "note", "warning", "error"}
    assert "lacks " in text


def test_findings_are_found_by_name(query):
    report = pp.check(query)
    assert isinstance(report["scale"], Finding)
    with pytest.raises(KeyError, match="'scales'; there are 'scale'"):
        report["scales"]
    assert list(report.to_frame().columns) == ["check", "severity", "found", "what to do"]
    assert len(report.to_frame()) == len(report.findings)
