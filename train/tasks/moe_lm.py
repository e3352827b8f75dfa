# ruff: noqa: N803, N806 - names of arrays end in their axes
"""A byte-level language model with a mixture of experts, which shows its router and attention at work.

Names of arrays end in their axes: B batch, T and S time, D width, H heads, K head width; N = B * T tokens,
E experts, C places of an expert, F hidden units, R the top_k ranks of a token's choices.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import sowlog
from train.config.tasks import MoeLmTask
from train.tasks import Batch, Forward, Task, Variables

BYTES = 256
BALANCE = "balance"
"""The variable collection of the experts' biases, which no gradient reaches, and of their loads in a step."""


def entropy(p: jax.Array) -> jax.Array:
    """Return the entropy of the distributions along the last axis, in nats."""
    return -jnp.sum(p * jnp.log(jnp.where(p > 0, p, 1)), axis=-1)


class Attention(nn.Module):
    """Causal self-attention; sows how sharp it is."""

    heads: int

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Mix each position with those before it."""
        width, length = x_BTD.shape[-1], x_BTD.shape[-2]
        shape = (3, self.heads, width // self.heads)
        q_BTHK, k_BSHK, v_BSHK = jnp.moveaxis(
            nn.DenseGeneral(shape, use_bias=False, name="qkv")(x_BTD), -3, 0
        )
        logits_BHTS = jnp.einsum("BTHK,BSHK->BHTS", q_BTHK, k_BSHK) / math.sqrt(shape[-1])
        causal_TS = jnp.tril(jnp.ones((length, length), jnp.bool_))
        logits_BHTS = jnp.where(causal_TS[None, None], logits_BHTS, -jnp.inf)
        attention_BHTS = jax.nn.softmax(logits_BHTS.astype(jnp.float32))
        sowlog.sow(self, "max_logit", logits_BHTS, sowlog.max, doc="Largest logit. Ideal: below 50.")
        sowlog.sow(self, "entropy", entropy(attention_BHTS), doc="Entropy [nats]. 0: one position.")
        y_BTHK = jnp.einsum("BHTS,BSHK->BTHK", attention_BHTS.astype(x_BTD.dtype), v_BSHK)
        return nn.DenseGeneral(width, axis=(-2, -1), use_bias=False, name="out")(y_BTHK)


class Moe(nn.Module):
    """A feed-forward layer of experts with limited places; sows the choices of the router.

    Each token goes to its `top_k` experts. An expert has `capacity` times its fair share of places; all first
    choices are served before the second ones, in the order of the batch. A choice that finds no place is
    dropped: that expert adds nothing to the token.
    """

    options: MoeLmTask

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Map tokens through their experts."""
        x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
        logits_NE = nn.Dense(self.options.experts, use_bias=False, name="router")(x_ND)
        # A router needs float32, whatever the experts compute in (Switch Transformer, section 2.4).
        gates_NR, experts_NR = self._route(logits_NE.astype(jnp.float32))
        slots_RN, places = self._assign(experts_NR)
        y_SlotsD = self._experts(_dispatch(x_ND, slots_RN, self.options.experts, places))
        y_RND = y_SlotsD.at[slots_RN].get(mode="fill", fill_value=0)
        return jnp.einsum("RND,NR->ND", y_RND, gates_NR.astype(x_BTD.dtype)).reshape(x_BTD.shape)

    def _route(self, logits_NE: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return each token's experts and their gates; sow the losses that keep the router useful."""
        options = self.options
        probabilities_NE = jax.nn.softmax(logits_NE)
        gates_NR, experts_NR = self._choose(probabilities_NE)
        load_E = jnp.mean(jax.nn.one_hot(experts_NR, options.experts), axis=(0, 1))
        if options.bias_rate and self.is_mutable_collection(BALANCE) and not self.is_initializing():
            self.variable(BALANCE, "load", lambda: load_E).value = load_E
        # Switch Transformer, arXiv 2101.03961, equation 4: 1 when all experts get the same.
        balance = options.experts * jnp.sum(load_E * jnp.mean(probabilities_NE, axis=0))
        # ST-MoE, arXiv 2202.08906, equation 5.
        z_N = jax.nn.logsumexp(logits_NE, axis=-1)
        sowlog.sow_loss(
            self, "load_balance", balance, weight=options.load_balance, doc="Imbalance. Ideal: 1 a layer."
        )
        sowlog.sow_loss(
            self, "router_z", jnp.mean(z_N**2), weight=options.router_z, doc="Size of the logits."
        )
        sowlog.sow(self, "router_entropy", entropy(probabilities_NE), doc="Entropy [nats]. 0: certain.")
        sowlog.sow(self, "load", load_E, sowlog.mean(axis=()), doc="Share of an expert.")
        sowlog.sow(
            self, "busiest", options.experts * jnp.max(load_E), sowlog.max, doc="In fair shares. Ideal: 1."
        )
        if options.top_k > 1:  # With one expert, its probability is all that trains the router.
            gates_NR /= jnp.sum(gates_NR, axis=-1, keepdims=True)
        return gates_NR, experts_NR

    def _choose(self, probabilities_NE: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the probabilities and numbers of each token's experts.

        With a bias rate, each expert has a bias that decides whether it is chosen, and not its gate.
        """
        options = self.options
        if not options.bias_rate:
            return jax.lax.top_k(probabilities_NE, options.top_k)
        bias_E = self.variable(BALANCE, "bias", jnp.zeros, (options.experts,)).value
        sowlog.sow(self, "bias", bias_E, sowlog.mean(axis=()), doc="Bias of an expert.")
        _, experts_NR = jax.lax.top_k(probabilities_NE + bias_E[None], options.top_k)
        return jnp.take_along_axis(probabilities_NE, experts_NR, axis=-1), experts_NR

    def _assign(self, experts_NR: jax.Array) -> tuple[jax.Array, int]:
        """Return the slot of each choice among all experts' places, or one past the last if it is dropped."""
        options = self.options
        places = math.ceil(options.capacity * experts_NR.size / options.experts)
        expert_Q = experts_NR.T.reshape(-1)  # The queue: all first choices, then all second ones.
        chosen_QE = jax.nn.one_hot(expert_Q, options.experts, dtype=jnp.int32)
        place_Q = jnp.sum((jnp.cumsum(chosen_QE, axis=0) - 1) * chosen_QE, axis=-1)
        fits_Q = place_Q < places
        sowlog.sow(self, "dropped", ~fits_Q, doc="Share without a place. Ideal: 0.")
        slot_Q = jnp.where(fits_Q, expert_Q * places + place_Q, options.experts * places)
        return slot_Q.reshape(options.top_k, -1), places

    def _experts(self, x_ECD: jax.Array) -> jax.Array:
        """Apply each expert to its places; return them in one row of slots."""
        experts, _, width = x_ECD.shape
        init = nn.initializers.lecun_normal(in_axis=-2, out_axis=-1, batch_axis=(0,))
        up_EDF = self.param("up", init, (experts, width, self.options.expert_width))
        down_EFD = self.param("down", init, (experts, self.options.expert_width, width))
        hidden_ECF = nn.gelu(jnp.einsum("ECD,EDF->ECF", x_ECD, up_EDF))
        return jnp.einsum("ECF,EFD->ECD", hidden_ECF, down_EFD).reshape(-1, width)


def _dispatch(x_ND: jax.Array, slots_RN: jax.Array, experts: int, places: int) -> jax.Array:
    """Lay the tokens into the experts' places, [E, C, D]; an empty place holds zeros."""
    ranks, tokens = slots_RN.shape
    token_RN = jnp.broadcast_to(jnp.arange(tokens)[None], (ranks, tokens))
    empty_Slots = jnp.full(experts * places, tokens)
    token_Slots = empty_Slots.at[slots_RN].set(token_RN, mode="drop")
    return x_ND.at[token_Slots].get(mode="fill", fill_value=0).reshape(experts, places, -1)


class Block(nn.Module):
    """Attention and experts, each added to the residual stream."""

    options: MoeLmTask

    @nn.compact
    def __call__(self, x_BTD: jax.Array, _: None) -> tuple[jax.Array, None]:
        """Map the residual stream; the second argument and result are nn.scan's."""
        x_BTD += Attention(self.options.heads, name="attention")(nn.RMSNorm(name="attention_norm")(x_BTD))
        x_BTD += Moe(self.options, name="moe")(nn.RMSNorm(name="moe_norm")(x_BTD))
        sowlog.sow(self, "residual_rms", x_BTD, sowlog.rms, doc="RMS of the residual stream.")
        return x_BTD, None


class Transformer(nn.Module):
    """Predicts the next byte from those before it."""

    options: MoeLmTask

    @nn.compact
    def __call__(self, tokens_BT: jax.Array) -> jax.Array:
        """Map bytes [B, T] to logits [B, T, 256]."""
        options = self.options
        x_BTD = nn.Embed(BYTES, options.width, name="embed")(tokens_BT)
        init = nn.initializers.normal(0.02)
        x_BTD += self.param("positions", init, (1, tokens_BT.shape[1], options.width))
        # One block is compiled for all layers, and the backward pass computes its activations again. Each
        # layer has its own parameters, so each keeps a state of its sown values.
        blocks = nn.scan(
            nn.remat(Block, prevent_cse=False),
            variable_axes={"params": 0, BALANCE: 0},
            split_rngs={"params": True},
            length=options.layers,
        )
        x_BTD, _ = blocks(options, name="blocks")(x_BTD, None)
        return nn.Dense(BYTES, name="head")(nn.RMSNorm(name="norm")(x_BTD))


class MoeLm(Task):
    """Predicts each byte of `tokens` uint8 [B, length + 1] but the first."""

    losses: tuple[str, ...] = ("load_balance", "router_z")
    results: tuple[str, ...] = ("bits_per_byte", "loss", "blocks/moe/dropped/*", "blocks/moe/busiest/*")

    def __init__(self, options: MoeLmTask):
        self._model = Transformer(options)
        self._bias_rate = options.bias_rate

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """Draw weights; the biases, if there are any, begin at 0."""
        variables = self._model.init(key, batch["tokens"][:, :-1])
        return {name: variables[name] for name in ("params", BALANCE) if name in variables}

    def forward(self, variables: Variables, batch: Batch, key: jax.Array | None) -> Forward:
        """Return the cross-entropy in nats per byte, and the same in bits; nothing here is random."""
        tokens_BT = batch["tokens"].astype(jnp.int32)
        logits_BTV, updates = sowlog.collect(self._model.apply)(
            variables,
            tokens_BT[:, :-1],
            mutable=[BALANCE] if key is not None and BALANCE in variables else False,
        )
        logits_BTV = logits_BTV.astype(jnp.float32)
        loss_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, tokens_BT[:, 1:])
        metrics: dict[str, Any] = {"bits_per_byte": sowlog.mean.of(loss_BT / math.log(2))}
        return Forward(loss_BT.mean(), metrics, updates)

    def advance(self, variables: Variables, updates: dict[str, Any]) -> Variables:
        """Move the bias of each expert against its load (DeepSeek-V3, arXiv 2412.19437, section 2.1.2)."""
        if BALANCE not in variables:
            return {}
        # Not the statistic of that name: training is the same if nothing is sown.
        load_LE = updates[BALANCE]["blocks"]["moe"]["load"]
        missing_LE = jnp.mean(load_LE, axis=-1, keepdims=True) - load_LE
        bias_LE = variables[BALANCE]["blocks"]["moe"]["bias"] + self._bias_rate * jnp.sign(missing_LE)
        return {BALANCE: {"blocks": {"moe": {"bias": bias_LE}}}}
