"""What kind of feature a column is, by the types that Cell Ranger, Seurat, muon and others write to `var`."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

# Concatenation puts something behind the name of a column: feature_types-0, feature_types_x. DropletUtils calls it Type.
_KEY = re.compile(r"^(feature[ _.]?types?|type|modality|assay)([-_.](\d+|x|y|\w*rna))?$", re.IGNORECASE)
_GENES = re.compile(r"^((m|sc|sn)?rna([ _-]?seq)?|genes?|gex|transcripts?|gene[ _.-]*expression)$", re.IGNORECASE)
_OTHERS = re.compile(
    r"antibod|antigen|^(surface[ _.-]*)?proteins?$|protein[ _.-]*expression|capture|multiplex|hash|^(adt|hto|cite|cmo|grna|sgrna)s?\b"
    r"|crispr|guide|^peaks?$|atac|chromatin|^custom$|barcode|^tags?$|^prot$|^vdj|^[bt]cr$|spike[ _.-]?in|codeword|^blank|control[ _.-]*probe"
    r"|(negative|genomic)[ _.-]*control",
    re.IGNORECASE,
)


def features_by_type(var: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """-> which columns are genes, and which other features, by their type ``(n_vars,)``; neither where that is not said.

    A type that is missing, empty or unheard of says nothing: an outer concatenation leaves gaps, and a gene without a type
    is a gene.
    """
    is_gene, is_other = np.zeros(len(var), dtype=bool), np.zeros(len(var), dtype=bool)
    for position, key in enumerate(var.columns):
        if not _KEY.match(str(key)):
            continue
        types = pd.Index([_text(value) for value in var.iloc[:, position]], dtype=object)
        told = types.unique()
        is_gene |= types.isin([text for text in told if _GENES.match(text)])
        is_other |= types.isin([text for text in told if _OTHERS.search(text)])
    return is_gene, is_other & ~is_gene


def _text(value: object) -> str:
    if isinstance(value, bytes):  # of files that other programs wrote
        value = value.decode("utf-8", errors="replace")
    return value.strip() if isinstance(value, str) else ""
