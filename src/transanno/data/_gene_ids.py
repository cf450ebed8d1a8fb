"""How genes are named: Ensembl ids or symbols, of which species, and where a model's names can be found in `var`.

No table of symbols, ids or orthologs is part of the package. Names are compared as they are, without the version of an
Ensembl id, and without regard to case; another naming is found where a column of `var` holds it.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from transanno.data._feature_types import features_by_type
from transanno.data._prefixes import genomes, ids_in_names, without_affixes

if TYPE_CHECKING:
    from collections.abc import Callable

# A smaller share of a model's genes is refused.
MIN_SHARED_FRACTION = 0.1

_ENSEMBL = r"^(ENS[A-Z]*G)\d{6,}(?:\.\d+)?$"
_SPECIES_OF_PREFIX = {"ENSG": "human", "ENSMUSG": "mouse", "ENSRNOG": "rat", "ENSDARG": "zebrafish"}
# Names that only one of the two species has, also where all are in upper case.
_HUMAN_ONLY = re.compile(r"^(HLA-|LINC\d|A[CLFP]\d{6}\.\d|RP\d+-\d|KIR\dD|C\d+ORF\d)", re.IGNORECASE)
_MOUSE_ONLY = re.compile(r"^(GM\d{3,}|H2-|[\dA-Z]+\d*RIK$|KLRA\d)", re.IGNORECASE)
_OTHER = re.compile(
    # Antibodies, hashtags, guides.
    r"^(adt|hto|prot|protein|ab|anti|(sg|g)rna)[-_:.]|^hto\d*$|^cmo\d+$|^(hashtag|totalseq)"
    r"|[-_](totalseq\w*|total[abc]|adt|hto|prot|protein)$"
    # Spike-ins, which ERCC1 is none of; controls of panels; peaks.
    r"|^ercc[-_.]?\d{5}$|^neg(ative)?[-_ ]?control|^blank[-_]\d|^(unassigned|deprecated)[-_ ]?codeword"
    r"|^chr[\dxym]+[:_-]\d+[-_]\d+$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class GeneIds:
    """How the genes of a data set are named."""

    kind: str
    """``"Ensembl ids"``, ``"symbols"`` or ``"mixed"``"""
    species: str | None
    """``"human"``, ``"mouse"``, another that Ensembl has a prefix for, or None where the names do not tell"""
    has_versions: bool
    """whether Ensembl ids carry a version, as ENSG00000167286.3 does"""
    is_upper_case: bool
    """whether symbols are in upper case; for mouse genes, a sign that they were changed"""

    def __str__(self) -> str:
        parts = [self.kind + (" with versions" if self.has_versions else "")]
        if self.species is not None:
            parts.append(self.species)
        if self.species == "mouse" and self.is_upper_case and self.kind == "symbols":
            parts.append("changed to upper case")
        return ", ".join(parts)


def gene_ids(names: pd.Index) -> GeneIds:
    """Names of genes -> how they are named, and the likely species."""
    names = pd.Index(names).astype(str)
    prefixes = names.to_series().str.extract(_ENSEMBL, expand=False)
    is_ensembl = prefixes.notna().to_numpy()
    share = is_ensembl.mean() if len(names) else 0.0
    symbols = names[~is_ensembl]
    is_upper = len(symbols) > 0 and not _is_capitalized(symbols)
    kind = "Ensembl ids" if share > 0.95 else "mixed" if share > 0.05 else "symbols"
    has_versions = bool(names[is_ensembl].str.contains(".", regex=False).mean() > 0.5) if share > 0.05 else False
    if share > 0.5:
        species = _SPECIES_OF_PREFIX.get(prefixes.dropna().value_counts().index[0])
    else:
        species = _species_of_symbols(symbols)
    return GeneIds(kind, species, has_versions, bool(is_upper))


def _species_of_symbols(symbols: pd.Index) -> str | None:
    if not len(symbols):
        return None
    n_human = sum(bool(_HUMAN_ONLY.match(name)) for name in symbols)
    n_mouse = sum(bool(_MOUSE_ONLY.match(name)) for name in symbols)
    if max(n_human, n_mouse) >= 3 and max(n_human, n_mouse) > 3 * min(n_human, n_mouse):
        return "human" if n_human > n_mouse else "mouse"
    # Cd3d is a mouse's, or a rat's; CD3D may have been changed to upper case, and "gene1" is nobody's.
    is_titled = symbols.str.fullmatch(r"[A-Z][a-z][a-z0-9-]*\d*[a-z]*").astype(bool).mean()
    return "mouse" if is_titled > 0.7 else None


def other_features(var: pd.DataFrame) -> np.ndarray:
    """Which columns are antibodies, hashtags, spike-ins or other features beside genes ``(n_vars,)``, by type or by name."""
    is_gene, is_other = features_by_type(var)
    if is_other.all():  # of proteins alone, their names tell which a model may have been set up with
        return named_like_other(var.index)
    return is_other | (named_like_other(var.index) & ~is_gene)


def named_like_other(names: pd.Index) -> np.ndarray:
    """Whether names are those of antibodies, hashtags, spike-ins or controls, such as ADT_CD3 ``(n_vars,)``."""
    return np.array([bool(_OTHER.search(str(name))) for name in names], dtype=bool)


@dataclass(frozen=True)
class Naming:
    """Names of a query in the spelling of a vocabulary."""

    names: pd.Index
    """``(n_vars,)``"""
    how: str | None
    """what was done, None if names are as they were"""
    n_shared: int
    """genes of the vocabulary that are among them"""
    by_case: bool = False
    """whether names only match without regard to case, as between human and mouse"""


def best_naming(var: pd.DataFrame, vocabulary: pd.Index) -> Naming:
    """Names of ``var``, or what holds many more genes of the vocabulary: a column of ``var``, another version or case."""
    vocabulary = pd.Index(vocabulary).astype(str)
    best = Naming(pd.Index(var.index).astype(str), None, 0)
    best = Naming(best.names, None, int(vocabulary.isin(best.names).sum()))
    if best.n_shared > len(vocabulary) / 2:  # nothing can double that
        return best
    n_as_they_are = best.n_shared
    for source, names in name_sources(var):
        for how, key in spellings(names).items():
            if source is None and how is None:
                continue
            spelled = spell_as(names, vocabulary, key)
            n_shared = int(vocabulary.isin(spelled).sum())
            # what changes less comes first, and something of more change has to be worth it
            if is_much_better(n_shared, n_as_they_are, vocabulary) and n_shared > 1.05 * best.n_shared:
                where = "names" if source is None else f"var[{source!r}]"
                best = Naming(spelled, " ".join(filter(None, (where, how))), n_shared, by_case=key is _fold_case)
    return best


def map_names(names: pd.Index, mapping: Mapping[str, str] | pd.Series | pd.DataFrame) -> tuple[pd.Index, int]:
    """Names & table of old to new ones -> new names, number of genes that it maps; others keep their name.

    Old names that the table has several partners for are not mapped, and no more are those that share a partner: of
    orthologs, only those are comparable that are one to one.
    """
    table = _as_table(mapping)
    names = pd.Index(names).astype(str)
    table = table[table.index.isin(names)]
    is_unique = ~(table.index.duplicated(keep=False) | table.duplicated(keep=False).to_numpy())
    table = table[is_unique]
    is_mapped = names.isin(table.index)
    new = table.to_dict()
    return pd.Index([new.get(name, name) for name in names], dtype=object), int(is_mapped.sum())


def _as_table(mapping: Mapping[str, str] | pd.Series | pd.DataFrame) -> pd.Series:
    """-> new names by old ones, without gaps and repetitions."""
    if isinstance(mapping, pd.DataFrame):
        if mapping.shape[1] not in (1, 2):
            raise ValueError(
                f"mapping has {mapping.shape[1]} columns. Allowed: a table of two, old and new names, or of one, with the "
                "old names as index. Select these columns."
            )
        old = mapping.index if mapping.shape[1] == 1 else pd.Index(mapping.iloc[:, 0])
        table = pd.Series(mapping.iloc[:, -1].to_numpy(dtype=object), index=old.astype(object))
    elif isinstance(mapping, Mapping | pd.Series):
        table = pd.Series(mapping, dtype=object)
    else:
        raise TypeError(
            f"mapping is a {type(mapping).__name__}. Allowed: a dictionary of old to new names, a Series, or a DataFrame "
            "with two columns, such as one read from a table of orthologs."
        )
    table = table[table.notna().to_numpy() & table.index.notna()]
    table = pd.Series(table.astype(str).to_numpy(dtype=object), index=table.index.astype(str))
    table = table[(table != "") & (table.index != "")]
    is_repeated = pd.DataFrame({"old": table.index, "new": table.to_numpy()}).duplicated().to_numpy()
    return table[~is_repeated]


def name_sources(var: pd.DataFrame) -> Iterator[tuple[str | None, pd.Index]]:
    """Where names may be: the index of `var`, then its columns of texts."""
    yield None, pd.Index(var.index).astype(str)
    for key, column in var.items():
        if not pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            # names, not kinds of genes, and not lists of aliases
            if _are_hashable(column) and column.nunique() > len(column) / 2:
                yield str(key), pd.Index(column.astype(str).to_numpy(dtype=object))


def _are_hashable(column: pd.Series) -> bool:
    return column.dtype != object or all(isinstance(value, Hashable) for value in column)


def _fold_case(names: pd.Index) -> pd.Index:
    return names.str.upper()


def without_version(names: pd.Index) -> pd.Index:
    """ENSG00000167286.3 -> ENSG00000167286."""
    return names.str.replace(r"^(ENS[A-Z]*G\d{6,})\.\d+$", r"\1", regex=True)


_SPELLINGS: dict[str | None, Callable[[pd.Index], pd.Index]] = {
    None: pd.Index,
    "without the version of Ensembl ids": without_version,
    "without what programs add to names, such as the name of the genome": without_affixes,
    "by the Ensembl ids in them": ids_in_names,
    "without regard to case": _fold_case,
}


def spellings(names: pd.Index) -> dict[str | None, Callable[[pd.Index], pd.Index]]:
    """-> keys by which names may be compared, and how to say so."""
    several = genomes(names)
    if not several:
        return _SPELLINGS
    of_one = {f"of the genome {genome}": partial(without_affixes, genome=genome) for genome in several}
    return {how: key for how, key in _SPELLINGS.items() if key not in (without_affixes, ids_in_names)} | of_one


def spell_as(names: pd.Index, vocabulary: pd.Index, key: Callable[[pd.Index], pd.Index]) -> pd.Index:
    """-> names, those that equal one of the vocabulary by ``key`` spelled as there."""
    spelling = pd.Series(vocabulary, index=key(vocabulary))
    spelling = spelling[~spelling.index.duplicated(keep=False)]  # two genes of the model must not become one
    found = key(names).map(spelling.to_dict())
    return pd.Index(np.where(found.isna(), names, found), dtype=object)


def is_much_better(n: int, n_shared: int, vocabulary: pd.Index) -> bool:
    """A cure is only worth it if it at least doubles the matches and reaches a fair share of the model."""
    return n > max(2 * n_shared, MIN_SHARED_FRACTION * len(vocabulary))


def ensembl_prefix(names: pd.Index) -> str | None:
    """Prefix such as ENSG or ENSMUSG if most names are Ensembl gene ids."""
    prefixes = names.str.extract(_ENSEMBL, expand=False).dropna()
    return prefixes.value_counts().index[0] if len(prefixes) > len(names) / 2 else None


def _is_capitalized(names: pd.Index) -> bool:
    return bool(names.str.contains("[a-z]").astype(bool).mean() > 0.5)


def letter_case(names: pd.Index) -> str:
    """Human symbols are upper case (CD3D), mouse symbols capitalized (Cd3d)."""
    return "capitalized names (as in mouse)" if _is_capitalized(names) else "upper-case names (as in human)"
