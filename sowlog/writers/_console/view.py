"""The lines of a live view, drawn by rich, an optional dependency."""

from __future__ import annotations

import math
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from sowlog.writers._console.progress import Glyphs, Progress, Row, number, shorten

_GAP = "  "
_VALUE = 10
_CURVES = 8, 32
_BARS = 10, 24
# Columns below which a tag is not shortened in favour of its curve.
_TAG = 8


class View:
    """The view of a run, in the width and the colors of a terminal.

    Args:
        stream: the terminal.
        glyphs: the characters that its encoding has.
    """

    def __init__(self, stream: TextIO, glyphs: Glyphs) -> None:
        self._glyphs = glyphs
        # A user's text is no markup. The size is read anew for each frame.
        self._console = Console(
            file=stream, force_terminal=True, force_jupyter=False, highlight=False, markup=False, emoji=False
        )

    def render(self, progress: Progress) -> list[str]:
        """Return the lines of a frame, none as wide as the terminal, and fewer than it has."""
        width, height = self._console.size
        rendered = list[str]()
        for line in lines_of(progress, self._glyphs, width=width - 1, height=height - 2):
            with self._console.capture() as captured:
                self._console.print(line, end="", no_wrap=True, overflow="crop")
            rendered.append(captured.get())
        return rendered


def lines_of(progress: Progress, glyphs: Glyphs, *, width: int, height: int) -> list[Text]:
    """Return the lines of a view: the step, and a row for each tag."""
    rows, room = progress.rows(), max(height - 1, 1)
    shown = rows if len(rows) <= room else rows[: room - 1]
    lines = [_heading(progress, glyphs, width), *_table(progress, shown, glyphs, width)]
    if len(shown) < len(rows):
        lines.append(Text(f"{glyphs.ellipsis} {len(rows) - len(shown)} more tags", style="dim"))
    for line in lines:
        line.truncate(max(width, 1), overflow="crop")
    return lines


def _heading(progress: Progress, glyphs: Glyphs, width: int) -> Text:
    step = progress.step or 0
    texts = [progress.describe_step(step), progress.pace.describe(progress.steps)]
    heading = Text(_GAP.join(filter(None, texts)))
    if progress.steps is None:
        return heading
    room = min(width - heading.cell_len - len(_GAP), _BARS[1])
    if room < _BARS[0]:
        return heading
    done = round(room * min(max(step / progress.steps, 0), 1))
    bar = Text.assemble((glyphs.bar[0] * done, "green"), (glyphs.bar[1] * (room - done), "dim"))
    return Text.assemble(texts[0], _GAP, bar, _GAP if texts[1] else "", texts[1])


def _table(progress: Progress, rows: list[Row], glyphs: Glyphs, width: int) -> list[Text]:
    longest = max((cell_len(row.tag) for row in rows), default=0)
    stale = {row: "" if row.step == progress.step else f"step {row.step}" for row in rows}
    behind = max((len(_GAP) + len(text) for text in stale.values() if text), default=0)
    room = width - len(_GAP) - _VALUE - len(_GAP)
    # The step of an older value is left out first, then the curve.
    if room - behind < _CURVES[0] + min(longest, 3 * _TAG):
        behind = 0
    room -= behind
    curve = min(max(_CURVES[0], room // 3, room - longest), _CURVES[1]) if room >= _CURVES[0] + _TAG else 0
    tag = max(min(longest, room - curve), 1)
    lines = list[Text]()
    for row in rows:
        shown = shorten(row.tag, list(map(cell_len, row.tag)), tag, glyphs.ellipsis)
        style = "bold" if math.isfinite(row.value) else "bold red"
        line = Text.assemble(
            f"{shown}{' ' * (tag - cell_len(shown))}{_GAP}", (f"{number(row.value):>{_VALUE}}", style)
        )
        if curve:
            line.append(_GAP).append(f"{row.curve.draw(curve, glyphs):{curve}}", style="cyan")
        if behind:
            line.append(_GAP).append(stale[row], style="dim")
        line.rstrip()
        lines.append(line)
    return lines
