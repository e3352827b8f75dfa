import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from tests.train.running import digits, moe
from train import data, evaluation, optimizer, step, tasks
from train.config.experiment import Config
from train.config.tasks import MoeLmTask
from train.parallel import devices
from train.tasks import moe_lm

TOKENS, WIDTH, EXPERTS = 24, 6, 4


def moe_options(**options: object) -> MoeLmTask:
    return MoeLmTask.model_validate(
        {"name": "moe_lm", "width": WIDTH, "heads": 2, "experts": EXPERTS, "expert_width": 5, **options}
    )


def apply_moe(options: MoeLmTask, seed: int = 0) -> tuple[np.ndarray, dict, np.ndarray, dict]:
    """Run one layer of experts; return its input, parameters, output and updates."""
    x = jax.random.normal(jax.random.key(seed), (2, TOKENS // 2, WIDTH)) * 3
    layer = moe_lm.Moe(options)
    params = jax.jit(layer.init)(jax.random.key(seed + 1), x)["params"]
    y, updates = jax.jit(sowlog.collect(layer.apply))({"params": params}, x)
    tokens = np.asarray(x, np.float64).reshape(TOKENS, WIDTH)
    return tokens, jax.tree.map(np.float64, params), np.asarray(y).reshape(TOKENS, WIDTH), updates


def softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_the_sown_losses_equal_numpys(top_k: int) -> None:
    """Switch's load balance, equation 4, and ST-MoE's z, equation 5, from the router's own weights."""
    tokens, params, _, updates = apply_moe(moe_options(top_k=top_k))
    logits = tokens @ params["router"]["kernel"]
    p = softmax(logits)
    chosen = np.argsort(-p, axis=-1)[:, :top_k]
    load = np.bincount(chosen.ravel(), minlength=EXPERTS) / chosen.size
    losses = sowlog.compute({"losses": updates["losses"]})
    assert losses["losses/load_balance"] == pytest.approx(EXPERTS * (load * p.mean(0)).sum(), rel=1e-5)
    assert losses["losses/router_z"] == pytest.approx((np.log(np.exp(logits).sum(-1)) ** 2).mean(), rel=1e-5)
    assert losses["losses/load_balance/weighted"] == pytest.approx(0.01 * losses["losses/load_balance"])
    assert losses["losses/router_z/weighted"] == pytest.approx(0.001 * losses["losses/router_z"])
    metrics = sowlog.compute(updates["metrics"])
    assert [metrics[f"load/{expert:02}"] for expert in range(EXPERTS)] == pytest.approx(list(load))
    assert metrics["busiest"] == pytest.approx(EXPERTS * load.max())
    assert metrics["router_entropy"] == pytest.approx(-(p * np.log(p)).sum(-1).mean(), rel=1e-5)


@pytest.mark.parametrize(("top_k", "capacity"), [(1, 0.6), (2, 0.5), (2, 1.0), (2, 1.25), (3, 4.0)])
def test_the_experts_equal_a_loop_over_tokens(top_k: int, capacity: float) -> None:
    """Places are taken rank by rank, token by token; a choice without a place is dropped and counted."""
    tokens, params, y, updates = apply_moe(moe_options(top_k=top_k, capacity=capacity))
    p = softmax(tokens @ params["router"]["kernel"])
    chosen = np.argsort(-p, axis=-1)[:, :top_k]
    gates = np.take_along_axis(p, chosen, -1)
    if top_k > 1:
        gates /= gates.sum(-1, keepdims=True)
    free = [math.ceil(capacity * TOKENS * top_k / EXPERTS)] * EXPERTS
    expected, dropped = np.zeros_like(tokens), 0
    for rank in range(top_k):
        for token, expert in enumerate(chosen[:, rank]):
            if not free[expert]:
                dropped += 1
                continue
            free[expert] -= 1
            hidden = gelu(tokens[token] @ params["up"][expert])
            expected[token] += gates[token, rank] * (hidden @ params["down"][expert])
    np.testing.assert_allclose(y, expected, atol=1e-4)
    assert sowlog.compute(updates["metrics"])["dropped"] == pytest.approx(dropped / chosen.size)
    assert dropped or capacity > 1


def test_a_model_with_room_for_all_sees_no_later_byte() -> None:
    """Where no expert is full, a byte changes nothing that is predicted before it."""
    model = moe_lm.Transformer(moe_options(capacity=EXPERTS / 2))
    tokens = jax.random.randint(jax.random.key(0), (2, 12), 0, 256)
    params, apply = jax.jit(model.init)(jax.random.key(1), tokens), jax.jit(model.apply)
    before = apply(params, tokens)
    after = apply(params, tokens.at[:, 7].add(1))
    np.testing.assert_allclose(before[:, :7], after[:, :7], atol=1e-5)
    assert not np.allclose(before[:, 7:], after[:, 7:], atol=1e-2)


def test_attention_statistics_equal_numpys() -> None:
    """The largest logit that is not masked, and the mean entropy of each position's attention."""
    x = jax.random.normal(jax.random.key(0), (2, 5, 8))
    layer = moe_lm.Attention(2)
    params = jax.jit(layer.init)(jax.random.key(1), x)
    _, updates = jax.jit(sowlog.collect(layer.apply))(params, x)
    q, k, _ = np.moveaxis(np.einsum("btd,dchk->btchk", x, params["params"]["qkv"]["kernel"]), 2, 0)
    logits = np.einsum("bthk,bshk->bhts", q, k) / 2
    logits[..., np.triu_indices(5, 1)[0], np.triu_indices(5, 1)[1]] = -np.inf
    p = softmax(logits)
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(-1)
    metrics = sowlog.compute(updates["metrics"])
    assert metrics["max_logit"] == pytest.approx(logits.max(), rel=1e-5)
    assert metrics["entropy"] == pytest.approx(entropy.mean(), rel=1e-5)


class Trained:
    """A task after some steps, with the metrics of the first and the last of them."""

    def __init__(self, config: Config):
        self.config = config
        self.task = tasks.build(config.task)
        self.data = data.load(config.data)
        rule, schedule = optimizer.build(config.optimizer, steps=config.steps)
        self.state = step.make_init(self.task, rule, config)(self.data.batch(0, 0))
        self.update = update = step.make_train_step(self.task, rule, schedule, config)
        for at in range(config.steps):
            batch = devices.cut(self.data.batch(0, at), config.microbatches)
            self.state, summary = update(self.state, batch)
            if at == 0:
                self.first = self.values(summary)
        self.last = self.values(summary)

    @functools.cached_property
    def measure(self) -> evaluation.Evaluate:
        return evaluation.make_evaluate(self.task, self.config)

    def evaluate(self) -> dict[str, float]:
        return self.values(self.measure(self.state.variables, self.data.held_out()))

    @staticmethod
    def values(summary: step.Summary) -> dict[str, float]:
        tags, values = summary.packed.layout.decode(np.asarray(summary.packed.buffer))
        return dict(zip(tags, map(float, values), strict=True))


def test_digits_are_learned_and_watched() -> None:
    """A few dozen steps read most held-out digits; the running statistics move; every tag is there."""
    trained = Trained(
        digits("task.width=8", "data.batch_size=32", "steps=60", "optimizer.learning_rate=1e-2")
    )
    held_out = trained.evaluate()
    assert held_out["eval/accuracy"] > 0.7
    assert trained.last["loss"] < trained.first["loss"] / 2
    mean = trained.state.variables["batch_stats"]["block_0"]["norm"]["mean"]
    assert float(jnp.abs(mean).max()) > 0
    sown = {f"block_{i}/{name}" for i in (0, 1) for name in ("before_relu", "activation_rms", "dead_units")}
    ours = {"loss", "objective", "accuracy", "learning_rate", "norm/grads", "norm/params", "norm/updates"}
    assert set(trained.last) == sown | ours
    assert set(held_out) == {f"eval/{tag}" for tag in sown | {"loss", "accuracy"}}
    assert trained.last["objective"] == trained.last["loss"]


@pytest.fixture(scope="module")
def trained_text() -> Trained:
    return Trained(moe("steps=60", "data.batch_size=16", "optimizer.learning_rate=2e-2"))


def test_text_is_learned_and_watched(trained_text: Trained) -> None:
    """A few dozen steps learn the common bytes; every statistic of every layer and expert is there."""
    trained, held_out = trained_text, trained_text.evaluate()
    assert held_out["eval/bits_per_byte"] < 6
    assert held_out["eval/bits_per_byte"] == pytest.approx(held_out["eval/loss"] / math.log(2))
    names = ["attention/entropy", "attention/max_logit", "residual_rms"]
    names += [f"moe/{name}" for name in ("router_entropy", "dropped", "busiest")]
    sown = {f"blocks/{name}/{layer:02}" for name in names for layer in range(2)}
    sown |= {f"blocks/moe/load/{layer:02}/{expert:02}" for layer in range(2) for expert in range(4)}
    losses = {f"losses/blocks/moe/{name}" for name in ("load_balance", "router_z")}
    sown |= losses | {f"{tag}/weighted" for tag in losses} | {"losses/total"}
    ours = {
        "loss",
        "objective",
        "bits_per_byte",
        "learning_rate",
        "norm/grads",
        "norm/params",
        "norm/updates",
    }
    assert set(trained.last) == sown | ours
    assert set(held_out) == {f"eval/{tag}" for tag in sown | {"loss", "bits_per_byte"}}


def test_the_objective_is_the_loss_and_the_weighted_losses(trained_text: Trained) -> None:
    """The logged objective is the trained one."""
    metrics = trained_text.first
    balance, z = (metrics[f"losses/blocks/moe/{name}"] for name in ("load_balance", "router_z"))
    assert metrics["losses/total"] == pytest.approx(0.01 * balance + 0.001 * z)
    assert metrics["objective"] == pytest.approx(metrics["loss"] + metrics["losses/total"])


def test_a_loss_of_weight_0_is_seen_and_adds_nothing() -> None:
    """Switched off, it stays visible; the gradient is that of the loss alone."""
    metrics = Trained(moe("steps=1", "task.load_balance=0", "task.router_z=0")).first
    assert metrics["losses/blocks/moe/load_balance"] > 1
    assert metrics["losses/total"] == 0
    assert metrics["objective"] == metrics["loss"]


def test_a_model_that_sows_no_expected_loss_is_an_error() -> None:
    """A missing auxiliary loss is never 0."""
    config = digits()
    task = tasks.build(config.task)
    task.losses = ("load_balance",)
    rule, schedule = optimizer.build(config.optimizer, steps=1)
    batch = data.load(config.data).batch(0, 0)
    state = step.make_init(task, rule, config)(batch)
    with pytest.raises(LookupError, match="expected the losses load_balance"):
        step.make_train_step(task, rule, schedule, config)(state, batch)


def test_the_evaluation_weighs_its_batches_alike(trained_text: Trained) -> None:
    """All batches in one scan have the mean of their values one by one."""
    trained = trained_text
    held_out = trained.data.held_out()["tokens"]
    alone = [
        Trained.values(trained.measure(trained.state.variables, {"tokens": held_out[i : i + 1]}))[
            "eval/bits_per_byte"
        ]
        for i in range(2)
    ]
    assert trained.evaluate()["eval/bits_per_byte"] == pytest.approx(np.mean(alone), rel=1e-5)


def biased(seed: int, bias: list[float]) -> tuple[np.ndarray, np.ndarray, dict, np.ndarray, dict]:
    """Run experts with biases; return their input, probabilities, parameters, output and updates."""
    layer = moe_lm.Moe(moe_options(bias_rate=0.1, capacity=4.0))
    x = jax.random.normal(jax.random.key(seed), (2, TOKENS // 2, WIDTH)) * 3
    params = jax.jit(layer.init)(jax.random.key(seed + 1), x)["params"]
    variables = {"params": params, moe_lm.BALANCE: {"bias": jnp.array(bias)}}
    y, updates = jax.jit(sowlog.collect(layer.apply))(variables, x)
    router = np.asarray(params["router"]["kernel"], np.float64)
    tokens = np.asarray(x, np.float64).reshape(TOKENS, WIDTH)
    return tokens, softmax(tokens @ router), params, np.asarray(y).reshape(TOKENS, WIDTH), updates


def test_a_bias_decides_which_expert_is_chosen_and_not_its_gate() -> None:
    """With one too large to beat, an expert gets every token, at the gate of its probability."""
    tokens, p, params, y, updates = biased(0, [0.0, 0.0, 5.0, 0.0])
    chosen = np.argsort(-(p + np.array([0, 0, 5, 0])), axis=-1)[:, :2]
    assert (chosen[:, 0] == 2).all()
    gates = np.take_along_axis(p, chosen, -1)
    gates /= gates.sum(-1, keepdims=True)
    expected = np.zeros_like(tokens)
    for rank in range(2):
        for token, expert in enumerate(chosen[:, rank]):
            hidden = gelu(tokens[token] @ np.asarray(params["up"][expert], np.float64))
            expected[token] += gates[token, rank] * (hidden @ np.asarray(params["down"][expert], np.float64))
    np.testing.assert_allclose(y, expected, atol=1e-4)
    metrics = sowlog.compute(updates["metrics"])
    assert metrics["load/02"] == 0.5
    assert [metrics[f"bias/{expert:02}"] for expert in range(EXPERTS)] == [0, 0, 5, 0]


def test_the_bias_moves_against_the_load_and_outside_the_gradient(trained_text: Trained) -> None:
    """A step's rate up for an expert with less than its share, down for one with more."""
    trained = Trained(moe("steps=3", "task.bias_rate=0.25", "task.load_balance=0"))
    bias = np.asarray(trained.state.variables[moe_lm.BALANCE]["blocks"]["moe"]["bias"])
    before = np.array([[trained.last[f"blocks/moe/bias/{i:02}/{e:02}"] for e in range(4)] for i in range(2)])
    load = np.array([[trained.last[f"blocks/moe/load/{i:02}/{e:02}"] for e in range(4)] for i in range(2)])
    assert trained.first["blocks/moe/bias/00/00"] == 0
    np.testing.assert_allclose(bias - before, 0.25 * np.sign(0.25 - load))
    assert moe_lm.BALANCE not in trained_text.state.variables


def test_biases_balance_the_experts() -> None:
    """Step by step, where nothing else moves, all get their share, however the router leans."""
    config = moe("task.bias_rate=0.01")
    task, batch = tasks.build(config.task), data.load(config.data).batch(0, 0)
    variables = jax.jit(task.init)(jax.random.key(0), batch)
    router = variables["params"]["blocks"]["moe"]["router"]["kernel"]
    variables["params"]["blocks"]["moe"]["router"]["kernel"] = router.at[..., 0].add(1.0)

    @jax.jit
    def advance(variables: dict) -> tuple[dict, dict]:
        updates = task.forward(variables, batch, jax.random.key(0)).updates
        return {**variables, **task.advance(variables, updates)}, sowlog.compute(updates["metrics"])

    busiest = []
    for _ in range(100):
        variables, metrics = advance(variables)
        busiest.append(max(float(metrics[f"blocks/moe/busiest/{layer:02}"]) for layer in range(2)))
    assert busiest[0] > 1.6
    assert max(busiest[-10:]) < 1.3
