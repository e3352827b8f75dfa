"""Where a NaN or an infinity began: the first logged value in the order of execution that is not finite.

A record has the values of a step, and the notes of their tags have the order of execution. So the origin
costs nothing on the device, and one sum a record on the writer thread. Ranges of values before come from the
last records, which are kept as they are.
"""

import dataclasses
import itertools
import math
from collections import deque
from collections.abc import Callable
from typing import Literal, final

import numpy as np
from numpy.typing import NDArray

from sowlog._log.sinks import count_of
from sowlog._reduce.basic import nonfinite
from sowlog._reduce.notes import Phase
from sowlog._tree.layout import PresentTags
from sowlog._tree.sites import Site, site_of
from sowlog.writers.record import Record

OnNonfinite = Literal["warn", "raise", "ignore"] | Callable[["NonfiniteOrigin"], object]

TAG = "sowlog/nonfinite"
"""The tag of the text that TensorBoard shows."""

_Counts = NDArray[np.bool_] | None
"""Which tags are of numbers of elements that are not finite; None if none is."""

_KEPT = 16
_AROUND = 5
_LISTED = 20


def check_on_nonfinite(on_nonfinite: object) -> None:
    """Raise if a rule is none.

    Raises:
        ValueError: It is neither one of the names nor a function.
    """
    if on_nonfinite not in ("warn", "raise", "ignore") and not callable(on_nonfinite):
        raise ValueError(
            f'on_nonfinite is {on_nonfinite!r}: it must be "warn", "raise", "ignore", or a function of the '
            "origin."
        )


class NonfiniteWarning(RuntimeWarning):
    """A logged value became NaN or infinite.

    Example:
        >>> import sowlog, sowlog.testing, warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", sowlog.NonfiniteWarning)
        ...     with sowlog.Logger("unused", writers=[sowlog.testing.MemoryWriter()]) as log:
        ...         log(3, {"loss": float("nan")})
        Traceback (most recent call last):
            ...
        sowlog.NonfiniteWarning: at step 3 loss became nan...
    """


class NonfiniteError(ArithmeticError):
    """A logged value became NaN or infinite, and the logger raises then (`on_nonfinite="raise"`).

    Attributes:
        origin: the first value that is not finite.

    Example:
        >>> import sowlog, sowlog.testing
        >>> log = sowlog.Logger("unused", writers=[sowlog.testing.MemoryWriter()], on_nonfinite="raise")
        >>> log(3, {"loss": float("inf")})
        >>> try:
        ...     log.close()
        ... except sowlog.NonfiniteError as error:
        ...     error.origin.step, error.origin.tag
        (3, 'loss')
    """

    def __init__(self, origin: "NonfiniteOrigin") -> None:
        super().__init__(str(origin))
        self.origin = origin


@final
@dataclasses.dataclass(frozen=True)
class Neighbor:
    """A value sown next to the origin, and its range before.

    Attributes:
        tag: its tag.
        low: the smallest finite value in the last records before; NaN if there was none.
        high: the largest.
        value: its value at the step of the origin.
    """

    tag: str
    low: float
    high: float
    value: float


@final
@dataclasses.dataclass(frozen=True)
class NonfiniteOrigin:
    """The first value of a step, in the order of execution, that became NaN or infinite.

    Values that are not sown, such as a number in the dict that is logged, have no place in that order; they
    come after those of the forward pass and the losses.

    Attributes:
        step: the step that was logged.
        tag: the tag of the value.
        value: NaN, an infinity, or a number of such elements where that is the statistic.
        phase: the part of the step; None where the value was not sown.
        path: the path of the module or scope; empty for the outermost, and where the value was not sown.
        layer: the index of the layer, or indices of nested ones, of a value stacked over layers.
        place: the file and line of the sow; empty for a watch, an observer, and a value that was not sown.
        neighbors: up to five values before it and five behind it in the order of execution, and itself.
        others: the tags of the other values of the step that became NaN or infinite.
        finite: of the same part of the step, the tags that stayed finite: of a gradient, its finite modules.

    Example:
        >>> import jax.numpy as jnp, sowlog, sowlog.testing
        >>> def model(x):
        ...     with sowlog.scope("encoder"):
        ...         sowlog.sow("size", x, sowlog.max)
        ...         sowlog.sow("entropy", jnp.log(x))
        ...     return jnp.log(x)
        >>> origins = []
        >>> memory = sowlog.testing.MemoryWriter()
        >>> with sowlog.Logger("unused", writers=[memory], on_nonfinite=origins.append) as log:
        ...     for step, x in enumerate([2.0, 1.0, 0.0]):
        ...         y, updates = sowlog.collect(model)(x)
        ...         log(step, updates["metrics"])
        >>> print(origins[0])
        at step 2 encoder/entropy became -inf (forward pass, encoder, sown in ...). Before, it was in ...
    """

    step: int
    tag: str
    value: float
    phase: Phase | None
    path: str
    layer: tuple[int, ...]
    place: str
    neighbors: tuple[Neighbor, ...]
    others: tuple[str, ...]
    finite: tuple[str, ...]

    def __str__(self) -> str:
        own = next(neighbor for neighbor in self.neighbors if neighbor.tag == self.tag)
        before = "" if math.isnan(own.low) else f" Before, it was in [{own.low:.4g}, {own.high:.4g}]."
        rest = f" Not finite as well: {count_of(len(self.others), 'further value')}." if self.others else ""
        return f"{self._event()}{self._where()}.{before}{rest}"

    def _event(self) -> str:
        if math.isfinite(self.value):
            return f"at step {self.step} {self.tag} counts {self.value:g} elements that are not finite"
        return f"at step {self.step} {self.tag} became {self.value:g}"

    def _where(self) -> str:
        phase = f"{self.phase} pass" if self.phase in ("forward", "backward") else self.phase
        parts = (
            phase,
            self.path,
            f"layer {'/'.join(map(str, self.layer))}" if self.layer else "",
            self.place and f"sown in {self.place}",
        )
        found = ", ".join(filter(None, parts))
        return f" ({found})" if found else ""

    def markdown(self) -> str:
        """Return the report as Markdown, as TensorBoard's Text tab shows it."""
        report = str(self)
        rows = [
            f"| {_bold(one.tag) if one.tag == self.tag else one.tag} | {one.low:.4g} | {one.high:.4g} | "
            f"{one.value:.4g} |"
            for one in self.neighbors
        ]
        head = ["| in the order of execution | lowest before | highest before | now |", "|---|---|---|---|"]
        parts = [report[0].upper() + report[1:], "\n".join([*head, *rows])]
        if self.others:
            parts.append(f"Not finite as well: {_listed(self.others)}.")
        if self.finite:
            parts.append(f"Finite in the same phase: {_listed(self.finite)}.")
        return "\n\n".join(parts)


