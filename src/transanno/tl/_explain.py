"""Why A rather than B."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy.special import softmax

from transanno.checks._data import Message, check_choice, check_obs_column
from transanno.data._labels import as_strings
from transanno.data._positions import as_positions
from transanno.evidence._explained import code_of
from transanno.evidence._profiles import Profiles, profiles
from transanno.models import TransAnno
from transanno.models._base import as_model
from transanno.models._explain import attribute
from transanno.predictions._run import Cells

# A gene is expected where at least this share of a label's cells express it, and absent where at most that share of the
# explained cells do: of one cell, none.
_EXPECTED, _ABSENT = 0.5, 0.05
# Calls of at least this probability stand in for labels where there are none.
_SURE = 0.9


def explain(
    model: TransAnno | str | Path,
    cells: str | int | Sequence[int] | np.ndarray,
    against: str | None = None,
    *,
    adata: AnnData | MuData | None = None,
    groupby: str | None = None,
    label: str | None = None,
    reference: AnnData | MuData | None = None,
    labels_key: str | None = None,
) -> pd.DataFrame:
    r"""Which genes make the model call a cell, or a group of cells, A rather than B.

    The evidence of a gene is its contribution to :math:`\mathrm{logit}_A - \mathrm{logit}_B`, the logarithm of how many
    times more probable A is than B, starting from the average cell of the reference: see
    :meth:`transanno.TransAnno.get_gene_attributions`. Expected genes that the cell lacks have evidence, too, since the
    average cell has a little of them.

    Parameters
    ----------
    model
        Trained model, or the folder or name of one, which needs ``adata``.
    cells
        Name of a cell, its position, several positions or a boolean mask; with ``groupby``, the name of a group.
    against
        Label B. Default: the most probable one after A.
    adata
        Cells with raw counts. Default: the data of the model.
    groupby
        Column of ``obs`` with groups, such as clusters.
    label
        Label A. Default: the most probable one, on average over the cells.
    reference
        Labeled cells with raw counts, for the columns on what A and B express. Default: the cells that the model was
        trained on where it holds them, else those cells of ``adata`` that it calls A or B with a probability of 0.9 or
        more.
    labels_key
        Column of ``reference.obs`` with the labels. Default: the one that the model was set up with.

    Returns
    -------
    DataFrame, measured genes of the model × the columns below, those with the most evidence first.

    - ``evidence``: for A (positive) or B (negative), in units of a logit (nats).
    - ``speaks_for``: A or B, by the sign; missing where the evidence is 0.
    - ``absent``: True for genes that at least half of the cells of A or of B express, and that the explained cell does
      not (of a group: at most 5 % of its cells).
    - ``expression``, ``fraction``: of the cells, mean log1p of counts per 10,000, and share that express the gene.
    - ``expression_label``, ``fraction_label``: the same for cells of A; NaN where fewer than three are known.
    - ``expression_against``, ``fraction_against``: for cells of B.

    ``.attrs`` holds ``label`` and ``against``; ``margin``, the mean difference of their logits, of which the evidence
    explains all but ``margin_of_average``, that of the average cell; ``n_cells``; and ``profiles``, where the columns
    on A and B come from.

    Raises
    ------
    KeyError
        If a column, cell or group does not exist.
    ValueError
        If a label is unknown to the model, A and B are the same, or no cells are selected.
    TypeError
        If ``model`` is neither a model nor a folder, such as an AnnData.

    Examples
    --------
    >>> table = transanno.tl.explain(model, "AAACCTGAGCAT-1", against="NK cell")
    >>> table.head(10)
    >>> table[table["absent"]].head()
    >>> transanno.pl.evidence(transanno.tl.explain(model, "5", groupby="leiden"))
    """
    model = as_model(model, TransAnno, argument="model")
    for name, value in (("label", label), ("against", against)):
        if value is not None:
            check_choice(name, value, model.labels.tolist())
    data, cells_read = model._resolve(adata, only_some=True)
    positions = _positions(data, cells, groupby)
    center = model._center(cells_read)
    logits = model._run(cells_read, positions, center=center).logits.astype(np.float64)
    mean = pd.Series(softmax(logits, axis=1).mean(axis=0), index=model.labels)
    logit = pd.Series(logits.mean(axis=0), index=model.labels)
    label = label or str((mean if against is None else mean.drop(against)).idxmax())
    against = against or str(mean.drop(label).idxmax())
    if label == against:
        raise ValueError(f"label and against are both {label!r}. Compare two different labels.")
    one_group = np.zeros(len(positions), dtype=np.int64)
    evidence = attribute(
        model, cells_read, positions, one_group, np.array([code_of(model.labels, label)]), against, center=center
    )
    found = pd.Series(evidence[0], index=model.genes)
    own = profiles(cells_read, positions, one_group, ["cells"], model.genes, model._is_gene, min_cells=1)
    known, source = _known_profiles(model, [label, against], data, cells_read, reference, labels_key)
    sides = np.select([found > 0, found < 0], [0, 1], default=-1).astype(np.int64)
    table = pd.DataFrame(
        {
            "evidence": found,
            "speaks_for": pd.Categorical.from_codes(sides, categories=pd.Index([label, against])),
            "absent": ((known.share >= _EXPECTED).any() & (own.share.loc["cells"] <= _ABSENT)).to_numpy(),
            "expression": own.mean.loc["cells"],
            "fraction": own.share.loc["cells"],
            "expression_label": known.mean.loc[label],
            "fraction_label": known.share.loc[label],
            "expression_against": known.mean.loc[against],
            "fraction_against": known.share.loc[against],
        },
        index=found.index,
    )
    table = table[~cells_read.is_missing[model._is_gene]]
    margin = float(logit[label] - logit[against])
    table = table.sort_values("evidence", key=np.abs, ascending=False, kind="stable").rename_axis("gene")
    table.attrs = {
        "label": label,
        "against": against,
        "cells": f"{groupby} {cells}" if groupby is not None else str(data.obs_names[positions[0]]),
        "n_cells": len(positions),
        "margin": margin,
        "margin_of_average": margin - float(found.sum()),
        "profiles": source,
    }
    return table


def _known_profiles(
    model: TransAnno,
    labels: list[str],
    data: AnnData | MuData,
    cells: Cells,
    reference: AnnData | MuData | None,
    labels_key: str | None,
) -> tuple[Profiles, str]:
    """-> profiles of the labels, and of which cells: the reference's, the training cells, or cells surely called so."""
    source, given = "reference", reference
    if reference is None and model.n_reference_batches_ is None and model.adata is not None:
        # `model.adata` may have been replaced by cells without labels; then calls have to do.
        if model._spec.modality is None and model._spec.labels_key in model.adata.obs:
            source, given = "training cells", model.adata
    if given is not None:
        key = labels_key or str(model._spec.labels_key)
        check_obs_column(given, key, argument="labels_key", name="reference" if given is reference else "adata")
        found = as_strings(given.obs[key], missing="")
        cells = model._resolve(given, only_some=True)[1]
    else:
        source = "confident calls"
        probabilities = softmax(model._run(cells, np.arange(data.n_obs)).logits.astype(np.float64), axis=1)
        if model.calibration_ is not None:
            probabilities = model.calibration_.temper(probabilities)
        found = np.where(probabilities.max(axis=1) >= _SURE, model.labels[probabilities.argmax(axis=1)], "")
    codes = pd.Index(labels).get_indexer(pd.Index(found)).astype(np.int64)
    positions = np.flatnonzero(codes >= 0)
    return profiles(cells, positions, codes[positions], labels, model.genes, model._is_gene), source


def _positions(
    data: AnnData | MuData, cells: str | int | Sequence[int] | np.ndarray, groupby: str | None
) -> np.ndarray:
    """What the user named -> positions of the cells."""
    if groupby is not None:
        check_obs_column(data, groupby, argument="groupby", name="adata")
        groups = as_strings(data.obs[groupby], missing="")
        positions = np.flatnonzero(groups == str(cells))
        if not len(positions) or str(cells) == "":
            names = sorted(set(groups) - {""})
            listed = ", ".join(map(repr, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
            raise KeyError(
                Message(f"cells={cells!r} is not a group of adata.obs[{groupby!r}]. Groups found: {listed}.")
            )
        return positions
    if isinstance(cells, str):
        positions = np.flatnonzero(data.obs_names == cells)
        if len(positions) != 1:
            raise KeyError(
                Message(
                    f"cells={cells!r} is the name of {len(positions)} cells in adata.obs_names. Name one cell, give "
                    "positions, or a group together with groupby=."
                )
            )
        return positions
    positions = as_positions(np.atleast_1d(cells), data.n_obs)
    if not len(positions):
        raise ValueError("cells selects no cells. Give a name, positions, or a mask that is True somewhere.")
    return positions
