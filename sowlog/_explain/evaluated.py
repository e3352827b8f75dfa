"""Values of an evaluation, with the trail of a NaN or an infinity, and the places of their equations."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sowlog._explain import arrays, origins
from sowlog._explain.arrays import Rows
from sowlog._explain.origins import CAPTURED, CONSTANT, NAN, Event, Trail
from sowlog._explain.report import NonfiniteReport, Transform
from sowlog._explain.source_lines import line_of
from sowlog._explain.spaces import Whole


class Value(NamedTuple):
    """An array in the evaluation.

    Attributes:
        array: the array, in a shard_map with the shards along a first axis.
        trail: where a NaN or an infinity in it is from; None if it is finite.
        is_constant: whether it depends on nothing but numbers written in the program.
    """

    array: Any
    trail: Trail | None = None
    is_constant: bool = False


WHOLE = Whole()


@dataclasses.dataclass(frozen=True)
class Place:
    """The surroundings of a jaxpr: name stacks, loops and branches, the user's line, and a shard_map."""

    names: tuple[str, ...] = ()
    within: tuple[Transform, ...] = ()
    line: str = ""
    space: Whole = WHOLE

    def inside(self, equation: Any, *, index: int | None = None, length: int | None = None) -> "Place":
        """Return the place of a jaxpr that an equation holds, of an iteration or branch of it."""
        line = line_of(equation) or self.line
        names = (*self.names, str(equation.source_info.name_stack))
        if index is None:
            return dataclasses.replace(self, names=names, line=line)
        around = Transform(equation.primitive.name, index, length, line)
        return dataclasses.replace(self, names=names, line=line, within=(*self.within, around))


def given(array: Any, origin: str, name: str = "") -> Value:
    """Return the value of an argument or a constant."""
    (kinds,) = arrays.kinds([array])
    is_constant = origin == CONSTANT
    if not kinds:
        return Value(array, None, is_constant)
    kind = NAN if NAN in kinds else min(kinds)
    found = arrays.describe(kind, [], Rows(WHOLE.rows_of(array)))
    report = NonfiniteReport(kind, origin, name, **found)
    return Value(array, Trail(kinds, Event(0, report, (), is_constant)), is_constant)


def captured(array: Any, place: Place) -> Value:
    """Return the value of an array that the function closes over, or of a number written in the program."""
    value = given(array, CAPTURED if np.shape(array) else CONSTANT)
    return value._replace(array=place.space.lifted(array))


def rows_of(atom: Any, array: Any, place: Place) -> Rows:
    rows = place.space.rows_of(array)
    axes = place.space.axes_of(atom.aval)
    return Rows(rows, axes if math.prod(size for _, size in axes) == len(rows) else ())


def element(x: Value, index: int, place: Place) -> Value:
    array = place.space.element(x.array, index)
    if x.trail is None:
        return x._replace(array=array)
    (kinds,) = arrays.kinds([array])
    return x._replace(array=array, trail=origins.part(x.trail, index, kinds) if kinds else None)


def stacked(values: Sequence[Value], place: Place) -> Value:
    trails = {index: value.trail for index, value in enumerate(values) if value.trail is not None}
    constant = all(value.is_constant for value in values)
    array = place.space.stacked([value.array for value in values])
    return Value(array, origins.join(trails), constant)
