"""Tags of sown values, which know the site of the sow: its meaning, place, and order of execution.

A tag may have further names in front (`{"train": updates["metrics"]}`) and behind (a layer, a quantile). It
is a str to every writer. So two models may sow under one tag, and a number that was not sown has no site,
whatever its tag.
"""

import dataclasses
from typing import Literal, NamedTuple, final

from sowlog._reduce.notes import PHASES, Note, Phase, Source
from sowlog._reduce.reducer import Reducer


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
class Site:
    """The place in the program of the values under one tag.

    Attributes:
        note: the note of the sow.
        reducer: the reducer; None for a loss.
        layers: the indices of the layer in the tag.
    """

    note: Note
    reducer: Reducer | None
    layers: tuple[int, ...] = ()

    @property
    def source(self) -> Source:
        """The sow."""
        return self.note.source

    @property
    def path(self) -> str:
        """The path of the module or scope."""
        return self.source.tag.rpartition("/")[0]

    @property
    def position(self) -> Position:
        """The position in the order of execution."""
        phase = self.source.phase
        layers = tuple(-layer for layer in self.layers) if phase == "backward" else self.layers
        return Position(PHASES.index(phase), self.note.group, layers, self.note.order)

    def description(self, *, is_histogram: bool = False) -> Description:
        """Return the description."""
        doc, place, _, phase = self.source
        unit = doc.rpartition("[")[2].partition("]") if "[" in doc else ("", "", "")
        return Description(
            doc,
            unit[0] if unit[1] else "",
            "" if self.reducer is None else repr(self.reducer),
            "loss" if phase == "loss" else "histogram" if is_histogram else "scalar",
            phase,
            place,
        )


@final
class Tag(str):
    """The tag of a sown value: a str, equal to any other of its text.

    Attributes:
        site: the site of the sow.
    """

    site: Site

    @classmethod
    def of(cls, text: str, site: Site | None) -> str:
        """Return a tag; a plain str without a site."""
        if site is None:
            return text
        tag = cls(text)
        tag.site = site
        return tag


def site_of(tag: str) -> Site | None:
    """Return the site of the value under a tag; None if it was not sown."""
    return tag.site if isinstance(tag, Tag) else None


def source_of(tag: str) -> Source | None:
    """Return the sow of the value under a tag; None if it was not sown."""
    return tag.site.source if isinstance(tag, Tag) else None
