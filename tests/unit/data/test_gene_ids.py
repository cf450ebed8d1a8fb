from __future__ import annotations

import pandas as pd
import pytest

from transanno.data._gene_ids import best_naming, gene_ids, map_names, other_features

SYMBOLS = ["CD3D", "MS4A1", "NKG7", "LYZ", "PPBP", "HLA-DRA", "LINC00926", "C1orf162", "HLA-A", "GNLY", "CST3"]
MOUSE = [name.capitalize() for name in SYMBOLS[:5]] + ["H2-Aa", "Gm1673", "4930402H24Rik", "H2-K1", "Gnly", "Cst3"]
HUMAN_IDS = [f"ENSG{i:011d}" for i in range(11)]


def var(names, **columns) -> pd.DataFrame:
    return pd.DataFrame(columns, index=list(names))


class TestKinds:
    @pytest.mark.parametrize(
        ("names", "kind", "species", "text"),
        [
            pytest.param(SYMBOLS, "symbols", "human", "symbols, human", id="human symbols"),
            pytest.param(MOUSE, "symbols", "mouse", "symbols, mouse", id="mouse symbols"),
            pytest.param(
                [name.upper() for name in MOUSE],
                "symbols", "mouse", "symbols, mouse, changed to upper case", id="upper-cased mouse",
            ),
            pytest.param(HUMAN_IDS, "Ensembl ids", "human", "Ensembl ids, human", id="human ids"),
            pytest.param(
                [f"ENSMUSG{i:011d}.3" for i in range(11)],
                "Ensembl ids", "mouse", "Ensembl ids with versions, mouse", id="mouse ids with versions",
            ),
            pytest.param([*HUMAN_IDS, *SYMBOLS[:5]], "mixed", "human", "mixed, human", id="mixed"),
            pytest.param([f"GENE{i}" for i in range(9)], "symbols", None, "symbols", id="unknown"),
            pytest.param([], "symbols", None, "symbols", id="none"),
        ],
    )  # fmt: skip
    def test_names_tell_kind_and_species(self, names, kind, species, text):
        """Complaints 18, 20, 21."""
        ids = gene_ids(pd.Index(names, dtype=object))
        assert (ids.kind, ids.species, str(ids)) == (kind, species, text)


class TestOtherFeatures:
    def test_the_type_of_a_feature_decides(self):
        """Complaint 14."""
        types = ["Gene Expression"] * 3 + ["Antibody Capture", "Multiplexing Capture"]
        found = other_features(var(["CD3D", "CD4", "ADT-1", "CD4_a", "x"], feature_types=pd.Categorical(types)))
        assert found.tolist() == [False, False, False, True, True]

    def test_a_column_without_genes_says_nothing(self):
        assert not other_features(var(["CD3D", "CD4"], feature_types=["gene", "gene"])).any()

    def test_names_decide_where_there_are_no_types(self):
        proteins = ["ADT_CD3", "HTO1", "Hashtag_5", "CD19_TotalSeqB", "CD4-TotalC", "prot:CD8", "CD20_ADT"]
        assert other_features(var(proteins)).all()
        assert not other_features(var([*SYMBOLS, *MOUSE, "HTOR", "ADTRP", "PROT1", "PROC"])).any()


class TestNaming:
    def test_names_that_match_stay(self):
        naming = best_naming(var(SYMBOLS, other=HUMAN_IDS), pd.Index(SYMBOLS))
        assert naming.how is None
        assert list(naming.names) == SYMBOLS

    @pytest.mark.parametrize("dtype", [object, "category", "string"])
    @pytest.mark.parametrize("key", ["gene_ids", "feature_name", "gene_symbols"])
    def test_a_column_of_var_is_used(self, key, dtype):
        """Complaint 25."""
        table = var(SYMBOLS)
        table[key] = pd.array(HUMAN_IDS, dtype="string").astype(dtype)
        naming = best_naming(table, pd.Index(HUMAN_IDS))
        assert naming.how == f"var['{key}']"
        assert list(naming.names) == HUMAN_IDS

    @pytest.mark.parametrize("versioned", ["query", "model"])
    def test_versions_do_not_matter(self, versioned):
        with_versions = [f"{name}.{i + 1}" for i, name in enumerate(HUMAN_IDS)]
        here, there = (with_versions, HUMAN_IDS) if versioned == "query" else (HUMAN_IDS, with_versions)
        naming = best_naming(var(here), pd.Index(there))
        assert list(naming.names) == there
        assert "without the version" in naming.how

    def test_case_does_not_matter_but_is_told(self):
        """Complaints 18, 20: mouse symbols that were changed to upper case, and back."""
        for here, there in ((MOUSE, [n.upper() for n in MOUSE]), ([n.upper() for n in MOUSE], MOUSE)):
            naming = best_naming(var(here), pd.Index(there))
            assert list(naming.names) == there
            assert naming.by_case

    def test_case_never_makes_one_gene_of_two(self):
        vocabulary = pd.Index([*SYMBOLS, "Cd3d"])
        assert list(best_naming(var([n.lower() for n in SYMBOLS]), vocabulary).names)[0] == "cd3d"

    def test_kinds_of_genes_are_no_names(self):
        table = var(HUMAN_IDS, biotype=["CD3D"] * 11)
        assert best_naming(table, pd.Index(["CD3D"])).how is None


class TestMapping:
    @pytest.mark.parametrize("form", ["dict", "series", "two columns", "one column"])
    def test_every_form_of_a_table(self, form):
        table = dict(zip(MOUSE, SYMBOLS, strict=True))
        mapping = {
            "dict": table,
            "series": pd.Series(table),
            "two columns": pd.DataFrame({"mouse": table.keys(), "human": table.values()}),
            "one column": pd.DataFrame({"human": table.values()}, index=list(table)),
        }[form]
        names, n = map_names(pd.Index([*MOUSE, "Other"]), mapping)
        assert list(names) == [*SYMBOLS, "Other"]
        assert n == 11

    def test_only_pairs_of_one_to_one_are_mapped(self):
        table = pd.DataFrame([["a", "A"], ["b", "B"], ["b", "C"], ["c", "D"], ["d", "D"], ["a", "A"], ["e", None]])
        names, n = map_names(pd.Index(list("abcde")), table)
        assert list(names) == ["A", "b", "c", "d", "e"]
        assert n == 1

    def test_other_tables_are_refused(self):
        with pytest.raises(TypeError, match="mapping is a list"):
            map_names(pd.Index(["a"]), ["A"])
        with pytest.raises(ValueError, match="mapping has 3 columns"):
            map_names(pd.Index(["a"]), pd.DataFrame([["a", "A", "b"]]))
