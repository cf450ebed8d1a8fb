"""One thread for every process, which has to be said before numpy, numba and torch are loaded.

Matrices of tests are small, and the workers of pytest-xdist, which inherit this, would only wait for each other's threads.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")
