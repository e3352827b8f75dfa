"""The origin of a NaN or an infinity, from the records of a logger."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import sowlog
from sowlog._log import nonfinite
from sowlog._log.watcher import Watcher
from sowlog.testing import MemoryWriter
from sowlog.writers import Record

LAYERS = range(4)
# Whether, or in which layer, a value breaks.
NOWHERE = {
    **dict.fromkeys(("input", "loss", "gradient", "update"), False),
    **dict.fromkeys(("first", "second", "backward"), -1),
}
KINDS = {
    "nan": lambda x: jnp.full_like(x, jnp.nan),
    "infinity": lambda x: jnp.full_like(x, jnp.inf),
    "0/0": lambda x: (0 * x) / (0 * x),
    "log of a negative": lambda x: jnp.log(-jnp.abs(x) - 1),
    "overflow in bf16": lambda x: ((x.astype(jnp.bfloat16) + 1) * 3e38 * 1e3).astype(jnp.float32),
}
# Of each fault: the phase, the tag and the layer that are named.
FAULTS = [
    ({"input": True}, "input", "metrics/inputs/x", ()),
    *[({"first": i}, "forward", f"metrics/layers/zeta/{i:02}", (i,)) for i in LAYERS],
    *[({"second": i}, "forward", f"metrics/layers/alpha/{i:02}", (i,)) for i in LAYERS],
    ({"loss": True}, "loss", "losses/l2", ()),
    *[({"backward": i}, "backward", f"backward/layers/h/{i:02}", (i,)) for i in LAYERS],
    ({"gradient": True}, "gradient", "grads/norm", ()),
    ({"update": True}, "update", "updates/norm", ()),
]


@jax.custom_vjp
def broken_backward(x, factor):
    return x


broken_backward.defvjp(lambda x, factor: (x, factor), lambda factor, cotangent: (cotangent * factor, None))


def build(kind):
    """Return a step of a model of four layers that breaks where it is asked to, and its optimizer's state."""
    make = KINDS[kind]

    def broken(flag, x):
        return jnp.where(flag, jax.lax.stop_gradient(make(x)), x)

    def model(params, x, at):
        x = broken(at["input"], x)
        sowlog.sow("inputs/x", x, sowlog.rms)

        def layer(x, of_layer):
            kernel, number = of_layer
            x = broken(at["first"] == number, jnp.tanh(x * kernel))
            sowlog.sow("zeta", x, sowlog.rms)
            x = broken(at["second"] == number, x + 1)
            sowlog.sow("alpha", x, sowlog.rms)
            x = sowlog.sow_grad("h", x, sowlog.rms)
            factor = jnp.where(at["backward"] == number, make(jnp.ones(())), 1)
            return broken_backward(x, factor), None

        with sowlog.scope("layers"):
            x, _ = jax.lax.scan(sowlog.stacked(layer), x, (params["kernel"], jnp.arange(len(LAYERS))))
        sowlog.sow_loss("l2", broken(at["loss"], jnp.sum(x**2)))

    def loss_fn(params, x, at):
        _, updates = sowlog.collect(model)(params, x, at)
        return sowlog.total_loss(updates), updates

    def breaking(name, at):
        return optax.stateless(lambda updates, _: jax.tree.map(partial(broken, at[name]), updates))

    def chain(at):
        return optax.chain(
            breaking("gradient", at),
            sowlog.observe("grads", depth=0),
            optax.sgd(1e-3),
            breaking("update", at),
            sowlog.observe("updates", depth=0),
        )

    @jax.jit
    def step(params, state, x, at):
        gradient = sowlog.collect(jax.grad(loss_fn, has_aux=True))
        (gradients, updates), backward = gradient(params, x, at)
        _, state = chain(at).update(gradients, state, params)
        return state, sowlog.pack({**sowlog.observed(state), "backward": backward["metrics"], **updates})

    params = {"kernel": jnp.linspace(0.5, 1.0, len(LAYERS))}
    return partial(step, params), chain(NOWHERE).init(params)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_value_that_is_not_finite_is_named(kind):
    """At each phase and layer, forward and backward, where the names of a scan are not in their order."""
    step, state = build(kind)
    x = jnp.linspace(0.1, 1.0, 8)
    for fault, phase, tag, layer in FAULTS:
        origins = []
        log = sowlog.Logger("unused", writers=[MemoryWriter()], on_nonfinite=origins.append)
        for number in range(4):
            at = {**NOWHERE, **(fault if number == 3 else {})}
            state, packed = step(state, x, jax.tree.map(jnp.asarray, at))
            log(number, packed)
        log.close()
        (origin,) = origins
        assert (origin.step, origin.phase, origin.tag, origin.layer) == (3, phase, tag, layer), fault
        before = {neighbor.tag: (neighbor.low, neighbor.high) for neighbor in origin.neighbors}
        assert len(before) >= 6
        assert all(math.isfinite(low) and low <= high for low, high in before.values())
        if phase in ("input", "forward", "loss", "backward"):
            assert origin.place.startswith("tests/log/test_nonfinite.py:")


def watched(watcher, step, **values):
    array = np.array(list(values.values()), np.float32)
    return watcher.look(Record(step, 0.0, tuple(values), array))


