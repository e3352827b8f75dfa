"""The options of each rule of an alert."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from train.config.base import Better, Count, NonNegative, Options, Positive, TagGlob, disagree


class _Alert(Options):
    exit: bool = Field(
        False,  # noqa: FBT003 - pydantic's form
        description="End the run with a checkpoint and status 4; the same command goes on from there.",
    )


class _TagAlert(_Alert):
    tag: TagGlob = Field(
        description="Tag of the logged scalar, or a glob of tags, each of which is watched by itself."
    )


class SpikeAlert(_TagAlert):
    """A value far from the median of the last ones (`sowlog.alerts.Spike`)."""

    name: Literal["spike"]
    threshold: Positive = Field(10.0, description="Robust standard deviations between median and spike.")
    window: Annotated[int, Field(ge=5)] = Field(64, description="Number of values of the median.")
    side: Literal["above", "below", "both"] = Field("above", description="Side of the median.")


class PlateauAlert(_TagAlert):
    """Values that no longer improve (`sowlog.alerts.Plateau`)."""

    name: Literal["plateau"]
    window: Count = Field(500, description="Number of values whose median is compared with the best before.")
    min_change: NonNegative = Field(0.001, description="Least improvement, as a share of the best median.")
    better: Better = Field("lower", description="Direction of an improvement.")


class FallingAlert(_TagAlert):
    """A rate that falls, such as rates/steps_per_s (`sowlog.alerts.Falling`)."""

    name: Literal["falling"]
    drop: Annotated[float, Field(gt=0, lt=1)] = Field(0.5, description="Share of the rate that is lost.")
    window: Count = Field(5, description="Number of values of the median that is compared.")


class RangeAlert(_TagAlert):
    """A value out of a range, or NaN (`sowlog.alerts.Range`)."""

    name: Literal["range"]
    low: float | None = Field(None, description="Lowest value in the range; null: none.")
    high: float | None = Field(None, description="Highest value in the range; null: none.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise disagree("high", f"the range from {self.low:g} to {self.high:g} is empty")
        return self


class StallAlert(_Alert):
    """No step for some time, after the first one (`sowlog.alerts.Stall`)."""

    name: Literal["stall"]
    seconds: Positive = Field(
        description="Time without a step, longer than an evaluation, a checkpoint, and the compilation of a "
        "step, which comes after the first evaluation."
    )


AlertOptions = Annotated[
    SpikeAlert | PlateauAlert | FallingAlert | RangeAlert | StallAlert, Field(discriminator="name")
]
