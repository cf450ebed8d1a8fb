from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from transanno.data._gene_ids import other_features

NAMES = ["CD3D", "CD4", "ADT_CD8", "MS4A1", "HLA-A", "XIST"]
OTHER = "Antibody Capture"


def found(types, names=NAMES, key="feature_types"):
    return other_features(pd.DataFrame({key: types}, index=pd.Index(names))).tolist()


@pytest.mark.parametrize("missing", [np.nan, None, pd.NA, "", " ", "nan", "NA", "protein_coding", "whatever", 3])
@pytest.mark.parametrize("key", ["feature_types", "feature_type", "feature_types-0", "Feature Type"])
def test_a_feature_of_unknown_type_is_judged_by_its_name(missing, key):
    types = ["Gene Expression", missing, missing, OTHER, missing, missing]
    assert found(types, key=key) == [False, False, True, True, False, False]


@pytest.mark.parametrize("gene", ["Gene Expression", "gene expression", "Gene_Expression", "GENE EXPRESSION ", "RNA"])
def test_spellings_of_gene_expression(gene):
    # A gene by type, whatever its name.
    assert not any(found([gene] * 6))
    assert found([gene, gene, gene, "CRISPR Guide Capture", "Peaks", "Custom"]) == [False] * 3 + [True] * 3


@pytest.mark.parametrize(
    "other",
    ["Antibody Capture", "antibody capture", "Antibody_Capture", "Multiplexing Capture", "ADT", "protein", "HTO"],
)
@pytest.mark.parametrize("dtype", [object, "string", "category"])
def test_spellings_of_other_types(other, dtype):
    types = pd.Series([None, None, None, other, other, other], index=NAMES, dtype=dtype)
    assert found(types) == [False, False, True, True, True, True]


def test_each_part_of_a_concatenation_tells_of_its_features():
    var = pd.DataFrame(
        {
            "feature_types-0": ["Gene Expression", OTHER, None, None, None, None],
            "feature_types-1": ["Gene Expression", None, None, OTHER, "Gene Expression", None],
        },
        index=["A", "CD4", "C", "CD8", "E", "F"],
    )
    assert other_features(var).tolist() == [False, True, False, True, False, False]


def test_of_proteins_alone_names_tell():
    assert found([OTHER] * 6) == [False, False, True, False, False, False]


def test_lists_say_nothing():
    assert found([["Antibody Capture"]] * 6) == [False, False, True, False, False, False]
