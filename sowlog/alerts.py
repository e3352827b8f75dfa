"""Rules of alerts: a spike, a plateau, a stall, a falling rate, a value out of range.

`log.alert(rule, callback)` watches the logged scalars by a rule. A tag may be a glob, in which `*` is any
text within a part of the tag and `**` any number of parts: each matching tag is watched by itself. An alert
fires once, and again only after its condition has ended.

Example:
    >>> import sowlog, sowlog.testing
    >>> from sowlog import alerts
    >>> with sowlog.Logger("unused", writers=[]) as log:
    ...     log.alert(alerts.Range("loss", high=10), lambda alert: print(alert.message))
    ...     for step, loss in enumerate([1.0, 50.0, 60.0, 2.0, 70.0]):
    ...         log(step, {"loss": loss})
    loss is 50 at step 1, above 10.
    loss is 70 at step 4, above 10.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sowlog.writers._arguments import check_count

__all__ = ["Alert", "Falling", "Plateau", "Range", "Spike", "Stall"]


@dataclass(frozen=True)
class Range:
    """A value below `low`, above `high`, or NaN; over once a value is in the range.

    Args:
        tag: the tag, or a glob of tags.
        low: the lowest value in the range.
        high: the highest value in the range.

    Raises:
        TypeError: The tag is not text, or a bound is not a number.
        ValueError: The tag is empty, or the range is.

    Example:
        >>> import sowlog
        >>> sowlog.alerts.Range("*/entropy", low=0.1)
        Range(tag='*/entropy', low=0.1, high=inf)
    """

    tag: str
    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        _check_tag(self)
        _check_number(self, "low")
        _check_number(self, "high")
        if not self.low <= self.high:
            raise ValueError(
                f"the range of {self.tag} is empty: low={self.low} must be at most high={self.high}."
            )


@dataclass(frozen=True)
class Spike:
    """A value far from the last ones, by robust statistics.

    A value x is a spike if |x - m| > threshold * s, on the chosen side of m. m is the median of the last
    `window` values before it, and s = max(1.4826 * median |x_i - m|, 0.01 |m|). 1.4826 times the median
    absolute deviation estimates the standard deviation of normal noise (Rousseeuw and Croux 1993), and few
    spikes in the window change it little. No value is judged before a quarter of the window is filled, and at
    least 5 values. NaN and infinities are spikes and do not enter the window; all other values
    do, so a new level is normal after half a window. The alert is over at |x - m| <= threshold / 2 * s.

    Args:
        tag: the tag, or a glob of tags.
        threshold: robust standard deviations between the median and a spike.
        window: the number of values that the statistics are of.
        side: "above" the median, "below" it, or "both".

    Raises:
        TypeError: An argument has another type.
        ValueError: An argument is out of range.

    Example:
        >>> import sowlog
        >>> sowlog.alerts.Spike("norm/grads", threshold=20)
        Spike(tag='norm/grads', threshold=20, window=64, side='above')
    """

    tag: str
    threshold: float = 10.0
    window: int = 64
    side: Literal["above", "below", "both"] = "above"

    def __post_init__(self) -> None:
        _check_tag(self)
        _check_number(self, "threshold")
        if not 0 < self.threshold < math.inf:
            raise ValueError(f"threshold is {self.threshold}; it must be a positive number.")
        _check_window(self, "it must have at least 5 values")
        if self.window < 5:
            raise ValueError(f"window is {self.window}; it must have at least 5 values.")
        if self.side not in ("above", "below", "both"):
            raise ValueError(f"side is {self.side!r}; choose one of above, below, both.")


@dataclass(frozen=True)
class Plateau:
    """Values that no longer improve.

    The values are cut into windows. A window is an improvement if its median is better than the best median
    before by more than min_change * |best|; slow progress adds up, as the best stays the last improvement.
    The alert fires at the end of a window that is none, and is over at the next one that is.

    Args:
        tag: the tag, or a glob of tags.
        window: the number of values in a window, more than the period of the noise.
        min_change: the least improvement, as a share of the best median.
        better: "lower" or "higher", the direction of an improvement.

    Raises:
        TypeError: An argument has another type.
        ValueError: An argument is out of range.

    Example:
        >>> import sowlog
        >>> sowlog.alerts.Plateau("eval/accuracy", window=5, better="higher")
        Plateau(tag='eval/accuracy', window=5, min_change=0.001, better='higher')
    """

    tag: str
    window: int = 500
    min_change: float = 0.001
    better: Literal["lower", "higher"] = "lower"

    def __post_init__(self) -> None:
        _check_tag(self)
        _check_window(self, "it must have at least 1 value")
        _check_number(self, "min_change")
        if not 0 <= self.min_change < math.inf:
            raise ValueError(f"min_change is {self.min_change}; it must be 0 or a positive number.")
        if self.better not in ("lower", "higher"):
            raise ValueError(f"better is {self.better!r}; choose lower or higher.")


@dataclass(frozen=True)
class Falling:
    """A rate that falls, such as steps per second.

    The alert fires if the median of the last `window` values is below 1 - drop of the highest such median so
    far, and is over once the median is above 1 - drop / 2 of it. The median ignores single slow values, as
    around an evaluation. Nothing falls from an infinite rate, or from one of 0 or less.

    Args:
        tag: the tag of the rate, or a glob of tags.
        drop: the share of the rate that is lost, between 0 and 1.
        window: the number of values that the median is of.

    Raises:
        TypeError: An argument has another type.
        ValueError: An argument is out of range.

    Example:
        >>> import sowlog
        >>> sowlog.alerts.Falling("rates/steps_per_s", drop=0.3)
        Falling(tag='rates/steps_per_s', drop=0.3, window=5)
    """

    tag: str
    drop: float = 0.5
    window: int = 5

    def __post_init__(self) -> None:
        _check_tag(self)
        _check_number(self, "drop")
        if not 0 < self.drop < 1:
            raise ValueError(f"drop is {self.drop}; it must be between 0 and 1.")
        _check_window(self, "it must have at least 1 value")


@dataclass(frozen=True)
class Stall:
    """No step for some seconds, because training, its data or the device hangs.

    The clock begins at the first logged step, so the compilation before it does not count, and starts again
    whenever the metrics of a step, of training or evaluation, have arrived from the device. Texts, images and
    hyperparameters are no step. A writer that hangs, as on a lost network disk, holds the thread that reads
    the clock, and is not a stall.

    Args:
        seconds: the time without a step.

    Raises:
        TypeError: The time is not a number.
        ValueError: The time is not positive.

    Example:
        >>> import sowlog
        >>> sowlog.alerts.Stall(300)
        Stall(seconds=300)
    """

    seconds: float

    def __post_init__(self) -> None:
        _check_number(self, "seconds")
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"seconds is {self.seconds}; it must be a positive number.")


Rule = Range | Spike | Plateau | Falling | Stall
"""The rules that `log.alert` takes."""


@dataclass(frozen=True)
class Alert:
    """A rule whose condition holds, at the first step of it.

    Attributes:
        rule: the rule.
        tag: the tag of the scalar; None for a stall.
        step: the step of the value; for a stall the last step that was read.
        value: the value; for a plateau the median of the window, for a falling rate that of the last values,
            and for a stall the seconds without a step.
        message: the alert in one sentence.

    Example:
        >>> import sowlog
        >>> fired = []
        >>> with sowlog.Logger("unused", writers=[]) as log:
        ...     log.alert(sowlog.alerts.Range("accuracy", low=0.5), fired.append)
        ...     log(7, {"accuracy": 0.25})
        >>> fired[0].tag, fired[0].step, fired[0].value
        ('accuracy', 7, 0.25)
    """

    rule: Rule
    tag: str | None
    step: int
    value: float
    message: str


Callback = Callable[[Alert], Any]
"""The function that is called with each alert of a rule."""


def _check_tag(rule: Any) -> None:
    if not isinstance(rule.tag, str):
        raise TypeError(f"the tag of a {type(rule).__name__} is {rule.tag!r}; pass a tag, or a glob of tags.")
    if not all(rule.tag.split("/")):
        raise ValueError(
            f"the tag of a {type(rule).__name__} is {rule.tag!r}, with an empty part; write loss or eval/*."
        )


def _check_window(rule: Any, least: str) -> None:
    """Set the window of a rule to a Python integer."""
    object.__setattr__(rule, "window", check_count(rule.window, "window", least))


def _check_number(rule: Any, name: str) -> None:
    """Set a number of a rule to one of Python."""
    value = getattr(rule, name)
    if isinstance(value, np.integer | np.floating):
        object.__setattr__(rule, name, value.item())
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is {value!r}, a {type(value).__name__}; it must be a number.")
