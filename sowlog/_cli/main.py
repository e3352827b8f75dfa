"""The command line: parse the arguments, run a command, print its report.

Exit status:

    0    The command is done.
    1    `check` found damage, or an expectation that does not hold.
    2    The request cannot be met: an unknown option, run or tag, a missing package, or a file that cannot be
         written.
    130  Ctrl-C.

A reader of the output that has gone, as in `sowlog show RUN | head`, changes no status.
"""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

from sowlog._cli.arguments import make_parser
from sowlog._cli.errors import UsageError, describe, note


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = make_parser().parse_args(argv)
    # A shell may start the command with a stream closed.
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]
        return _fail(options, "the output cannot be written: standard output is closed.")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A tag may have characters that the stream's encoding does not.
        sys.stdout.reconfigure(errors="backslashreplace")
    status = 0
    try:
        command = _import_command(options.command)
        # A run may hold NaN and infinities, which a report shows and does not warn of.
        with importlib.import_module("numpy").errstate(all="ignore"):
            report = command.run(options)
            status = report.status
            _print(report, options)
    except UsageError as error:
        return _fail(options, str(error))
    except BrokenPipeError:
        _drop_output()
    except OSError as error:
        _drop_output()
        return _fail(options, describe(error))
    except KeyboardInterrupt:
        return 130
    return status


def _fail(options: Any, message: str) -> int:
    """Write an error, and return its exit status."""
    note(f"sowlog {options.command}: {message}")
    return 2


def _import_command(name: str) -> Any:
    """Import a command, and NumPy, which the help does not need.

    Ctrl-C ends the process here: an extension module may turn a KeyboardInterrupt into an ImportError.
    """
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    is_ours = is_default and threading.current_thread() is threading.main_thread()
    if is_ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return importlib.import_module(f"sowlog._cli.{name}")
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _drop_output() -> None:
    """Lead standard output nowhere, so that the rest of its buffer is no error at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _print(report: Any, options: Any) -> None:
    from sowlog._cli.report import as_json  # noqa: PLC0415 - beside the commands
    from sowlog._cli.tables import write  # noqa: PLC0415

    if report.data is not None:
        write(sys.stdout, [as_json(report.data)] if options.json else report.parts())
        sys.stdout.flush()
