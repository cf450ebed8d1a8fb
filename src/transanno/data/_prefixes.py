"""What programs add to the names of genes: the genome in front, the id behind the symbol, white space around."""

from __future__ import annotations

import re

import pandas as pd

# Genomes as Cell Ranger and others call them, with what tells a reference of pre-mRNA.
_GENOME = re.compile(
    r"^(grc[a-z]\d+|t2t[-_]?chm13\w*|hg\d+|mm\d+|mratbn\d[.\d]*|rnor[_.\d]*|rn\d+|mmul_\d+|danrer\d+|sus_?scrofa[\d.]*|"
    r"homo_sapiens|mus_musculus|human|mouse)"
    r"([-_.]?(pre[-_]?mrna|p\d+|v\d+|\d{4}-[a-z]))*[-_:.]+(?=.)",
    re.IGNORECASE,
)
_ID = r"ENS[A-Z]*G\d{6,}(?:\.\d+)?"
_ID_BEHIND = re.compile(rf"^(?P<symbol>.+?)[\s_|:;,/~-]+\(?(?P<id>{_ID})\)?$")
_ID_IN_FRONT = re.compile(rf"^(?P<id>{_ID})[\s_|:;,/~-]+\(?(?P<symbol>.+?)\)?$")
_ENTREZ_BEHIND = re.compile(r"^(?P<symbol>.+?)\|(?P<id>\d+)$")
_ENTREZ_IN_FRONT = re.compile(r"^(?P<id>\d+)[_|](?P<symbol>[A-Za-z].*)$")
# Of CEL-seq; and what is left of texts of other languages: 'CD3D', "CD3D", b'CD3D'.
_CHROMOSOME_BEHIND = re.compile(r"__chr\w+$")
_QUOTED = re.compile(r"""^b?(["'])(?P<name>.+)\1$""")
_KIND_IN_FRONT = re.compile(r"^(gene|rna)[-:](?=.)", re.IGNORECASE)
# An affix that so many names share belongs to none of them; of a mixture of species, each has its own.
_SHARED = 0.2
# What is longer is no name of a gene, and takes these patterns a while.
_LONGEST = 200


def genomes(names: pd.Index) -> list[str]:
    """-> genomes in front of names, if there are several, as of a mixture of species."""
    found = pd.Series([match.group(1).lower() for name in names if (match := _GENOME.match(str(name)))], dtype=object)
    counts = found.value_counts()
    common = counts.index[counts > _SHARED * len(names) / 2].tolist()
    return common if len(common) > 1 else []


def without_affixes(names: pd.Index, *, genome: str | None = None) -> pd.Index:
    """GRCh38_CD3D, CD3D-hg19, gene:CD3D, CD3D_ENSG00000167286, CD3D__chr11 and " CD3D " -> CD3D; names without such stay.

    With a ``genome``, names of other genomes stay, too: C3 of man and mouse are two genes.
    """
    return pd.Index([_symbol(name) for name in _without_shared(names, genome)], dtype=object)


def ids_in_names(names: pd.Index) -> pd.Index:
    """CD3D_ENSG00000167286.3 and GRCh38_ENSG00000167286 -> ENSG00000167286; names without an id stay."""
    found = [(name, _parts(name)) for name in _without_shared(names, None)]
    return pd.Index([re.sub(r"\.\d+$", "", part["id"]) if part else name for name, part in found], dtype=object)


def _symbol(name: str) -> str:
    parts = _parts(name)
    return parts["symbol"] if parts else name


def _parts(name: str) -> re.Match | None:
    if len(name) > _LONGEST:
        return None
    return (
        _ID_BEHIND.match(name) or _ID_IN_FRONT.match(name) or _ENTREZ_BEHIND.match(name) or _ENTREZ_IN_FRONT.match(name)
    )


def _bare(name: str) -> str:
    quoted = _QUOTED.match(name)
    return _CHROMOSOME_BEHIND.sub("", quoted["name"] if quoted else name)


def _without_genome(name: str, genome: str | None) -> str:
    match = _GENOME.match(name)
    if match and (genome is None or match.group(1).lower() == genome):
        name = name[match.end() :]
    return _KIND_IN_FRONT.sub("", name)


def _without_shared(names: pd.Index, genome: str | None) -> list[str]:
    """Names without a first or last part that many of them have in common, such as the name of a species or a sample."""
    texts = [_without_genome(_bare(str(name).strip()), genome) for name in names]
    if genome is not None:
        return texts
    for pattern in (r"^([^\s_:|.-]+[\s_:|.-]+)(?=.)", r"(?<=.)([\s_:|.-]+[^\s_:|.-]+)$"):
        found = [re.search(pattern, text) if len(text) <= _LONGEST else None for text in texts]
        counts = pd.Series([match.group(1) for match in found if match]).value_counts()
        shared = set(counts.index[counts > _SHARED * len(texts)])
        texts = [
            text.replace(match.group(1), "", 1) if match and match.group(1) in shared and match.start() == 0
            else text[: match.start()] if match and match.group(1) in shared
            else text
            for text, match in zip(texts, found, strict=True)
        ]  # fmt: skip
    return texts
