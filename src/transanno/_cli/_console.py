"""What a command says: results on stdout; progress, warnings and errors on stderr."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout

from transanno.checks._quiet import quiet_loggers
from transanno.checks._warn import TransAnnoWarning


class Console:
    """Output of a command.

    Parameters
    ----------
    quiet
        Whether to leave out everything but results that were asked for, warnings and errors.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self._out, self._err = sys.stdout, sys.stderr
        self._warned: set[str] = set()

    def step(self, text: str) -> None:
        """Say what is done now."""
        if not self.quiet:
            print(text, file=self._err, flush=True)

    def detail(self, text: str) -> None:
        """Print a result that ``--quiet`` leaves out."""
        if not self.quiet:
            self.result(text)

    def result(self, text: str) -> None:
        """Print a result."""
        print(text, file=self._out, flush=True)

    @property
    def is_terminal(self) -> bool:
        """Whether results are read by someone, and not by a program."""
        return self._out.isatty()

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int = 0) -> None:
        """Print rows of texts, so many of the last columns numbers: as wide as a terminal is, elsewhere a line for each."""
        if not self.is_terminal:
            from transanno.metrics._table import format_table

            self.result(format_table([header, *rows]) + "\n")
            return
        from rich.box import SIMPLE_HEAD
        from rich.console import Console as Terminal
        from rich.table import Table
        from rich.text import Text

        shown = Table(box=SIMPLE_HEAD, pad_edge=False)
        for i, name in enumerate(header):
            shown.add_column(Text(name), justify="right" if i >= len(header) - numbers else "left", overflow="fold")
        for row in rows:
            shown.add_row(*map(Text, row))  # as text: a type may be called [bold]
        Terminal(file=self._out).print(shown)

    def warn(self, text: str) -> None:
        """Print a warning, once."""
        if text not in self._warned:
            self._warned.add(text)
            print(f"transanno: warning: {text}", file=self._err, flush=True)

    @contextmanager
    def calm_libraries(self) -> Iterator[None]:
        """Keep what libraries print, log and warn of off the terminal, and show our warnings as lines."""
        with warnings.catch_warnings(), redirect_stdout(self._err):  # progress bars are printed to stdout
            warnings.simplefilter("always")
            warnings.showwarning = self._show_warning
            # Importing them sets the levels of their loggers, so it comes first.
            import lightning.pytorch  # noqa: F401
            import scvi  # noqa: F401

            with quiet_loggers("lightning.pytorch", "lightning.fabric", "scvi", level=logging.ERROR):
                yield

    def _show_warning(self, message, category, filename, lineno, file=None, line=None) -> None:
        # Libraries warn users of Python, too; only what our code raises is meant for this user.
        if issubclass(category, TransAnnoWarning):
            self.warn(one_paragraph(message))


def one_paragraph(message: object) -> str:
    """Warning or exception -> its text without line breaks, or the name of its class."""
    if isinstance(message, KeyError) and message.args:
        message = message.args[0]  # str() of a KeyError shows the repr of its text
    return " ".join(str(message).split()) or type(message).__name__
