"""Which cells are copies of others."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import pandas as pd
import scipy.sparse as sp


def identical_cells(counts: sp.csr_matrix) -> np.ndarray:
    """Counts ``(n_obs, n_vars)`` -> code of every cell ``(n_obs,)``; cells with equal counts have the same one.

    Cells without any count get a code of their own: they are not copies of each other, but all equally empty.
    """
    counts = counts.copy()
    counts.sum_duplicates()
    counts.eliminate_zeros()
    hashes = []
    for row, (start, stop) in enumerate(zip(counts.indptr[:-1], counts.indptr[1:], strict=True)):
        if start == stop:
            hashes.append(f"cell {row}".encode())
            continue
        content = blake2b(counts.indices[start:stop].tobytes(), digest_size=16)
        content.update(counts.data[start:stop].tobytes())
        hashes.append(content.digest())
    return pd.factorize(np.array(hashes, dtype=object))[0]
