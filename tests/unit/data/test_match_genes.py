from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from transanno.data._match_genes import MIN_SHARED_GENES, GeneMatch, match_genes

if TYPE_CHECKING:
    from collections.abc import Sequence

HUMAN = [f"{letters}{i}" for i in range(1, 21) for letters in ("CD", "IL", "GATA", "KRT", "FOX")]
MOUSE = [name.capitalize() for name in HUMAN]
ENSEMBL = [f"ENSG{100 + i:011d}" for i in range(len(HUMAN))]

# Query: shuffled, 20 genes missing, 7 unknown, 3 twice (one of them three times).
QUERY = [HUMAN[i] for i in np.random.default_rng(5).permutation(100)[:80]]
QUERY = [*QUERY[:40], *(f"extra{i}" for i in range(7)), *QUERY[40:], QUERY[3], QUERY[11], QUERY[3], "extra0"]


def match_quietly(var_names: Sequence[str], vocabulary: Sequence[str], **kwargs) -> GeneMatch:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return match_genes(var_names, vocabulary, **kwargs)


@pytest.fixture
def match() -> GeneMatch:
    return match_quietly(QUERY, HUMAN)


class TestMatch:
    def test_counts_of_shared_missing_and_extra_genes(self, match):
        assert (match.n_shared, match.n_extra, match.n_query) == (80, 8, 91)
        assert match.is_missing.sum() == 20
        assert match.is_missing.dtype == bool
        assert [gene for gene, missing in zip(HUMAN, match.is_missing, strict=True) if not missing] == [
            gene for gene in HUMAN if gene in QUERY
        ]

    def test_columns_point_at_equal_names(self, match):
        assert [QUERY[i] for i in match.query_columns] == [HUMAN[i] for i in match.vocabulary_columns]
        assert list(match.vocabulary) == HUMAN

    def test_duplicates_in_the_vocabulary_are_named_in_query_order(self, match):
        assert match.duplicated == [QUERY[3], QUERY[11]]

    def test_duplicates_warn_once(self):
        with pytest.warns(UserWarning) as caught:
            match_genes([*HUMAN, "CD1", "CD2"], HUMAN)
        assert len(caught) == 1
        assert "2 gene name(s) of the model occur more than once in query: CD1, CD2." in str(caught[0].message)
        assert caught[0].filename == __file__

    def test_duplicates_outside_the_vocabulary_do_not_warn(self):
        assert match_genes([*HUMAN, "extra", "extra"], HUMAN).duplicated == []

    def test_duplicated_vocabulary_is_refused(self):
        with pytest.raises(ValueError, match="vocabulary has 1 gene name.*'CD1'"):
            match_genes(HUMAN, [*HUMAN, "CD1"])

    @pytest.mark.parametrize("dtype", [object, "string", "category", "str"])
    def test_dtype_of_names_does_not_matter(self, dtype):
        index = pd.Index(HUMAN).astype(dtype)
        assert match_genes(index, HUMAN).n_shared == 100
        assert match_genes(HUMAN, index).n_shared == 100

    def test_good_match_is_logged_not_warned(self, caplog):
        with caplog.at_level(logging.INFO, logger="transanno.data._match_genes"):
            match_genes(HUMAN[:80], HUMAN)
        assert "80 of the 100 genes the model knows were found among the 80 of query" in caplog.text

    def test_below_80_percent_warns_that_missing_is_masked(self):
        with pytest.warns(UserWarning, match=r"Only 79 of the 100.*of pbmc \(79%\).*unknown \(masked\), not as zero"):
            match_genes(HUMAN[:79], HUMAN, name="pbmc")


class TestFloor:
    def test_default_floor_is_absolute_for_small_vocabularies(self):
        match_quietly(HUMAN[:MIN_SHARED_GENES], HUMAN)
        with pytest.raises(ValueError, match=r"Only 19 of the 100 genes.*at least 20 are needed"):
            match_genes(HUMAN[: MIN_SHARED_GENES - 1], HUMAN)

    def test_default_floor_is_a_tenth_of_large_vocabularies(self):
        vocabulary = [f"g{i}" for i in range(1001)]
        match_quietly(vocabulary[:101], vocabulary)
        with pytest.raises(ValueError, match="Only 100 of the 1001 genes.*at least 101 are needed"):
            match_genes(vocabulary[:100], vocabulary)

    def test_floor_never_exceeds_the_vocabulary(self):
        assert match_genes(HUMAN, HUMAN[:7]).n_shared == 7
        assert match_genes(HUMAN, HUMAN[:7], min_shared=5000).n_shared == 7
        with pytest.raises(ValueError, match="at least 7 are needed"):
            match_genes(HUMAN[1:], HUMAN[:7])

    def test_floor_can_be_set(self):
        assert match_quietly(HUMAN[:3], HUMAN, min_shared=3).n_shared == 3
        with pytest.raises(ValueError, match="at least 4 are needed"):
            match_genes(HUMAN[:3], HUMAN, min_shared=4)

    @pytest.mark.parametrize("min_shared", [0, -3])
    def test_floor_below_one_gene_is_refused(self, min_shared):
        with pytest.raises(ValueError, match=f"min_shared={min_shared}.*at least 1"):
            match_genes(HUMAN, HUMAN, min_shared=min_shared)


