"""What confidence, label sets and "Unknown" are worth across studies, and the limits that the package ships."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    # Not at import: a report needs neither the data nor torch.
    from benchmarks.trust._command import main

    return main(arguments)
