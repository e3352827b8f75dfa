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
import sys
from collections.abc import Sequence
from typing import Any

from sowlog._cli.arguments import make_parser
from sowlog._cli.errors import UsageError, describe


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = make_parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A tag may have characters that the stream's encoding does not.
        sys.stdout.reconfigure(errors="backslashreplace")
    status = 0
    try:
        # The commands import NumPy, and the help does not.
        command: Any = importlib.import_module(f"sowlog._cli.{options.command}")
        report = command.run(options)
        status = report.status
        _print(report, options)
    except UsageError as error:
        print(f"sowlog {options.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        _drop_output()
    except OSError as error:
        _drop_output()
        print(f"sowlog {options.command}: {describe(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return status


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
