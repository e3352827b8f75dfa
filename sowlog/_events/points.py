"""The points and the other contents of one event."""

from __future__ import annotations

from typing import NamedTuple


class ScalarPoint(NamedTuple):
    """One scalar of an event file.

    Attributes:
        step: the step.
        tag: the tag.
        value: a float32 value, widened.
        wall_time: seconds since the epoch.
    """

    step: int
    tag: str
    value: float
    wall_time: float


class OtherValue(NamedTuple):
    """A value of an event that is no scalar.

    Attributes:
        tag: the tag.
        kind: the plugin that shows it: "histograms", "images", "text", "pr_curves" and others; of a tensor
            without a plugin "tensor".
        is_tensor: whether it is a tensor.
        place: its index among all values of the event.
    """

    tag: str
    kind: str
    is_tensor: bool
    place: int


class ParsedEvent(NamedTuple):
    """The contents of an event.

    Attributes:
        step: the step.
        wall_time: seconds since the epoch.
        restart: the step from which the event supersedes all earlier points, or None.
        declares_restarts: whether restarts are declared from here on, by the version of the file; None if the
            event has no version.
        mentions: the tags of all values, also of those without data; None if the event has no summary.
        points: the scalars of the event.
        others: its other values with data.
        hparams: the hyperparameters, if the event has them.
        descriptions: descriptions by tag.
    """

    step: int
    wall_time: float
    restart: int | None
    declares_restarts: bool | None
    mentions: list[str] | None
    points: list[ScalarPoint]
    others: list[OtherValue]
    hparams: dict[str, bool | float | str] | None
    descriptions: dict[str, str]

    @property
    def tags(self) -> list[str]:
        """The tags of all values with data, of any kind."""
        return [*(point.tag for point in self.points), *(other.tag for other in self.others)]