def test_one_report_until_the_values_are_finite_again():
    """A consequence of a NaN is not reported, and the next NaN is."""
    watcher = Watcher()
    assert watched(watcher, 0, a=1.0, b=2.0) is None
    origin = watched(watcher, 1, a=1.0, b=math.nan)
    assert (origin.step, origin.tag, origin.others) == (1, "b", ())
    assert watched(watcher, 2, a=math.nan, b=math.nan) is None
    assert watched(watcher, 3, a=math.nan, b=2.0) is None
    assert watched(watcher, 4, a=1.0, b=2.0) is None
    assert watched(watcher, 5, a=math.inf, b=2.0).tag == "a"


def test_a_value_infinite_from_the_start_hides_no_other():
    """Such as the smallest logit behind a mask."""
    watcher = Watcher()
    assert watched(watcher, 0, masked=-math.inf, loss=1.0).tag == "masked"
    assert watched(watcher, 1, masked=-math.inf, loss=1.0) is None
    assert watched(watcher, 2, masked=-math.inf, loss=math.nan).tag == "loss"


def test_large_finite_values_are_finite():
    """Also where the sum of their squares overflows, without a warning of NumPy."""
    watcher = Watcher()
    assert watched(watcher, 0, a=3e38, b=-3e38) is None
    assert watched(watcher, 1, a=3e38, b=math.nan).tag == "b"


def test_a_count_of_elements_is_reported_and_ranges_are_of_finite_values():
    """A count is finite, and above 0."""
    watcher = Watcher()
    for step, value in enumerate([5.0, 3.0, 4.0]):
        watched(watcher, step, **{"h/nonfinite": 0.0, "h/rms": value})
    origin = watched(watcher, 3, **{"h/nonfinite": 2.0, "h/rms": math.nan})
    assert str(origin) == (
        "at step 3 h/nonfinite counts 2 elements that are not finite. Before, it was in [0, 0]. Not finite "
        "as well: 1 further value."
    )
    ranges = [(one.tag, one.low, one.high) for one in origin.neighbors]
    assert ranges == [("h/nonfinite", 0, 0), ("h/rms", 3, 5)]


def test_modules_whose_gradients_stayed_finite_are_listed():
    """Of a gradient: which modules are finite and which are not."""
    params = {name: {"kernel": jnp.ones(2)} for name in ("a", "b", "c")}
    optimizer = optax.chain(sowlog.observe("grads"), optax.sgd(0.1))
    memory, origins = MemoryWriter(), []
    with sowlog.Logger("unused", writers=[memory], on_nonfinite=origins.append) as log:
        for step, bad in enumerate([1.0, jnp.nan]):
            gradients = {**params, "b": {"kernel": jnp.array([bad, 1.0])}}
            _, state = optimizer.update(gradients, optimizer.init(params), params)
            log(step, sowlog.observed(state))
    (origin,) = origins
    assert {origin.tag, *origin.others} == {"grads/norm", "grads/b/norm"}
    assert set(origin.finite) == {"grads/a/norm", "grads/c/norm"}
    text = memory.records[2].texts[nonfinite.TAG]
    assert "Finite in the same phase: grads/a/norm, grads/c/norm." in text
    assert "| **grads/b/norm** | 1.414 | 1.414 | nan |" in text


@pytest.mark.parametrize("rule", ["warn", "raise", "ignore"])
def test_the_rule_decides_what_happens(rule):
    """A warning, an error with the origin, or nothing; all later steps are written in each case."""
    memory = MemoryWriter()
    log = sowlog.Logger("unused", writers=[memory], on_nonfinite=rule)
    log(0, {"loss": 1.0})
    log(1, {"loss": math.nan})
    if rule == "warn":
        with pytest.warns(sowlog.NonfiniteWarning, match="at step 1 loss became nan. Before, it was in"):
            log.flush()
    elif rule == "raise":
        with pytest.raises(sowlog.NonfiniteError, match="at step 1 loss became nan") as caught:
            log.flush()
        assert (caught.value.origin.step, caught.value.origin.tag) == (1, "loss")
    log(2, {"loss": 1.0})
    log.close()
    assert [record.step for record in memory.records if record.tags] == [0, 1, 2]
    assert [record.step for record in memory.records if record.texts] == [1] * (rule != "ignore")


@pytest.mark.parametrize("error", [LookupError, SystemExit])
def test_an_error_of_the_function_reaches_the_training_thread(error):
    """With a note of the value that it was called for; the step is written."""

    def fail(origin):
        raise error(origin.tag)

    memory = MemoryWriter()
    log = sowlog.Logger("unused", writers=[memory], on_nonfinite=fail)
    log(0, {"loss": math.inf})
    with pytest.raises(error, match="loss") as caught:
        log.flush()
    (note,) = caught.value.__notes__
    assert note == "raised by on_nonfinite, which was called because at step 0 loss became inf."
    log.close()
    assert [record.step for record in memory.records if record.tags] == [0]


def test_a_rule_that_is_none_is_refused():
    """The message has the rules."""
    with pytest.raises(ValueError, match="on_nonfinite is 'stop': it must be \"warn\", "):
        sowlog.Logger("unused", writers=[MemoryWriter()], on_nonfinite="stop")


def test_tensorboard_shows_the_origin(tmp_path):
    """In its Text tab, at the step."""
    with sowlog.Logger(tmp_path, on_nonfinite=lambda origin: None) as log:
        log(7, {"loss": math.nan})
    reader = EventAccumulator(str(tmp_path))
    reader.Reload()
    (event,) = reader.Tensors(nonfinite.TAG)
    assert event.step == 7
    assert event.tensor_proto.string_val[0].startswith(b"At step 7 loss became nan.")
