"""The options of each task."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, SerializeAsAny, Tag, WrapValidator, model_validator

from train.config.base import OWN, Better, Count, Fraction, NonNegative, Options, Positive, disagree
from train.config.own import OwnTask, read_own_task


class _Cnn(Options):
    needs: ClassVar[tuple[str, ...]] = ("image", "label")
    better: ClassVar[Better] = "higher"
    width: Annotated[int, Field(ge=1, le=4096)] = Field(16, description="Channels of the first convolution.")
    dropout: Fraction = Field(0.1, description="Probability that a feature is dropped before the last layer.")


class DigitsTask(_Cnn):
    """A small convolutional classifier with BatchNorm and dropout."""

    builds: ClassVar[str] = "digits:Digits"
    name: Literal["digits"]


class DigitsNnxTask(_Cnn):
    """The same classifier in Flax nnx."""

    builds: ClassVar[str] = "digits_nnx:DigitsNnx"
    name: Literal["digits_nnx"]


class GruTask(Options):
    """A byte-level recurrent language model of plain JAX functions."""

    builds: ClassVar[str] = "gru:Gru"
    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    better: ClassVar[Better] = "lower"
    name: Literal["gru"]
    width: Annotated[int, Field(ge=1, le=65536)] = Field(64, description="Size of the state of a layer.")
    layers: Annotated[int, Field(ge=1, le=1000)] = Field(2, description="Number of recurrent layers.")
    slowness: NonNegative = Field(
        0.1, description="Weight of the mean squared change of a state in a step (arXiv 1708.02182)."
    )


class MoeLmTask(Options):
    """A byte-level transformer whose feed-forward layers are a top-k mixture of experts."""

    builds: ClassVar[str] = "moe_lm:MoeLm"
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
        description="Change of an expert's bias in each step, which balances the experts without a loss. The "
        "bias enters the choice of experts, not their weights (DeepSeek-V3, arXiv 2412.19437). 0: no bias.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.top_k > self.experts:
            raise disagree("top_k", f"{self.top_k} experts a token, but experts is {self.experts}")
        if self.width % self.heads:
            raise disagree("heads", f"{self.heads} heads do not divide the width of {self.width}")
        return self


class VaeTask(Options):
    """A variational autoencoder with Bernoulli pixels."""

    builds: ClassVar[str] = "vae:Vae"
    needs: ClassVar[tuple[str, ...]] = ("image",)
    better: ClassVar[Better] = "lower"
    name: Literal["vae"]
    hidden: Annotated[list[Count], Field(min_length=1, max_length=100)] = Field(
        [128], description="Widths of the encoder's layers; the decoder has them in reverse."
    )
    latents: Count = Field(8, description="Number of latent variables.")
    beta: NonNegative = Field(1.0, description="Weight of the KL divergence; 1 is the ELBO.")
    free_bits: NonNegative = Field(
        0.0, description="Nats of each latent's KL divergence without a penalty (arXiv 1606.04934)."
    )


class VqvaeTask(Options):
    """An autoencoder through a codebook (VQ-VAE, arXiv 1711.00937)."""

    builds: ClassVar[str] = "vqvae:Vqvae"
    needs: ClassVar[tuple[str, ...]] = ("image",)
    better: ClassVar[Better] = "lower"
    name: Literal["vqvae"]
    width: Count = Field(32, description="Channels of the convolutions.")
    codes: Annotated[int, Field(ge=2, le=65536)] = Field(64, description="Size of the codebook.")
    code_size: Count = Field(4, description="Numbers of one code.")
    commitment: NonNegative = Field(
        0.25, description="Weight of the loss that keeps the encoder near its codes."
    )


TaskOptions = (
    Annotated[DigitsTask, Tag("digits")]
    | Annotated[DigitsNnxTask, Tag("digits_nnx")]
    | Annotated[GruTask, Tag("gru")]
    | Annotated[MoeLmTask, Tag("moe_lm")]
    | Annotated[VaeTask, Tag("vae")]
    | Annotated[VqvaeTask, Tag("vqvae")]
    | Annotated[SerializeAsAny[OwnTask], WrapValidator(read_own_task), Tag(OWN)]
)
