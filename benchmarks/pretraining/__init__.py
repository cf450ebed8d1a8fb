"""What masked pretraining on unlabeled cells is worth; pretraining.toml beside this folder names studies and organs."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    # Not at import: a report needs neither the data nor torch.
    from benchmarks.pretraining._command import main

    return main(arguments)
