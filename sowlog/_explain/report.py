"""The report of `sowlog.explain_nonfinite`: the equation that made a NaN or an infinity, and its place."""

import dataclasses

INDENT = "\n  "
_SHOWN_RESULTS = 3


@dataclasses.dataclass(frozen=True)
class Operand:
    """An operand of an equation.

    Attributes:
        shape: the shape, on one shard in a shard_map.
        dtype: the dtype.
        min: the smallest finite element, None if there is none.
        max: the largest finite element, None if there is none.
        nans: the number of NaNs.
        infinities: the number of infinities.
    """

    shape: tuple[int, ...]
    dtype: str
    min: float | None
    max: float | None
    nans: int
    infinities: int

    def __str__(self) -> str:
        array = f"{self.dtype}[{','.join(map(str, self.shape))}]"
        finite = "" if self.min is None else f" from {self.min:.6g} to {self.max:.6g}"
        counts = [
            f"{count} {name}" for count, name in ((self.nans, "nan"), (self.infinities, "infinite")) if count
        ]
        return f"{array}{finite}" + (f" ({', '.join(counts)})" if counts else "")


@dataclasses.dataclass(frozen=True)
class Transform:
    """A loop or a branch around an equation.

    Attributes:
        name: "scan", "while" or "cond".
        index: the iteration, or the branch that was taken, from 0. In a reversed scan it is the place in the
            scanned arrays, so that it names a layer in the backward pass as well.
        length: the number of iterations of a scan, or of the branches of a cond; None for a while loop.
        source: the line of the user that has it.
    """

    name: str
    index: int
    length: int | None
    source: str

    def __str__(self) -> str:
        number = f"{self.index}" if self.length is None else f"{self.index} of 0..{self.length - 1}"
        return f"in {'branch' if self.name == 'cond' else 'iteration'} {number} of {self.name}, {self.source}"


@dataclasses.dataclass(frozen=True)
class NonfiniteReport:
    """The origin of a NaN or an infinity. It is true if one was found, and its str is for people.

    Attributes:
        kind: "nan", "+inf" or "-inf"; None if all results are finite.
        origin: "equation", or "argument", "captured array" or "constant" for a value that no equation made.
        name: the name of the primitive, or of the argument with its path.
        source: "file:line (function)" of the user's line, the first that computes with a value that no
            equation made; "" if unknown.
        module: the names of the modules (linen, nnx, Equinox) and scopes around the equation, joined by "/".
        phase: "forward", "backward", or "recomputation" for a forward value that the backward pass computes
            again, as under jax.checkpoint.
        within: the loops and branches around the equation, the outermost first.
        shard: the names of mesh axes and the index along each of the first shard, in a shard_map.
        operands: the operands, whose dtypes have numbers.
        result: the array that is not finite.
        index: the index of its first element of this kind; under vmap the first axes are the examples.
        results: the paths of the results of the function that are not finite.
        cause: the origin of the infinity from which a NaN was made; None if there is none.
    """

    kind: str | None = None
    origin: str = ""
    name: str = ""
    source: str = ""
    module: str = ""
    phase: str = ""
    within: tuple[Transform, ...] = ()
    shard: tuple[tuple[str, int], ...] = ()
    operands: tuple[Operand, ...] = ()
    result: Operand | None = None
    index: tuple[int, ...] | None = None
    results: tuple[str, ...] = ()
    cause: "NonfiniteReport | None" = None

    @property
    def found(self) -> bool:
        """Whether a result is not finite."""
        return self.kind is not None

    @property
    def iterations(self) -> tuple[int, ...]:
        """The iterations of the loops around the equation, the outermost first."""
        return tuple(around.index for around in self.within if around.name != "cond")

    @property
    def branches(self) -> tuple[int, ...]:
        """The branches that were taken around the equation, the outermost first."""
        return tuple(around.index for around in self.within if around.name == "cond")

    def __bool__(self) -> bool:
        return self.found

    def __str__(self) -> str:
        if not self.found:
            return (
                "All results are finite, evaluated equation by equation. "
                "A compiled function may round otherwise."
            )
        lines = [self._headline(), *self._place(), *self._numbers()]
        if self.cause is not None:
            lines += self.cause._as_cause()
        if self.results:
            more = len(self.results) - _SHOWN_RESULTS
            names = ", ".join(self.results[:_SHOWN_RESULTS]) + (f" and {more} more" if more > 0 else "")
            lines.append(f"reaches: {names}")
        return INDENT.join(lines)

    def _headline(self) -> str:
        at = f", {self.source}" if self.source else ""
        if self.origin == "equation":
            has_it = any(x.nans if self.kind == "nan" else x.infinities for x in self.operands)
            return f"{self.kind} {'taken from a constant' if has_it else 'made'} by {self.name}{at}"
        used = f", first used by {self.source}" if self.source else ""
        return f"{self.kind} in {_PLACES[self.origin]} {self.name}".rstrip() + used

    def _place(self) -> list[str]:
        lines = [f"module: {self.module}"] if self.module else []
        if self.phase:
            lines.append(f"pass: {_PASSES[self.phase]}")
        lines += map(str, self.within)
        if self.shard:
            lines.append("on shard " + ", ".join(f"{axis}={index}" for axis, index in self.shard))
        return lines

    def _numbers(self) -> list[str]:
        lines = ["operands: " + "; ".join(map(str, self.operands))] if self.operands else []
        if self.result is not None:
            at = "" if not self.index else f", the first {self.kind} at {list(self.index)}"
            lines.append(f"result: {self.result}{at}")
        return lines

    def _as_cause(self) -> list[str]:
        inside = "".join(f", {around}" for around in self.within)
        return [f"from: {self._headline()}{inside}"]


_PLACES = {
    "argument": "the argument",
    "captured array": "an array that the function closes over",
    "constant": "a number of the program",
}
_PASSES = {
    "forward": "forward",
    "backward": "backward",
    "recomputation": "backward, where a forward value is computed again",
}
