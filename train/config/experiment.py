"""The schema of an experiment's configuration, and nothing that needs JAX.

Each section is a frozen class; `task`, `data` and `optimizer` are tagged unions on `name`. A field's
description is its documentation. Types are strict: `steps: "800"` is an error, not 800.
"""

from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Discriminator, Field, model_validator

from train.config.alerts import AlertOptions
from train.config.base import Better, Count, Fraction, NonNegative, Options, TagGlob, disagree, tag_of
from train.config.data import DataOptions, DigitsData, FunctionData, TextData
from train.config.optimizers import AdamOptions, AdamWOptions, SgdOptions
from train.config.tasks import TaskOptions
from train.config.writers import TensorBoardOptions, WriterList

# Class attributes of a task's options: `builds`, its class, as file:Class in train/tasks; `needs`, the arrays
# of a batch; `better`, the direction in which its first result improves.


class EvalOptions(Options):
    """The times of evaluations on the held-out data."""

    every: Count = Field(100, description="Steps between two evaluations; one more follows the last step.")


class CheckpointOptions(Options):
    """The times of checkpoints, and their number."""

    every: Count = Field(200, description="Steps between two checkpoints; one more follows the last step.")
    keep: Count = Field(2, description="Number of checkpoints that are kept.")


class EarlyStopOptions(Options):
    """The end of a run before its last step, when its evaluations no longer improve."""

    metric: str = Field("eval/loss", description="Tag of the watched metric of the evaluation.")
    better: Better = Field("lower", description="Direction in which the metric improves.")
    patience: Count = Field(5, description="Evaluations without an improvement, in a row, that end the run.")
    min_change: NonNegative = Field(0.0, description="An improvement must be larger than this.")


Statistic = Literal[
    "health", "norms", "rms", "mean", "std", "min", "max", "histogram", "quantiles", "nonfinite"
]  # fmt: skip


class WatchOptions(Options):
    """Statistics of the model's modules, of training steps, under their paths."""

    modules: list[str] = Field(
        ["**"], description="Globs of the paths of modules: blocks/* or **/attention; ** is all modules."
    )
    statistics: list[Statistic] = Field(
        ["health"], description="Families of statistics, health or norms, and reducers."
    )
    of: list[Literal["outputs", "inputs", "params", "grads", "updates"]] = Field(
        ["outputs"],
        description="Arrays of a module that the statistics are of: its outputs, inputs or parameters, the "
        "gradients of its outputs, or the updates of its parameters.",
    )
    every: Count = Field(1, description="Number of steps between statistics: each n-th step has them.")


class RatesOptions(Options):
    """Rates and health of the run, on the host's clock: rates/ and memory/."""

    every: Count = Field(
        50, description="Steps between two points, each the rates of the steps since the one before."
    )


def _check_window(text: str) -> str:
    first, _, last = text.partition(":")
    if not (first.isascii() and first.isdigit() and last.isascii() and last.isdigit()) or len(text) > 30:
        raise disagree("", f'must be two steps, such as 10:15, got "{text}"')
    if int(first) >= int(last):
        raise disagree("", f"must end after it begins, got {text}")
    return text


class Config(Options):
    """One experiment."""

    task: TaskOptions = Field(discriminator=Discriminator(tag_of), description="Model and loss.")
    data: DataOptions = Field(discriminator=Discriminator(tag_of), description="Training and held-out data.")
    optimizer: AdamOptions | AdamWOptions | SgdOptions = Field(discriminator="name", description="Optimizer.")
    steps: Annotated[int, Field(ge=1, le=10**12)] = Field(
        description="Length of the run. A finished run continues when this is raised; with a cosine, "
        "optimizer.decay_steps must be raised, too."
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        0, description="Seed of weights, batches and dropout."
    )
    microbatches: Count = Field(
        1, description="Number of sequential parts of a batch; it divides the batch size."
    )
    sharding: Literal["replicated", "fsdp"] = Field(
        "replicated",
        description="Placement of the state on several devices, which always share each batch. replicated: "
        "each device has the whole state; fsdp: its large arrays are split among the devices.",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="dtype of the layers' computation. For bfloat16 the parameters are cast, and the inputs "
        "if the task casts them (`as_input`), as all built-in tasks do. Stored parameters, targets, losses "
        "and metrics stay float32.",
    )
    ema: Fraction | None = Field(
        None,
        description="Decay of a moving average of the parameters, which replaces them in evaluations; null: "
        "none.",
    )
    stop_on_nan: bool = Field(
        True,  # noqa: FBT003 - pydantic's form
        description="End the run, without a checkpoint, once the objective or its gradient is not finite.",
    )
    watch: WatchOptions | None = Field(None, description="Statistics of modules; null: none.")
    early_stop: EarlyStopOptions | None = Field(None, description="Early stopping; null: none.")
    profile: Annotated[str, AfterValidator(_check_window)] | None = Field(
        None, description="Steps to profile for TensorBoard, FIRST:LAST, without the step LAST."
    )
    rates: RatesOptions | None = Field(
        RatesOptions.model_construct(), description="Rates and health of the run; null: none."
    )
    writers: WriterList = Field(
        [TensorBoardOptions.model_construct(name="tensorboard")],
        description="Writers of the run's records, each a name or a mapping: [tensorboard, {name: wandb, "
        "project: digits}].",
    )
    alerts: list[AlertOptions] = Field([], description="Rules that watch the logged scalars.")
    fold: list[TagGlob] = Field(
        [],
        description="Globs of families of tags: blocks/** or layers_*/**; ** is all. Of each, p50, p90, the "
        "largest value and its layer are shown with a heat map, in place of a curve for each layer.",
    )
    heat_map_every: Count = Field(
        1000, description="Records of a folded family between two of its heat maps; the last is at the end."
    )
    tag_budget: Count | None = Field(
        1000, description="Scalar tags beyond which a warning names the families to fold; null: no limit."
    )
    eval: EvalOptions = Field(EvalOptions.model_construct(), description="Evaluation.")
    checkpoint: CheckpointOptions = Field(CheckpointOptions.model_construct(), description="Checkpoints.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not isinstance(self.data, FunctionData) and not set(self.task.needs) <= set(self.data.arrays):
            fitting = [kind for kind in (DigitsData, TextData) if set(self.task.needs) <= set(kind.arrays)]
            names = " or ".join(f'"{get_args(kind.model_fields["name"].annotation)[0]}"' for kind in fitting)
            raise disagree(
                "data.name",
                f"the task {self.task.name} learns from {names or 'arrays that no data here has'}, got "
                f'"{self.data.name}"; or a function of your own, module:function',
            )
        if not isinstance(self.data, FunctionData) and self.data.batch_size % self.microbatches:
            raise disagree(
                "microbatches",
                f"{self.microbatches} microbatches do not divide data.batch_size, {self.data.batch_size}",
            )
        return self
