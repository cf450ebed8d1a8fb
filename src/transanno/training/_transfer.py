"""Pretrained weights into a new module: genes by name, everything else by place."""

from __future__ import annotations

import numpy as np
import torch

from transanno.training._module import TransAnnoModule

# Parameters with one row per gene; and what belongs to the data or the task rather than to the encoder.
_GENE_ROWS = (
    "encoder.gene_embedding",
    "expression_head.gene_embedding",
    "expression_head.gene_bias",
)
_NOT_TRANSFERRED = ("batch_embedding.weight", "is_other", "mean_expression", "commonest_bins")
_CLASSIFIER = "classifier."


@torch.no_grad()
def transfer_weights(
    source: TransAnnoModule, target: TransAnnoModule, *, source_rows: np.ndarray, target_rows: np.ndarray
) -> None:
    """Copy ``source`` into ``target``; rows ``target_rows`` of per-gene weights come from ``source_rows``.

    Raises
    ------
    ValueError
        If any other weight is missing on one side or differs in shape; it lists them.
    """
    theirs, ours = source.state_dict(), target.state_dict()
    shared = [n for n in ours if n not in _GENE_ROWS + _NOT_TRANSFERRED and not n.startswith(_CLASSIFIER)]
    expected = [n for n in theirs if n not in _GENE_ROWS + _NOT_TRANSFERRED and not n.startswith(_CLASSIFIER)]
    wrong = [
        f"{name} {tuple(theirs[name].shape) if name in theirs else 'absent'} → "
        f"{tuple(ours[name].shape) if name in ours else 'absent'}"
        for name in dict.fromkeys([*shared, *expected])
        if name not in theirs or name not in ours or theirs[name].shape != ours[name].shape
    ]
    gene_rows = [name for name in _GENE_ROWS if name in theirs and name in ours]
    wrong += [f"{name}: width differs" for name in gene_rows if theirs[name].shape[1:] != ours[name].shape[1:]]
    if wrong:
        raise ValueError(
            f"{len(wrong)} pretrained weights do not fit the model: {'; '.join(wrong[:5])}. Leave out architecture "
            "arguments: they are taken from the pretrained model."
        )
    for name in shared:
        ours[name].copy_(theirs[name])
    rows = torch.as_tensor(target_rows), torch.as_tensor(source_rows)
    for name in gene_rows:
        ours[name][rows[0]] = theirs[name][rows[1]].to(ours[name].device)
