"""Alarms: the rules of alerts on the records of a run, and on the time without one."""

from __future__ import annotations

import difflib
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from sowlog._log.detectors import Detector, TagRule, detector_of
from sowlog._printable import describe_cause
from sowlog._tree.globs import deeper, pattern_of
from sowlog._tree.identity import ByIdentity
from sowlog._tree.layout import PresentTags
from sowlog.alerts import Alert, Callback, Rule, Stall
from sowlog.writers.record import Record

# Tags that the warning of an absent one names.
_NAMED = 20


class AlertWarning(UserWarning):
    """An alert without a callback, or a rule whose tag was never logged.

    Example:
        >>> import warnings, sowlog
        >>> with warnings.catch_warnings(record=True) as issued:
        ...     warnings.simplefilter("always")
        ...     with sowlog.Logger("unused", writers=[]) as log:
        ...         log.alert(sowlog.alerts.Range("loss", high=10))
        ...         log(0, {"loss": 50.0})
        >>> print(issued[0].message)
        loss is 50 at step 0, above 10.
    """


class AlertError(RuntimeError):
    """The callback of an alert raised an exception, which is the cause of this error.

    A callback runs on the thread of the logger, and the next call of the logger raises the error: so a
    callback that raises ends a training that does not catch it.

    Attributes:
        alert: the alert.

    Example:
        >>> import sowlog
        >>> def stop(alert):
        ...     raise SystemExit("the loss explodes")
        >>> with sowlog.Logger("unused", writers=[]) as log:
        ...     log.alert(sowlog.alerts.Range("loss", high=10), stop)
        ...     log(0, {"loss": 50.0})
        ...     log.flush()
        Traceback (most recent call last):
            ...
        sowlog.AlertError: the callback of an alert failed with SystemExit: the loss explodes. The alert: ...
    """

    def __init__(self, message: str, alert: Alert) -> None:
        super().__init__(message)
        self.alert = alert

    def __reduce__(self) -> tuple[Any, ...]:
        # By default an exception is made anew from its message alone.
        return AlertError, (str(self), self.alert)


