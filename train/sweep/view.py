"""A sweep as lines on the terminal."""

import os
from pathlib import Path

from train.show import lines
from train.sweep.plan import Point
from train.system import files

_TAIL = 15
_TAIL_BYTES = 100_000


class SweepLines:
    """A line for each point that begins or ends; of one that failed, the end of its log."""

    def begun(self, point: Point, *, is_continued: bool) -> None:
        """Show that a point is being trained."""
        lines.text(f"{'continues' if is_continued else 'begins'} {point.name}")

    def waits(self, point: Point) -> None:
        """Show that another process trains a point."""
        lines.text(f"waits for {point.name}, which another process trains")

    def finished(self, point: Point) -> None:
        """Show a point that has its results, with the most important one."""
        results = point.results()
        shown = "" if results is None else "  ".join(f"{tag} {value:.4g}" for tag, value in results.main())
        lines.text(f"finished {point.name}  {shown}")

    def failed(self, point: Point, verdict: str, *, since: int | None = None) -> None:
        """Show why a point has no results."""
        lines.text(f"{point.name}: {verdict}")
        if since is not None and verdict != "stopped":
            lines.text(_tail(point.log, since))


def _tail(log: Path, since: int) -> str:
    """Return the last lines of the log since then, indented, under the file's name."""
    try:
        with files.open_regular(log, "rb") as file:
            file.seek(max(since, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            written = file.read().decode(errors="replace").splitlines()[-_TAIL:]
    except OSError as error:
        written = [f"cannot be read: {error}"]
    return "\n".join([f"  the end of {log}:", *(f"    {line}" for line in written)])
