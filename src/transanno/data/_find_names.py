"""Under which names a user's data hold the genes of a vocabulary."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from transanno.checks._warn import warn
from transanno.data._gene_ids import best_naming, gene_ids, named_like_other, other_features

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger(__name__)


def find_names(var: pd.DataFrame, vocabulary: Iterable[str], *, name: str) -> tuple[pd.Index, list[str], list[str]]:
    """Names of the columns as the vocabulary spells them ``(n_vars,)``, what the user has to know, and what they may."""
    vocabulary = pd.Index(vocabulary).astype(str)
    notes, tell = [], []
    naming = best_naming(var, vocabulary)
    names = naming.names
    if naming.how is not None:
        text = (
            f"The names of {name} are not those of the model: its genes were matched by {naming.how}, which gives "
            f"{naming.n_shared} of the model's {len(vocabulary)} genes"
        )
        if naming.by_case:
            pair = gene_ids(pd.Index(var.index)).species, gene_ids(vocabulary).species
            species = f" ({pair[0]} here, {pair[1]} there)" if all(pair) and pair[0] != pair[1] else ""
            text += (
                f". This is another species{species}, or symbols were changed to upper case. Genes of one symbol in human and "
                "mouse are mostly orthologs, but a model of the query's own species is better"
            )
        notes.append(f"{text}.")
    elif naming.n_shared:
        here, there = gene_ids(names), gene_ids(vocabulary)
        if here.species and there.species and here.species != there.species:
            notes.append(
                f"The genes of {name} look like {here.species} ({here}), those of the model like {there.species}. If this is "
                "so, a cell gets the most similar type of another species or tissue: use a model of the query's own species."
            )
    is_known = np.asarray(names.isin(vocabulary))
    # A model that was set up with ADT_CD4 means the protein; one that was set up with CD4 hardly does.
    is_other = other_features(var) & ~(is_known & named_like_other(names))
    if is_other.any():
        clash = is_other & is_known
        # Their own names would be summed with a gene's: CD4 is both.
        names = pd.Index(np.where(is_other, names + " (no gene)", names), dtype=object)
        text = f"{np.count_nonzero(is_other)} features of {name} are antibodies, hashtags or others beside genes"
        if clash.any():
            shown = ", ".join(var.index[clash][:3].astype(str))
            notes.append(
                f"{text}; {np.count_nonzero(clash)} of them are called like a gene ({shown}). None of them is used."
            )
        else:
            tell.append(f"{text}; they are not used.")
    return names, notes, tell


def say(notes: Iterable[str | None], tell: Iterable[str] = ()) -> None:
    """What was repaired, as warnings; what hardly matters, in the log."""
    for text in filter(None, notes):
        warn(f"{text} Your object is as it was.")
    for text in tell:
        logger.info("%s", text)
