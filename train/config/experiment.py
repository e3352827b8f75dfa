"""The schema of an experiment's configuration, and nothing that needs JAX.

Each section is a frozen class; `task`, `data` and `optimizer` are tagged unions on `name`. A field's
description is its documentation. Types are strict: `steps: "800"` is a mistake, not 800.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Better = Literal["lower", "higher"]
"""Which way a metric gets better; of a task, the first of its results."""


class Options(BaseModel):
    """A section of the configuration: unknown keys, other types, NaN and infinity are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _disagree(key: str, message: str) -> PydanticCustomError:
    """An error about fields that are valid each by itself, reported at `key` of the section."""
    return PydanticCustomError("disagree", "{message}", {"key": key, "message": message})


# What a task says of itself: `builds`, its class, as file:Class in train/tasks; `learns_from`, the data made
# for it; `needs`, the arrays of a batch; `better`, which way the first of its results gets better.


class DigitsTask(Options):
    """A small convolutional classifier with BatchNorm and dropout."""

    builds: ClassVar[str] = "digits:Digits"
    learns_from: ClassVar[str] = "digits"
    needs: ClassVar[tuple[str, ...]] = ("image", "label")
    better: ClassVar[Better] = "higher"
    name: Literal["digits"]
    width: Annotated[int, Field(ge=1, le=4096)] = Field(16, description="Channels of the first convolution.")
    dropout: Fraction = Field(0.1, description="Probability that a feature is dropped before the last layer.")


class MoeLmTask(Options):
    """A byte-level transformer whose feed-forward layers are a top-k mixture of experts."""

    builds: ClassVar[str] = "moe_lm:MoeLm"
    learns_from: ClassVar[str] = "text"
    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    better: ClassVar[Better] = "lower"
    name: Literal["moe_lm"]
    width: Annotated[int, Field(ge=1, le=65536)] = Field(64, description="Size of the residual stream.")
    layers: Annotated[int, Field(ge=1, le=1000)] = Field(2, description="Number of transformer blocks.")
    heads: Count = Field(4, description="Attention heads; they divide the width.")
    experts: Annotated[int, Field(ge=2, le=4096)] = Field(8, description="Experts of each layer.")
    top_k: Count = Field(2, description="Experts that each token is sent to.")
    expert_width: Count = Field(128, description="Hidden units of one expert.")
    capacity: Positive = Field(
        1.25, description="Places of an expert, in multiples of its fair share of tokens."
    )
    load_balance: NonNegative = Field(
        0.01,
        description="Weight of the Switch load-balance loss (arXiv 2101.03961); its value is 1 at balance.",
    )
    router_z: NonNegative = Field(
        0.001, description="Weight of the router z-loss (ST-MoE, arXiv 2202.08906)."
    )
    bias_rate: NonNegative = Field(
        0.0,
        description="What a step adds to or takes from an expert's bias, by which experts are chosen and not "
        "weighed, to balance them without a loss (DeepSeek-V3, arXiv 2412.19437); 0: no bias.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.top_k > self.experts:
            raise _disagree("top_k", f"{self.top_k} experts a token, but experts is {self.experts}")
        if self.width % self.heads:
            raise _disagree("heads", f"{self.heads} heads do not divide the width of {self.width}")
        return self


class VaeTask(Options):
    """A variational autoencoder with Bernoulli pixels."""

    builds: ClassVar[str] = "vae:Vae"
    learns_from: ClassVar[str] = "digits"
    needs: ClassVar[tuple[str, ...]] = ("image",)
    better: ClassVar[Better] = "lower"
    name: Literal["vae"]
    hidden: Annotated[list[Count], Field(min_length=1, max_length=100)] = Field(
        [128], description="Widths of the encoder's layers; the decoder has them in reverse."
    )
    latents: Count = Field(8, description="Number of latent variables.")
    beta: NonNegative = Field(1.0, description="Weight of the KL divergence; 1 is the ELBO.")
    free_bits: NonNegative = Field(
        0.0, description="Nats that each latent may say free of charge (arXiv 1606.04934)."
    )


class VqvaeTask(Options):
    """An autoencoder through a codebook (VQ-VAE, arXiv 1711.00937)."""

    builds: ClassVar[str] = "vqvae:Vqvae"
    learns_from: ClassVar[str] = "digits"
    needs: ClassVar[tuple[str, ...]] = ("image",)
    better: ClassVar[Better] = "lower"
    name: Literal["vqvae"]
    width: Count = Field(32, description="Channels of the convolutions.")
    codes: Annotated[int, Field(ge=2, le=65536)] = Field(64, description="Size of the codebook.")
    code_size: Count = Field(4, description="Numbers of one code.")
    commitment: NonNegative = Field(
        0.25, description="Weight of the loss that keeps the encoder near its codes."
    )


class DigitsData(Options):
    """scikit-learn's handwritten digits: 1797 images of 8 by 8 pixels, a fifth of them held out."""

    name: Literal["digits"]
    batch_size: Annotated[int, Field(ge=2, le=1437)] = Field(
        64, description="Images that a step sees; the last held-out batch is what is left over."
    )


class TextData(Options):
    """Bytes of text; the last tenth is held out."""

    name: Literal["text"]
    path: str | None = Field(
        None, description="A text file, or a folder of them; null is the Python standard library's source."
    )
    max_bytes: Annotated[int, Field(ge=1)] = Field(16_000_000, description="Read no more bytes than this.")
    length: Count = Field(64, description="Bytes of one sequence.")
    batch_size: Count = Field(16, description="Sequences a training step sees.")
    eval_batches: Count = Field(32, description="Held-out batches an evaluation sees, spread evenly.")


def _check_plain(value: object, depth: int = 0) -> object:
    """Refuses what would not be the same after it was written and read: dates, NaN, keys that are no text."""
    if depth > 20:
        raise _disagree("", "nested too deeply")
    if isinstance(value, Mapping):
        for key, inner in cast(Mapping[object, object], value).items():
            _check_plain(inner, depth + 1)
            if not isinstance(key, str):
                raise _disagree("", f"a key must be text, got {key!r}")
    elif isinstance(value, list):
        for inner in cast(list[object], value):
            _check_plain(inner, depth + 1)
    elif not isinstance(value, str | bool | int | float | None) or value in (math.inf, -math.inf):
        raise _disagree("", f"must be text, numbers, true, false or null, got {value!r}")
    elif value != value:  # noqa: PLR0124 - NaN alone differs from itself
        raise _disagree("", "must be finite numbers, got nan")
    return value


def _check_reference(name: str) -> str:
    module, _, function = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), function)):
        raise _disagree("", f'must be of the form module:function, got "{name}"')
    return name


