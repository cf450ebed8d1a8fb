"""Entry of the command line: runs a command, and turns its errors into a paragraph and an exit code."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from transanno._cli._console import Console, one_paragraph
from transanno._cli._parser import UsageError, check_annotate, make_parser

_DONE, _UNEXPECTED, _MISTAKE, _INTERRUPTED, _TERMINATED = 0, 1, 2, 130, 143


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv
        Arguments. Default: those of the process.

    Returns
    -------
    Exit code: 0 done, 1 unexpected error, 2 wrong input or options, 130 interrupted.
    """
    try:
        given = sys.argv[1:] if argv is None else list(argv)
        args = make_parser().parse_args(given, argparse.Namespace(given=given))
        if args.command == "annotate":
            check_annotate(args)
    except UsageError as error:
        return _complain(error)
    except SystemExit as stop:  # --help and --version
        return int(stop.code or 0)
    console = Console(quiet=args.quiet)
    # Read when torch is loaded. The small steps of this model otherwise spend most of their time in threads that
    # wait for each other by spinning: ten times slower where another process wants the same cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        with _terminable(), console.calm_libraries():
            if "accelerator" in args:
                from transanno.checks._arguments import check_accelerator

                check_accelerator(args.accelerator)
            _command(args.command)(args, console)
    except BrokenPipeError:  # the reader of our output is gone, as in `transanno … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at its end
    except (ValueError, KeyError, TypeError, OSError, ImportError) as error:
        return _complain(error, debug=args.debug)
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning turns one during training into an exit
            return _interrupted()
        return stop.code if isinstance(stop.code, int) else _UNEXPECTED
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        print(f"transanno: error: unexpected {type(error).__name__}: {one_paragraph(error)}", file=sys.stderr)
        return _UNEXPECTED
    return _DONE


def _command(name: str) -> Callable[[argparse.Namespace, Console], None]:
    """-> function of a command; loads what it needs, which takes seconds."""
    if name == "pretrain":
        from transanno._cli._pretrain import pretrain

        return pretrain
    if name == "check":
        from transanno._cli._check import check

        return check
    from transanno._cli._annotate import annotate, demo

    return annotate if name == "annotate" else demo


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the command like an error does, so that temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: object) -> None:
        raise SystemExit(_TERMINATED)

    # Lightning ignores SIGINT from the first one on.
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _complain(error: Exception, *, debug: bool = False) -> int:
    if debug:
        traceback.print_exception(error)
    print(f"transanno: error: {one_paragraph(error)}", file=sys.stderr)
    return _MISTAKE


def _interrupted() -> int:
    print("transanno: interrupted", file=sys.stderr)
    return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
