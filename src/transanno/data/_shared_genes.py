"""How many genes a query has to share with a reference that a model is then trained on.

A query of a small panel shares few of a whole transcriptome's genes, and that is fine: the model uses what both have. Far
fewer say nothing about a type, whatever the panel.
"""

from __future__ import annotations

from transanno.checks._warn import warn
from transanno.data._match_genes import MIN_SHARED_GENES

# Fewer are accepted with a warning, unless they are most of the reference's.
EXPECTED_SHARED_GENES, _MOST = 100, 0.5


def floor_for_reference(n_reference: int) -> int:
    """-> genes that a query has to share with a reference of so many."""
    return max(min(MIN_SHARED_GENES, n_reference), 1)


def warn_of_few_shared(n_shared: int, n_reference: int) -> None:
    """Warn if there are so few shared genes that types may not be told apart."""
    if n_shared < EXPECTED_SHARED_GENES and n_shared < _MOST * n_reference:
        warn(
            f"Query and reference share {n_shared} genes, of {n_reference} of the reference; only these are used, which may be "
            "too few to tell types apart. Pass all measured genes of both if these are selections of them, and do not rely on "
            "types whose markers are missing: transanno.pp.check(query, reference, labels_key=...) lists them."
        )
