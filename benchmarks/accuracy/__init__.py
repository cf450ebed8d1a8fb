"""Accuracy of transanno and its peers over many tasks; accuracy.toml beside this folder names both."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    # Not at import: the workers import this package, and their memory is measured.
    from benchmarks.accuracy._command import main

    return main(arguments)