class FunctionData(Options):
    """Your own data: a Python function, imported and called. No other setting can run code.

    It returns a dict of arrays with the examples on the first axis, or an iterable of batches (dicts of
    arrays); or a pair of either kind, the second of them held out.
    """

    name: Annotated[str, AfterValidator(_check_reference)] = Field(
        description="module:function, found as `import module` finds it from the working folder."
    )
    arguments: Annotated[dict[str, Any], AfterValidator(_check_plain)] = Field(
        {}, description="Keyword arguments of the function."
    )
    batch_size: Count = Field(
        64,
        description="Examples of a batch; the last held-out one is what is left over. An iterable makes its "
        "own batches, and a smaller last one is evaluated, not trained on.",
    )
    held_out: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="Share of the arrays that is held out, unless the function returns a pair."
    )
    eval_batches: Count = Field(
        32,
        description="Batches of an iterable that are held out: of a pair's second, else its first, which are "
        "then to be the same at each call.",
    )


def tag_of(section: object) -> str | None:
    """Gives the choice that a section's `name` makes in its union; None if it has no name."""
    if isinstance(section, Mapping):
        name = cast(Mapping[str, object], section).get("name")
    else:
        name = getattr(section, "name", None)
    return "function" if isinstance(name, str) and ":" in name else None if name is None else str(name)


TaskOptions = DigitsTask | MoeLmTask | VaeTask | VqvaeTask
DataOptions = (
    Annotated[DigitsData, Tag("digits")]
    | Annotated[TextData, Tag("text")]
    | Annotated[FunctionData, Tag("function")]
)


