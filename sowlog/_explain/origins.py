"""The flow of NaN and infinity through a function: its events, and the search back to the first of them."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from sowlog._explain.report import NonfiniteReport

NAN = "nan"
INFINITIES = frozenset({"+inf", "-inf"})
ARGUMENT, CAPTURED, CONSTANT, EQUATION = "argument", "captured array", "constant", "equation"

Kinds = frozenset[str]
"""Some of "nan", "+inf" and "-inf"."""


class Trail(NamedTuple):
    """The kinds in a value that is not finite, and the event that it comes from."""

    kinds: Kinds
    event: "Event"


@dataclasses.dataclass(frozen=True, eq=False)
class Event:
    """An equation with a result that is not finite, or an argument or constant that is not.

    Attributes:
        order: the position in the order of execution; arguments and constants come before all equations.
        report: the report of this event, complete for one that may be an origin.
        operands: the trails of its operands.
        is_constant: whether it depends on nothing but numbers written in the program.
        parts: the trails of the steps of a loop, whose stacked results this is.
    """

    order: int
    report: NonfiniteReport
    operands: tuple[Trail, ...] = ()
    is_constant: bool = False
    parts: Mapping[int, Trail] | None = None

    @property
    def is_join(self) -> bool:
        """Whether it only puts the results of steps together."""
        return self.parts is not None


def join(parts: Mapping[int, Trail]) -> Trail | None:
    """Return the trail of the stacked results of the steps of a loop."""
    if not parts:
        return None
    trails = tuple(parts.values())
    kinds = frozenset[str]().union(*(trail.kinds for trail in trails))
    constant = all(trail.event.is_constant for trail in trails)
    return Trail(kinds, Event(0, NonfiniteReport(), trails, constant, MappingProxyType(dict(parts))))


def part(trail: Trail, index: int, kinds: Kinds) -> Trail:
    """Return the trail of one step's part of stacked values, which has some kinds."""
    if trail.event.parts and index in trail.event.parts:
        return trail.event.parts[index]
    return Trail(kinds, trail.event)


def makes(kinds: Kinds, operands: Iterable[Trail], *, is_constant: bool) -> str | None:
    """Return the kind that an equation makes or, of a constant, introduces; None if its operands have it."""
    operands = list(operands)
    nans, infinities = _of(operands, NAN), _of(operands, *INFINITIES)
    if NAN in kinds and (not nans or _introduces(nans, is_constant=is_constant)):
        return NAN
    made = kinds & INFINITIES
    if made and (not operands or (infinities and _introduces(infinities, is_constant=is_constant))):
        return max(made) if len(made) == 1 else "+inf"
    return None


def _of(trails: Iterable[Trail], *kinds: str) -> list[Trail]:
    return [trail for trail in trails if not trail.kinds.isdisjoint(kinds)]


def _introduces(trails: list[Trail], *, is_constant: bool) -> bool:
    """Return whether an equation brings constants that are not finite into computed values."""
    return not is_constant and all(trail.event.is_constant for trail in trails)


class _Origin(NamedTuple):
    event: Event
    is_nan: bool
    is_fault: bool
    user: Event | None
    """The equation that takes it, for an argument or a constant."""


def first_origin(results: list[Trail], statistics: list[Trail]) -> NonfiniteReport | None:
    """Return the report of the first origin of a fault in the results; None if there is no fault.

    Args:
        results: the trails of results.
        statistics: those of the states of reducers, in which an infinity that is a constant is no fault.
    """
    faults = [origin for origin in _origins([*results, *statistics]) if origin.is_fault]
    found = faults or list(_origins(results))
    return None if not found else _report(min(found, key=_order))


def _order(origin: _Origin) -> tuple[bool, int, int]:
    is_constant = origin.event.report.origin == CONSTANT
    return is_constant, origin.event.order, 0 if origin.user is None else origin.user.order


def _report(origin: _Origin) -> NonfiniteReport:
    event, report = origin.event, origin.event.report
    if origin.user is not None:
        user = origin.user.report
        report = dataclasses.replace(
            report, source=user.source, module=user.module, phase=user.phase, within=user.within
        )
    if not origin.is_nan or report.origin != EQUATION:
        return report
    causes = list(_origins(_of(event.operands, *INFINITIES), user=event, nan=False))
    return dataclasses.replace(report, cause=_report(min(causes, key=_order))) if causes else report


def _origins(starts: list[Trail], *, user: Event | None = None, nan: bool = True) -> Iterator[_Origin]:
    """Yield the origins of values by a walk against the flow, which follows NaN and infinity apart."""
    waiting: list[tuple[Event, bool, Event | None]] = []

    def follow(trails: Iterable[Trail], user: Event | None, *, nan: bool, infinite: bool) -> None:
        for trail in trails:
            if nan and NAN in trail.kinds:
                waiting.append((trail.event, True, user))
            if infinite and trail.kinds & INFINITIES:
                waiting.append((trail.event, False, user))

    follow(starts, user, nan=nan, infinite=True)
    seen: set[tuple[int, bool]] = set()
    while waiting:
        event, is_nan, user = waiting.pop()
        if event.operands and (id(event), is_nan) in seen:
            continue
        seen.add((id(event), is_nan))
        nans, infinities = _of(event.operands, NAN), _of(event.operands, *INFINITIES)
        same, other = (nans, infinities) if is_nan else (infinities, nans)
        if event.is_join:
            follow(same, user, nan=is_nan, infinite=not is_nan)
        elif event.report.origin != EQUATION:
            is_fault = is_nan and event.report.origin != CONSTANT
            yield _Origin(event, is_nan, is_fault, user)
        elif same and not _introduces(same, is_constant=event.is_constant):
            follow(same, event, nan=is_nan, infinite=not is_nan)
        elif is_nan or same or not other:
            yield _Origin(event, is_nan, is_nan or not same, None)
            follow(other, event, nan=False, infinite=is_nan)
        else:
            follow(other, event, nan=True, infinite=False)
