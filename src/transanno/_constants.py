"""Keys and special values that more than one file uses."""

from __future__ import annotations

from typing import Final

UNLABELED_CATEGORY: Final = "Unlabeled"
"""Default name of the category that marks cells without a label."""

UNASSIGNED_CATEGORY: Final = "Unassigned"
"""Category of cells whose confidence is below the threshold that ``predict`` was given."""

NOVEL_CATEGORY: Final = "Unknown"
"""Category of cells that are unlike every type of the reference, where ``predict`` was given an ``fdr``."""

KEY_ADDED: Final = "transanno"
"""Default column of ``.obs`` that predictions are written to."""

CONFIDENCE_SUFFIX: Final = "_confidence"
"""``.obs[key_added + CONFIDENCE_SUFFIX]`` holds the probability of the predicted label."""

NOVELTY_SUFFIX: Final = "_novelty"
"""``.obs[key_added + NOVELTY_SUFFIX]`` says how much a cell is unlike the reference."""

GROUP_SUFFIX: Final = "_group"
"""``.obs[key_added + GROUP_SUFFIX]`` holds the groups of ``"Unknown"`` cells."""

GROUPS_SUFFIX: Final = "_groups"
"""``.uns[key_added + GROUPS_SUFFIX]`` holds a table of them."""

SETS_SUFFIX: Final = "_sets"
"""``.obsm[key_added + SETS_SUFFIX]`` holds the types that a cell may be of, cells × types."""

SET_SUFFIX: Final = "_set"
"""``.obs[key_added + SET_SUFFIX]`` holds the same as text."""

LATENT_KEY: Final = "X_transanno"
"""``.obsm`` key of the cell states that :func:`transanno.tl.annotate` writes."""

IS_MISSING_KEY: Final = "is_missing"
"""Column of ``.var`` that is True for genes that were not measured; :func:`transanno.pp.align_genes` writes it."""

JUDGED_KEY: Final = "transanno_judged"
"""True in ``.uns`` of copies of ours whose values were judged when they were the user's, before genes were left out."""

COUNTS_LAYER: Final = "counts"
"""Layer of raw counts that :mod:`transanno.pp` writes."""

MISSING_CATEGORY: Final = "missing"
"""Batch category of cells whose batch column holds NaN."""

QUERY_CATEGORY: Final = "query"
"""Batch category of a query that has no batch column."""

OTHER_GENES: Final = "(other genes)"
"""Last column of a model that normalizes by all counts of a cell: those of genes outside its vocabulary."""

TARGET_SUM: Final = 1e4
"""Total that the counts of a cell are scaled to before the logarithm."""

N_BINS: Final = 6
"""Expression bins 0..5 of the masked-expression objective (TransAnno-Net's ``bin_num = 5`` and zero)."""

DEVIATION_LENGTH: Final = 30.0
"""Length that a cell's deviation from its data set is scaled to: about that of the deviation itself."""

COSINE_SCALE: Final = 20.0
"""Logit of a cosine of one: as sure as the other experts are."""

LEAST_SQUARED_DISTANCE: Final = 1e-6
"""Least squared distance of a cell from a center, so that one can divide by it."""

LEAST_LENGTH: Final = 1e-6
"""Least length of the direction of a type in the genes that a cell has."""

FAVOR_EPSILON: Final = 1e-4
"""Keeps the attention of the Performer from dividing by zero where a query and all keys point apart; that of the original."""

N_CENTER_CELLS: Final = 20_000
"""Cells whose mean stands for that of a data set."""

N_PRIOR_CELLS: Final = 5
"""As how many cells the mean of the reference counts beside them: of one cell there is no mean to speak of."""

MASK_TOKEN: Final = N_BINS
"""Token of a masked gene in the Performer, after those of the bins."""
