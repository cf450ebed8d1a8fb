"""Genes that decided for a type."""

from __future__ import annotations

import numpy as np

from transanno.data._positions import evenly_spread
from transanno.evidence._profiles import profiles
from transanno.models import TransAnno
from transanno.models._explain import attribute
from transanno.predictions._run import Cells

# Cells of a type that are explained, and genes that are named.
_N_CELLS, _N_GENES = 50, 6

HOW = (
    f"Genes decided by their contribution to the type's logit against the mean of all others, by integrated gradients "
    f"from the average cell of the reference: the {_N_GENES} largest, over at most {_N_CELLS} cells of a type. “Little” "
    "stands before genes of which these cells have less than that average cell: their lack decided."
)


def deciding_genes(model: TransAnno, cells: Cells, called: np.ndarray) -> dict[str, str]:
    """Model, its cells, what they are called ``(n_obs,)`` -> genes that decided for each of its types, as a text."""
    types = [str(name) for name in model.labels if (called == name).any()]
    chosen = [np.flatnonzero(called == name) for name in types]
    chosen = [some[evenly_spread(len(some), _N_CELLS)] for some in chosen]
    positions, codes = np.concatenate(chosen), np.repeat(np.arange(len(types)), [len(some) for some in chosen])
    explained = np.flatnonzero(np.isin(model.labels, types))
    found = attribute(model, cells, positions, codes, explained, None, center=model._center(cells))
    mean = profiles(cells, positions, codes, types, model.genes, model._is_gene, min_cells=1).mean.to_numpy()
    genes, average, texts = model.genes, _average_cell(model, mean), {}
    for name, values, expressed in zip(types, found, mean, strict=True):
        largest = np.argsort(-values, kind="stable")[:_N_GENES]
        texts[name] = ", ".join(
            f"{'little ' if expressed[gene] < average[gene] else ''}{genes[gene]}"
            for gene in largest
            if values[gene] > 0
        )
    return texts


def _average_cell(model: TransAnno, mean: np.ndarray) -> np.ndarray:
    """Mean expression by type ``(n_types, n_genes)`` -> that of the average cell of the reference ``(n_genes,)``.

    The Performer does not store it; then it is that of the average type here.
    """
    if model.module.encoder.has_gene_tokens:
        return mean.mean(axis=0)
    return model.module.mean_expression.cpu().numpy()[model._is_gene]
