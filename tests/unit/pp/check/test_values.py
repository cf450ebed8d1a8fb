from __future__ import annotations

import re
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
    @pytest.mark.parametrize("error", [RuntimeError, IndexError, ValueError, TypeError])
    @pytest.mark.parametrize(("layer", "where"), [(None, "adata.X"), ("mine", 'adata.layers["mine"]')])
    def test_a_matrix_that_scipy_cannot_read_is_told(self, layer, where, error, query, monkeypatch):
        def detecting(*args, **kwargs):
            raise error("bad pointers\nof rows")

        query.layers["mine"] = query.X
        monkeypatch.setattr(_find_counts, "detect_scale", detecting)
        expected = re.escape(f"{where} cannot be read ({error.__name__}: bad pointers). Allowed: ")
        with pytest.raises(ValueError, match=expected):
            pp.check(query, layer=layer)

    @pytest.mark.parametrize("name", ["adata", "reference"])
    def test_names_of_several_levels_are_told(self, name, query, reference):
        adata = {"adata": query, "reference": reference}[name]
        adata.var.index = pd.MultiIndex.from_arrays([adata.var_names, adata.var_names], names=["id", "symbol"])
        with pytest.raises(ValueError, match=rf"{name}.var_names has 2 levels .*get_level_values\(0\)"):
            pp.check(query, reference)