def versioned(names: Sequence[str], version: int) -> list[str]:
    return [f"{name}.{version}" for name in names]


class TestLikelyCause:
    @pytest.mark.parametrize(
        ("query", "model", "cause"),
        [
            pytest.param(
                ENSEMBL,
                HUMAN,
                "Likely cause: Ensembl ids in the query, gene symbols in the model. "
                "Set adata.var_names to gene symbols",
                id="ids-symbols",
            ),
            pytest.param(versioned(ENSEMBL, 4), HUMAN, "Ensembl ids in the query, gene symbols", id="versions-symbols"),
            pytest.param(
                MOUSE,
                [name.replace("ENSG", "ENSMUSG") for name in ENSEMBL],
                "gene symbols in the query, Ensembl ids in the model. Set adata.var_names to Ensembl ids",
                id="symbols-mouse-ids",
            ),
            pytest.param(
                versioned(ENSEMBL, 4),
                ENSEMBL,
                'without them 100 would match. Strip them: adata.var_names = adata.var_names.str.split(".").str[0]',
                id="query-version",
            ),
            pytest.param(
                ENSEMBL, versioned(ENSEMBL, 4), "Give the query's genes the versioned ids", id="model-version"
            ),
            pytest.param(
                versioned(ENSEMBL, 4), versioned(ENSEMBL, 5), "Ensembl versions; without them 100", id="other-version"
            ),
            pytest.param(
                [name.replace("ENSG", "ENSMUSG") for name in ENSEMBL],
                ENSEMBL,
                "another species, ENSMUSG ids in the query and ENSG ids in the model",
                id="mouse-ids",
            ),
            pytest.param(
                MOUSE,
                HUMAN,
                "capitalized names (as in mouse) in the query, upper-case names (as in human) in the model; "
                "ignoring case 100 would match",
                id="mouse-human",
            ),
            pytest.param(HUMAN, MOUSE, "upper-case names (as in human) in the query, capitalized", id="human-mouse"),
            pytest.param(
                [f"AT{i}G01010" for i in range(100)], HUMAN, "another naming of genes or another species", id="plant"
            ),
            pytest.param(ENSEMBL[:50] * 2, ENSEMBL[50:], "another naming of genes or another", id="disjoint-ids"),
            pytest.param(HUMAN[:9], HUMAN, "the query holds a selection of genes", id="panel"),
        ],
    )
    def test_cause_is_named(self, query, model, cause):
        with pytest.raises(ValueError) as error:
            match_genes(query, model)
        assert cause in str(error.value)

    def test_examples_of_both_namings_are_shown(self):
        query = [*HUMAN[:2], *ENSEMBL]
        with pytest.raises(ValueError) as error:
            match_genes(query, HUMAN)
        assert f"look like {', '.join(ENSEMBL[:3])} in query and {', '.join(HUMAN[2:5])} in the model" in str(
            error.value
        )

    @pytest.mark.parametrize("dtype", [object, "string", "category"])
    def test_line_of_code_for_a_better_column_works(self, dtype):
        adata = ad.AnnData(np.ones((3, 100)), var=pd.DataFrame(index=ENSEMBL))
        adata.var["n_cells"] = 3
        adata.var["highly_variable"] = True
        adata.var["chromosome"] = "CD1"  # one match is no better naming
        adata.var["feature_name"] = pd.Series(HUMAN, index=adata.var_names).astype(dtype)
        with pytest.raises(ValueError) as error:
            match_genes(adata.var_names, HUMAN, var=adata.var)
        _, cure = str(error.value).split("The column 'feature_name' of adata.var would match 100: ")
        exec(cure, {"adata": adata})
        assert match_genes(adata.var_names, HUMAN).n_shared == 100

    def test_better_column_is_named_in_the_warning_too(self):
        var_names = [*HUMAN[:30], *ENSEMBL[30:]]
        var = pd.DataFrame({"gene_symbols": HUMAN}, index=var_names)
        with pytest.warns(UserWarning, match=r"\(30%\).*'gene_symbols' of adata.var would match 100"):
            match_genes(var_names, HUMAN, var=var)

    def test_useless_columns_are_not_named(self):
        var = pd.DataFrame({"gene_ids": ENSEMBL, "missing": [None] * 100}, index=MOUSE)
        with pytest.raises(ValueError) as error:
            match_genes(MOUSE, HUMAN, var=var)
        assert "adata.var would" not in str(error.value)


def test_placeholders_are_missing():
    is_missing = np.arange(100) % 7 == 3
    match = match_genes(HUMAN, HUMAN[::-1], is_missing=is_missing)
    np.testing.assert_array_equal(match.is_missing, is_missing[::-1])
    assert (match.n_shared, match.n_extra) == (100 - is_missing.sum(), 0)
