"""Where a NaN or an infinity began: the first logged value in the order of execution that is not finite."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, final

from sowlog._log.sinks import count_of
from sowlog._reduce.notes import Phase

OnNonfinite = Literal["warn", "raise", "ignore"] | Callable[["NonfiniteOrigin"], object]

TAG = "sowlog/nonfinite"
"""The tag of the text that TensorBoard shows."""

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