class OptimizerOptions(Options):
    """What every optimizer has: a schedule and clipping."""

    learning_rate: Positive = Field(1e-3, description="The highest learning rate of the schedule.")
    schedule: Literal["constant", "cosine"] = Field(
        "cosine",
        description="What follows the warmup: the same rate, or a cosine that ends at 0.",
    )
    decay_steps: Count | None = Field(
        None,
        description="Step at which the cosine reaches 0; null: the run's first `steps`, also if they are "
        "raised later.",
    )
    warmup: Annotated[int, Field(ge=0)] = Field(0, description="Steps of the linear rise from 0.")
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


class EvalOptions(Options):
    """When the held-out data is looked at."""

    every: Count = Field(100, description="Steps between two evaluations; one more follows the last step.")


class CheckpointOptions(Options):
    """When the run is saved."""

    every: Count = Field(200, description="Steps between two checkpoints; one more follows the last step.")
    keep: Count = Field(2, description="Number of checkpoints that are kept.")


class EarlyStopOptions(Options):
    """When a run ends before its last step, as an evaluation no longer gets better."""

    metric: str = Field("eval/loss", description="Tag of the evaluation's metric that is watched.")
    better: Better = Field("lower", description="Which way the metric gets better.")
    patience: Count = Field(5, description="Evaluations in a row that bring nothing better before the end.")
    min_change: NonNegative = Field(0.0, description="A change that is no more than this is not better.")


def _check_window(text: str) -> str:
    first, _, last = text.partition(":")
    if not (first.isascii() and first.isdigit() and last.isascii() and last.isdigit()) or len(text) > 30:
        raise _disagree("", f'must be two steps, such as 10:15, got "{text}"')
    if int(first) >= int(last):
        raise _disagree("", f"must end after it begins, got {text}")
    return text


class Config(Options):
    """One experiment."""

    task: TaskOptions = Field(discriminator="name", description="Model and loss.")
    data: DataOptions = Field(discriminator=Discriminator(tag_of), description="What it learns from.")
    optimizer: AdamOptions | AdamWOptions | SgdOptions = Field(
        discriminator="name", description="How it learns."
    )
    steps: Annotated[int, Field(ge=1, le=10**12)] = Field(
        description="Length of the run. A finished run goes on when this is raised; with a cosine, when "
        "optimizer.decay_steps is, too."
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        0, description="Decides weights, batches and dropout."
    )
    microbatches: Count = Field(
        1, description="Parts that a batch is cut into, one after the other; they divide its size."
    )
    sharding: Literal["replicated", "fsdp"] = Field(
        "replicated",
        description="Over several devices, each of which gets its share of a batch: whether each keeps the "
        "whole state, or large arrays of it are split among them.",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="bfloat16: what the model is given of its parameters, and the inputs that its task casts "
        "(`as_input`; those here do), so what its layers compute in. Parameters that are kept, targets, "
        "losses and metrics are float32.",
    )
    ema: Fraction | None = Field(
        None, description="Decay of the parameters' moving average, which is then evaluated; null: none."
    )
    stop_on_nan: bool = Field(
        True,  # noqa: FBT003 - pydantic's form
        description="End, saving nothing more, once the objective or its gradient is NaN or infinite.",
    )
    early_stop: EarlyStopOptions | None = Field(None, description="Early end; null: at the last step.")
    profile: Annotated[str, AfterValidator(_check_window)] | None = Field(
        None, description="Steps to profile for TensorBoard, FIRST:LAST, of which LAST is the first without."
    )
    eval: EvalOptions = Field(EvalOptions.model_construct(), description="Evaluation.")
    checkpoint: CheckpointOptions = Field(CheckpointOptions.model_construct(), description="Checkpoints.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not isinstance(self.data, FunctionData) and self.data.name != self.task.learns_from:
            raise _disagree(
                "data.name",
                f'the task {self.task.name} learns from "{self.task.learns_from}", got "{self.data.name}"; '
                "or a function of your own, module:function",
            )
        if not isinstance(self.data, FunctionData) and self.data.batch_size % self.microbatches:
            raise _disagree(
                "microbatches",
                f"{self.microbatches} microbatches do not divide data.batch_size, {self.data.batch_size}",
            )
        return self