class Alarms:
    """The rules of a logger, their state, and their alerts.

    All calls but `add` are made on the thread of the logger.

    Args:
        clock: seconds of a clock that never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._of_tags: tuple[_TagAlarm, ...] = ()
        self._of_stalls: tuple[_StallAlarm, ...] = ()
        self._tags: set[str] = set()
        self._layouts = _Layouts()
        self._seen: float | None = None
        self._step = 0

    def add(self, rule: Rule, callback: Callback | None) -> None:
        """Add a rule, for the records that are read from now on; called from any thread."""
        # One assignment each, so that the other thread finds a whole tuple. No layout is known yet with the
        # new rule, and a new cache leaves the other thread the one that it reads.
        if isinstance(rule, Stall):
            self._of_stalls = (*self._of_stalls, _StallAlarm(rule, callback))
        else:
            self._of_tags = (*self._of_tags, _TagAlarm(rule, callback))
            self._layouts = _Layouts()

    @property
    def has_rules(self) -> bool:
        """Whether a rule is to see the records."""
        return bool(self._of_tags or self._of_stalls)

    @property
    def has_begun(self) -> bool:
        """Whether the clock of stalls runs."""
        return self._seen is not None

    def begin(self, step: int) -> None:
        """Start the clock of stalls, if it does not run yet, at the first step that is logged."""
        if self._seen is None:
            self._seen, self._step = self._clock(), step

    def observe(self, record: Record) -> list[Fired]:
        """Return the alerts that fire at a record."""
        # A text or a picture comes before the first step, too, and while training hangs.
        is_step = not (record.is_of_run or record.images or record.texts or record.pr_curves)
        if not is_step or not self.has_rules:
            return []
        self._seen, self._step = self._clock(), record.step
        for alarm in self._of_stalls:
            alarm.is_on = False
        fired: list[Fired] = []
        for index, series in self._present(record.tags):
            series.alarm.has_values = True
            alert = series.observe(record.step, float(record.values[index]))
            if alert is not None:
                fired.append(Fired(alert, series.alarm.callback))
        return fired

    def observe_time(self) -> list[Fired]:
        """Return the stalls that fire now."""
        if self._seen is None:
            return []
        seconds = self._clock() - self._seen
        due = [alarm for alarm in self._of_stalls if not alarm.is_on and seconds >= alarm.rule.seconds]
        for alarm in due:
            alarm.is_on = True
        return [Fired(_stalled(alarm.rule, self._step, seconds), alarm.callback) for alarm in due]

    def next_stall(self) -> float | None:
        """Return the seconds until a stall may fire; None if none can before the next record."""
        waiting = [alarm.rule.seconds for alarm in self._of_stalls if not alarm.is_on]
        if self._seen is None or not waiting:
            return None
        return max(0.0, self._seen + min(waiting) - self._clock())

    def absent(self) -> AlertWarning | None:
        """Return the warning of rules that never had a value, in a run that logged scalars."""
        absent = dict.fromkeys(alarm.rule.tag for alarm in self._of_tags if alarm.is_absent)
        if not absent or not self._tags:
            return None
        tags = sorted(self._tags)
        shown = f"{', '.join(tags[:_NAMED])}{f' and {len(tags) - _NAMED} more' * (len(tags) > _NAMED)}"
        rules = ", ".join(f"{tag}{_did_you_mean(tag, tags)}" for tag in absent)
        return AlertWarning(
            f"no alert could fire for {rules}: no scalar of that tag was logged. The tags are {shown}."
        )

    def _present(self, tags: tuple[str, ...]) -> list[tuple[int, _Series]]:
        """Return the series of the tags of a step, each with the position of its value."""
        layouts = self._layouts
        if not isinstance(tags, PresentTags):
            return layouts.find(tags, self._series_of)
        positions = np.cumsum(tags.present) - 1
        return [
            (int(positions[index]), series)
            for index, series in layouts.find(tags.whole, self._series_of)
            if tags.present[index]
        ]

    def _series_of(self, tags: tuple[str, ...]) -> list[tuple[int, _Series]]:
        self._tags.update(tags)
        for alarm in self._of_tags:
            alarm.has_steps = True
        return [
            (index, alarm.series_of(tag))
            for alarm in self._of_tags
            for index, tag in enumerate(tags)
            if alarm.matches(tag)
        ]


class Fired(NamedTuple):
    """An alert, and the callback of its rule."""

    alert: Alert
    callback: Callback | None

    @property
    def tag(self) -> str:
        """The tag of its text."""
        kind = type(self.alert.rule).__name__.lower()
        return f"alerts/{kind}" if self.alert.tag is None else f"alerts/{kind}/{self.alert.tag}"

    def record(self) -> Record:
        """Return the record of its text."""
        texts = {self.tag: self.alert.message}
        return Record(self.alert.step, time.time(), texts=texts, is_of_logger=True)


def call_back(fired: Iterable[Fired]) -> Iterator[Exception]:
    """Call the callbacks of alerts; yield the errors and warnings to hand to the training thread."""
    without: list[Alert] = []
    for alert, callback in fired:
        if callback is not None:
            try:
                callback(alert)
            except BaseException as error:
                yield _callback_error(alert, error)
        elif isinstance(alert.rule, Stall):
            # The next call of a training thread that hangs may never come.
            try:
                warnings.warn(AlertWarning(alert.message), stacklevel=2)
            except AlertWarning as error:
                yield error
        else:
            without.append(alert)
    if without:
        yield AlertWarning("\n".join(alert.message for alert in without))


class _TagAlarm:
    """A rule on tags, with a series for each tag that it matches."""

    def __init__(self, rule: TagRule, callback: Callback | None) -> None:
        self.rule, self.callback = rule, callback
        self.has_steps = self.has_values = False
        self.series: dict[str, _Series] = {}
        self._expression = pattern_of(rule.tag)

    @property
    def is_absent(self) -> bool:
        """Whether steps have come since the rule was added, and none of its values."""
        return self.has_steps and not self.has_values

    def matches(self, tag: str) -> bool:
        return self._expression.fullmatch(tag) is not None

    def series_of(self, tag: str) -> _Series:
        if tag not in self.series:
            self.series[tag] = _Series(self, tag)
        return self.series[tag]


class _StallAlarm:
    """A rule on the time without a step; `is_on` once it has fired."""

    def __init__(self, rule: Stall, callback: Callback | None) -> None:
        self.rule, self.callback, self.is_on = rule, callback, False


class _Series:
    """The values of one tag under one rule."""

    def __init__(self, alarm: _TagAlarm, tag: str) -> None:
        self.alarm = alarm
        self._tag = tag
        self._detector: Detector = detector_of(alarm.rule)
        self._is_on = False

    def observe(self, step: int, value: float) -> Alert | None:
        """Return the alert that fires at the next value, if one does."""
        was_on, found = self._is_on, self._detector.find(value, is_on=self._is_on)
        self._is_on = found is not None
        if found is None or was_on:
            return None
        reason = f", {found.reason}" if found.reason else ""
        message = f"{self._tag} {found.verb} {found.value:.6g} at step {step}{reason}."
        return Alert(self.alarm.rule, self._tag, step, found.value, message)


_Layouts = ByIdentity[tuple[str, ...], list[tuple[int, _Series]]]
"""By the tags of a layout, the series of those that a rule matches, each with the position of its tag."""


def _stalled(rule: Stall, step: int, seconds: float) -> Alert:
    message = f"no step has come for {seconds:.3g} s since step {step}."
    return Alert(rule, None, step, seconds, message)


def _did_you_mean(tag: str, tags: Sequence[str]) -> str:
    glob = deeper(tag, tags)
    near = [glob] if glob else difflib.get_close_matches(tag, tags, 1)
    return f" (did you mean {near[0]}?)" if near else ""


def _callback_error(alert: Alert, cause: BaseException) -> AlertError:
    message = f"the callback of an alert failed with {describe_cause(cause)}. The alert: {alert.message}"
    error = AlertError(message, alert)
    error.__cause__ = cause
    return error