def _bold(text: str) -> str:
    return f"**{text}**"


def _listed(tags: tuple[str, ...]) -> str:
    more = len(tags) - _LISTED
    return ", ".join(tags[:_LISTED]) + (f" and {more} more" if more > 0 else "")


class Watcher:
    """Looks for values that become NaN or infinite, record by record.

    It reports the first such step, and is silent until the values of the report are finite again. A value
    that is infinite from its first record on, as the smallest logit behind a mask, is reported once, and does
    not silence others.
    """

    def __init__(self) -> None:
        self._kept: deque[tuple[tuple[str, ...], NDArray[np.float32]]] = deque(maxlen=_KEPT)
        self._bad: set[str] = set()
        self._silencing: set[str] = set()
        self._whole: tuple[str, ...] = ()
        self._counting = _counting(())

    def look(self, record: Record) -> NonfiniteOrigin | None:
        """Return the origin if values of a record became NaN or infinite."""
        tags, values = record.tags, record.values
        counts = self._counts_in(tags)
        origin = None if not self._bad and _is_fine(values, counts) else self._look_closely(record, counts)
        self._kept.append((tags, values))
        return origin

    def _counts_in(self, tags: tuple[str, ...]) -> _Counts:
        """Return which tags are of numbers of elements that are not finite."""
        whole = tags.whole if isinstance(tags, PresentTags) else tags
        # Records of one layout share the tuple of its tags.
        if whole is not self._whole:
            self._whole, self._counting = whole, _counting(whole)
        if self._counting is None or not isinstance(tags, PresentTags):
            return self._counting
        return self._counting[tags.present]

    def _look_closely(self, record: Record, counts: _Counts) -> NonfiniteOrigin | None:
        is_bad = ~np.isfinite(record.values)
        if counts is not None:
            is_bad |= counts & (record.values != 0)
        bad = set(itertools.compress(record.tags, is_bad.tolist()))
        new = bad - self._bad
        self._bad = (self._bad - set(record.tags)) | bad
        self._silencing &= self._bad
        if self._silencing or not new:
            return None
        self._silencing = {tag for tag in new if not math.isnan(self._range_of(tag)[0])}
        return self._origin(record, new)

    def _origin(self, record: Record, new: set[str]) -> NonfiniteOrigin:
        ordered = _in_order(record.tags)
        sites = dict(ordered)
        at = next(index for index, (tag, _) in enumerate(ordered) if tag in new)
        tag, site = ordered[at]
        values = dict(zip(record.tags, record.values.tolist(), strict=True))
        around = ordered[max(0, at - _AROUND) : at + _AROUND + 1]
        phase = site.source.phase if site else None
        return NonfiniteOrigin(
            record.step,
            tag,
            values[tag],
            phase,
            site.path if site else "",
            site.layers if site else (),
            site.source.place if site else "",
            tuple(Neighbor(near, *self._range_of(near), values[near]) for near, _ in around),
            tuple(other for other, _ in ordered if other in new and other != tag),
            tuple(
                other
                for other, of in sites.items()
                if of and phase and of.source.phase == phase and other not in self._bad
            ),
        )

    def _range_of(self, tag: str) -> tuple[float, float]:
        found = [
            float(values[tags.index(tag)])
            for tags, values in self._kept
            if tag in tags and math.isfinite(values[tags.index(tag)])
        ]
        return (min(found), max(found)) if found else (math.nan, math.nan)


def _is_fine(values: NDArray[np.float32], counts: _Counts) -> bool:
    """Return whether all values are surely finite, and no number of elements that are not is above 0."""
    # Squares of float32 do not overflow in float64. This takes half of the time of `isfinite`.
    wide = values.astype(np.float64)
    return math.isfinite(wide.dot(wide)) and (counts is None or not values[counts].any())


def _counting(tags: tuple[str, ...]) -> _Counts:
    counts = np.fromiter(map(_counts, tags), np.bool_, len(tags))
    return counts if counts.any() else None


def _counts(tag: str) -> bool:
    site = site_of(tag)
    # Of a histogram, such a number is logged behind its tag.
    return tag.endswith("/nonfinite") or (site is not None and site.reducer == nonfinite)


def _in_order(tags: tuple[str, ...]) -> list[tuple[str, Site | None]]:
    """Return tags and their sites in the order of execution; values that were not sown come after losses."""
    sites = [(tag, site_of(tag)) for tag in tags]
    return sorted(sites, key=lambda item: item[1].position if item[1] else (2, math.inf))
