"""Notes on sown values: their meaning, place, and order of execution.

A note is made while a function is traced, and is no part of the traced program: it rides on the label of the
sow through transforms, and on its state from there to `pack`, which puts it on the tags.
"""

import dataclasses
import itertools
from typing import Literal, NamedTuple, final

Phase = Literal["input", "forward", "loss", "backward", "gradient", "update"]
"""The part of a step in which a value is computed, in the order of execution."""

PHASES: tuple[Phase, ...] = ("input", "forward", "loss", "backward", "gradient", "update")

_orders = itertools.count(1)


class Source(NamedTuple):
    """A sow, as its author sees it.

    Attributes:
        doc: the description by the author.
        place: the file and line; empty for a value that a watch or an observer sows.
        tag: the tag below the collection; empty for a value that was not sown.
        phase: the part of the step; "loss" for a loss alone.
    """

    doc: str = ""
    place: str = ""
    tag: str = ""
    phase: Phase = "forward"


NOT_SOWN = Source()
"""The source of a value that was not sown."""


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Note:
    """A note on a sown value. All notes are equal: the traced program does not depend on them.

    Attributes:
        source: the sow.
        order: the position among all sows of the process; that of a transform's sows is where it is bound.
        group: the position of the outermost loop around the sow, else its own.
    """

    source: Source = NOT_SOWN
    order: int = 0
    group: int = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Note)

    def __hash__(self) -> int:
        return hash(Note)

    def now(self) -> "Note":
        """Return the note of a sow that runs now."""
        order = next(_orders)
        return Note(self.source, order, order)


NO_NOTE = Note()
