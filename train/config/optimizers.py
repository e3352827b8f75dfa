"""The options of each optimizer."""

from typing import Annotated, Literal

from pydantic import Field

from train.config.base import Count, Fraction, NonNegative, Options, Positive


class OptimizerOptions(Options):
    """The options of every optimizer: a schedule and clipping."""

    learning_rate: Positive = Field(1e-3, description="The highest learning rate of the schedule.")
    schedule: Literal["constant", "cosine"] = Field(
        "cosine",
        description="Learning rate after the warmup: constant, or a cosine that ends at 0.",
    )
    decay_steps: Count | None = Field(
        None,
        description="Step at which the cosine reaches 0; null: the run's first `steps`, also if they are "
        "raised later.",
    )
    warmup: Annotated[int, Field(ge=0)] = Field(
        0, description="Steps of the linear rise from learning_rate / (warmup + 1)."
    )
    clip_norm: Positive | None = Field(1.0, description="Clip the gradient to this global norm; null: never.")


class AdamOptions(OptimizerOptions):
    """Adam (arXiv 1412.6980)."""

    name: Literal["adam"]
    b1: Fraction = Field(0.9, description="Decay of the first moment.")
    b2: Fraction = Field(0.999, description="Decay of the second moment.")
    eps: Positive = Field(1e-8, description="Added to the root of the second moment.")


class AdamWOptions(OptimizerOptions):
    """Adam with decoupled weight decay (arXiv 1711.05101)."""

    name: Literal["adamw"]
    b1: Fraction = Field(0.9, description="Decay of the first moment.")
    b2: Fraction = Field(0.999, description="Decay of the second moment.")
    eps: Positive = Field(1e-8, description="Added to the root of the second moment.")
    weight_decay: NonNegative = Field(
        0.01, description="Decay of matrices, times the learning rate; biases and scales are left alone."
    )


class SgdOptions(OptimizerOptions):
    """Stochastic gradient descent."""

    name: Literal["sgd"]
    momentum: Fraction = Field(0.9, description="Share of the last update that is kept; 0 is plain descent.")
    nesterov: bool = Field(False, description="Look ahead along the momentum.")  # noqa: FBT003
