"""Notes on sown values by tag: their meaning, place, and order of execution.

A note is made while a function is traced, and is no part of the traced program. The label of a sow carries
it, and the `collect` around the function registers it under the tag. The tags of a packed tree may have
further names in front (`{"train": updates["metrics"]}`) and behind (a layer, a quantile), so `pack` looks the
tag of a state up by its parts. A number that was not sown has no note, whatever its tag.
"""

import dataclasses
import functools
import itertools
import os
import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple, final

from sowlog._reduce.reducer import Reducer

Phase = Literal["input", "forward", "loss", "backward", "gradient", "update"]
"""The part of a step in which a value is computed, in the order of execution."""

PHASES: tuple[Phase, ...] = ("input", "forward", "loss", "backward", "gradient", "update")

_HERE = f"{Path(__file__).parents[1]}{os.sep}"
_FLAX = f"{os.sep}flax{os.sep}"
_SIZE = 10_000
_orders = itertools.count(1)


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Note:
    """A note on a sow, on its label. All notes are equal: the traced program does not depend on them.

    Attributes:
        doc: the description by the author of the sow.
        place: the file and line of the sow; empty for a value that a watch or an observer sows.
        reducer: the reducer; None for a loss and for a user's own functions.
        order: the position among all sows of the process; that of a transform's sows is where it is bound.
        group: the position of the outermost loop around the sow, else its own.
    """

    doc: str = ""
    place: str = ""
    reducer: Reducer | None = None
    order: int = 0
    group: int = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Note)

    def __hash__(self) -> int:
        return hash(Note)

    def now(self) -> "Note":
        """Return the note of a sow that runs now."""
        order = next(_orders)
        return Note(self.doc, self.place, self.reducer, order, order)


NO_NOTE = Note()


class Position(NamedTuple):
    """A position in the order of execution of a step: positions compare by it.

    Attributes:
        phase: the index in `PHASES`.
        group: the position of the outermost loop, or the sow.
        layers: the indices of loops that keep a state for each step; negative in the backward pass, which
            begins with the last.
        order: the position in the body of the loops.
    """

    phase: int
    group: int
    layers: tuple[int, ...]
    order: int


@final
@dataclasses.dataclass(frozen=True)
class Description:
    """A description of the values under one tag.

    Attributes:
        doc: the text that the sow was given, `doc=`.
        unit: the unit: the text in the last square brackets of `doc`.
        reducer: the reducer that accumulates the values.
        kind: "scalar", "histogram" or "loss".
        phase: the part of a step that computes the value.
        place: the file and line of the sow; empty where a watch or an observer sows.

    Example:
        >>> import sowlog
        >>> def model(x):
        ...     sowlog.sow("size", x, sowlog.max, doc="The largest activation [1]. Ideal: below 10.")
        ...     return x
        >>> y, updates = sowlog.collect(model)(2.0)
        >>> description = sowlog.describe(updates["metrics"])["size"]
        >>> description.unit, description.reducer, description.phase
        ('1', 'max', 'forward')
    """

    doc: str = ""
    unit: str = ""
    reducer: str = ""
    kind: Literal["scalar", "histogram", "loss"] = "scalar"
    phase: Phase = "forward"
    place: str = ""

    def __str__(self) -> str:
        what = self.reducer and f"Reducer: {self.reducer}."
        where = self.place and f"Sown in {self.place}."
        return " ".join(filter(None, (self.doc, what, where)))


@final
@dataclasses.dataclass(frozen=True)
class _Entry:
    note: Note
    phase: Phase
    is_loss: bool


_entries: dict[str, _Entry] = {}
"""The notes by the tag of the sow."""

_packed: dict[str, str] = {}
"""The tags of sows by the tags of packed results."""


def register(tag: str, note: Note, phase: Phase, *, is_loss: bool = False) -> None:
    """Set the note of a sown tag; a later one replaces it."""
    _set(_entries, tag, _Entry(note, phase, is_loss))


def register_packed(tag: str, known: str | None = None) -> None:
    """Note that a result of a state is packed under a tag; `known` is its tag in an inner packed tree."""
    sown = _sown_tag(tag) if known is None else _packed.get(known)
    if sown is not None:
        _set(_packed, tag, sown)


def _set(table: dict[str, Any], tag: str, value: Any) -> None:
    while len(table) >= _SIZE and tag not in table:
        # Names that change from step to step must not fill the memory. Another thread may have cleared some.
        table.pop(next(iter(table)), None)
    table[tag] = value


def _sown_tag(tag: str) -> str | None:
    parts = tag.split("/")
    names = ("/".join(parts[i:j]) for i in range(len(parts)) for j in range(len(parts), i, -1))
    return next((name for name in names if name in _entries), None)


def place_of_caller() -> str:
    """Return the file and line of the innermost frame outside of sowlog and Flax."""
    frame: Any = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_HERE) and _FLAX not in file:
            return f"{_short(file)}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


@functools.lru_cache(maxsize=1024)
def _short(file: str) -> str:
    """Return a path below the working directory, or else its last two names."""
    here = f"{Path.cwd()}{os.sep}"
    return file[len(here) :] if file.startswith(here) else str(Path(*Path(file).parts[-2:]))


def find(tag: str) -> "Site | None":
    """Return the site of the value under a packed tag; None if it was not sown."""
    sown = _packed.get(tag, "")
    entry = _entries.get(sown)
    if entry is None:
        return None
    rest = f"{tag}/".rpartition(f"{sown}/")[2].split("/")
    layers = tuple(int(part) for part in rest if part.isdecimal())
    return Site(tag, sown.rpartition("/")[0], entry, layers)


@final
@dataclasses.dataclass(frozen=True)
class Site:
    """The place in the program of the values under one tag.

    Attributes:
        tag: the logged tag.
        path: the path of the module or scope.
        layers: the indices of the layer in the tag.
    """

    tag: str
    path: str
    _entry: _Entry
    layers: tuple[int, ...]

    @property
    def phase(self) -> Phase:
        """The part of the step."""
        return self._entry.phase

    @property
    def reducer(self) -> Reducer | None:
        """The reducer; None for a loss, and for a user's own functions."""
        return self._entry.note.reducer

    @property
    def place(self) -> str:
        """The file and line of the sow."""
        return self._entry.note.place

    @property
    def position(self) -> Position:
        """The position in the order of execution."""
        note, phase = self._entry.note, self.phase
        layers = tuple(-layer for layer in self.layers) if phase == "backward" else self.layers
        return Position(PHASES.index(phase), note.group, layers, note.order)

    def description(self, *, is_histogram: bool = False) -> Description:
        """Return the description."""
        note = self._entry.note
        unit = note.doc.rpartition("[")[2].partition("]") if "[" in note.doc else ("", "", "")
        return Description(
            note.doc,
            unit[0] if unit[1] else "",
            "" if note.reducer is None else repr(note.reducer),
            "loss" if self._entry.is_loss else "histogram" if is_histogram else "scalar",
            self.phase,
            note.place,
        )
