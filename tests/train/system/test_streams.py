import os
import pty
from collections.abc import Callable

import pytest
from rich.console import Console

from train.system.streams import Output


def closed_terminal() -> int:
    """Return a terminal whose window was closed, as a lost connection does."""
    window, inside = pty.openpty()
    os.close(window)
    return inside


def left_pipe() -> int:
    """Return a pipe whose reader has left."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize("lost", [closed_terminal, left_pipe, full_disk])
def test_output_that_is_lost_ends_nothing(lost: Callable[[], int]) -> None:
    """Neither lines nor tables raise."""
    descriptor = lost()
    output = Output(os.fdopen(os.dup(descriptor), "w", closefd=False))
    with pytest.raises(OSError, match=r"Errno (5|32|28)"):
        os.write(descriptor, b"x")
    for _ in range(2):
        print("line", file=output, flush=True)
    Console(file=output, force_terminal=True).print("[bold]line[/]")
    os.close(descriptor)


def test_output_that_is_not_lost_arrives() -> None:
    """All of it, in order."""
    reading, writing = os.pipe()
    output = Output(os.fdopen(writing, "w"))
    print("one", file=output, flush=True)
    Console(file=output).print("two")
    output.close()
    with os.fdopen(reading) as received:
        assert received.read() == "one\ntwo\n"
