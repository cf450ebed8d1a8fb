from __future__ import annotations

import warnings

import pandas as pd
import pytest

from transanno import pp
from transanno.data import _find_counts
from transanno.pp._check import _check


class TestWarnings:
    def test_warnings_of_libraries_are_no_findings(self, query, reference, monkeypatch):
        """Of what is said while data are read, only our own words are findings."""
        named_as_query, detect_scale = _check.named_as_query, _find_counts.detect_scale

        def naming(*args):
            warnings.warn("pandas says this", FutureWarning, stacklevel=2)
            return named_as_query(*args)

        def detecting(*args, **kwargs):
            warnings.warn("numpy says that", RuntimeWarning, stacklevel=2)
            return detect_scale(*args, **kwargs)

        monkeypatch.setattr(_check, "named_as_query", naming)
        monkeypatch.setattr(_find_counts, "detect_scale", detecting)
        with (
            pytest.warns(FutureWarning, match="pandas says this"),
            pytest.warns(RuntimeWarning, match="numpy says that"),
        ):
            report = pp.check(query, reference, labels_key="cell_type")
        assert {finding.severity for finding in report.findings} == {"ok"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert pp.check(query, reference).severity == "ok"

    def test_ours_are_findings_whatever_the_filters_say(self, query):
        query.X.data[::5] -= 0.3
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert "fractional counts" in pp.check(query)["scale"].found


class TestUnreadable:
    def test_a_matrix_that_scipy_does_not_read_is_told(self, query):
        query.X.data = query.X.data.astype(">f4")
        with pytest.raises(ValueError, match=r"adata.X cannot be read \(ValueError: .*>f4"):
            pp.check(query)
        query.layers["mine"] = query.X
        with pytest.raises(ValueError, match=r'adata.layers\["mine"\] cannot be read'):
            pp.check(query, layer="mine")

    def test_a_damaged_matrix_is_told(self, query, reference, monkeypatch):
        """Damaged pointers of rows may end the process; this is what scipy raises where it notices."""

        def detecting(*args, **kwargs):
            raise RuntimeError("vector::_M_default_append")

        monkeypatch.setattr(_find_counts, "detect_scale", detecting)
        with pytest.raises(ValueError, match="RuntimeError: vector.*may be damaged"):
            pp.check(query, reference)

    @pytest.mark.parametrize("name", ["adata", "reference"])
    def test_names_of_several_levels_are_told(self, name, query, reference):
        adata = {"adata": query, "reference": reference}[name]
        adata.var.index = pd.MultiIndex.from_arrays([adata.var_names, adata.var_names], names=["id", "symbol"])
        with pytest.raises(ValueError, match=rf"{name}.var_names has 2 levels .*get_level_values\(0\)"):
            pp.check(query, reference)
