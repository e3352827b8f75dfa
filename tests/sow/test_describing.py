"""Descriptions of sown values, and their order of execution."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import sowlog
from sowlog._tree import notes
from sowlog._tree.notes import find

HERE = "tests/sow/test_describing.py:"
DOC = "Size of the activation [m/s]. Ideal: below 10."


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        sowlog.sow(self, "size", x, sowlog.max, doc=DOC)
        self.sow("metrics", "plain", x.sum(), **sowlog.mean)
        sowlog.sow_loss(self, "l2", jnp.sum(x**2), doc="Weight decay.")
        return x


class Nnx(nnx.Module):
    def __call__(self, x):
        sowlog.sow(self, "size", x, sowlog.max, doc=DOC)
        self.sow(sowlog.nnx.Metric, "plain", x.sum(), **sowlog.mean)
        sowlog.sow_loss(self, "l2", jnp.sum(x**2), doc="Weight decay.")
        return x


def function(x):
    sowlog.sow("size", x, sowlog.max, doc=DOC)
    sowlog.sow("plain", x.sum())
    sowlog.sow_loss("l2", jnp.sum(x**2), doc="Weight decay.")
    return x


WAYS = {
    "linen": lambda x: sowlog.collect(Linen().apply)({}, x),
    "nnx": sowlog.collect(Nnx()),
    "function": sowlog.collect(function),
}


@pytest.mark.parametrize("collected", WAYS.values(), ids=WAYS)
def test_what_is_sown_is_described(collected):
    """By doc, unit, reducer, kind, phase and place; of a tree, of a packed one, and under jit."""
    packed = jax.jit(lambda x: sowlog.pack(collected(x)[1]))(jnp.ones(3))
    described = sowlog.describe(packed)
    assert described == sowlog.describe(jax.eval_shape(collected, jnp.ones(3))[1])
    size = described["metrics/size"]
    assert (size.doc, size.unit, size.reducer) == (DOC, "m/s", "max")
    assert (size.kind, size.phase) == ("scalar", "forward")
    assert size.place.startswith(HERE)
    assert (described["metrics/plain"].reducer, described["metrics/plain"].doc) == ("mean", "")
    assert described["metrics/plain"].place.startswith(HERE)
    for tag in ("losses/l2", "losses/l2/weighted"):
        loss = described[tag]
        assert (loss.doc, loss.kind, loss.phase) == ("Weight decay.", "loss", "loss")
    assert str(size) == f"{DOC} Reducer: max. Sown in {size.place}."


def test_results_and_layers_have_the_description_of_their_sow():
    """Behind its tag stand a layer, or the name of a result; in front, names of the logged tree."""

    def model(xs):
        def layer(x, kernel):
            sowlog.sow("quantiles", x * kernel, sowlog.quantiles(percents=(50, 90)), doc="Quantiles.")
            return x, None

        jax.lax.scan(sowlog.stacked(layer), xs, jnp.ones(2))
        sowlog.sow("histogram", xs, sowlog.histogram, doc="A histogram.")

    _, updates = sowlog.collect(model)(jnp.ones(3))
    described = sowlog.describe({"train": updates["metrics"], "lr": 0.1})
    assert {tag: (one.doc, one.kind) for tag, one in described.items()} == {
        "lr": ("", "scalar"),
        "train/histogram": ("A histogram.", "histogram"),
        "train/histogram/nonfinite": ("A histogram.", "scalar"),
        **{f"train/quantiles/p{p}/{i:02}": ("Quantiles.", "scalar") for p in (50, 90) for i in range(2)},
    }


def test_a_number_that_was_not_sown_has_no_description():
    """Not that of a sow whose name its tag ends in; a packed tree in another has its own."""

    def model(x):
        sowlog.sow("loss", x, doc="Sown.")
        return x

    _, updates = sowlog.collect(model)(1.0)
    inner = sowlog.pack(updates["metrics"])
    described = sowlog.describe({"eval": {"loss": 1.0}, "train": inner, "again": updates["metrics"]})
    assert {tag: one.doc for tag, one in described.items()} == {
        "eval/loss": "",
        "train/loss": "Sown.",
        "again/loss": "Sown.",
    }


def test_watches_observers_and_gradients_are_described():
    """With the phase that computes them."""
    optimizer = optax.chain(sowlog.observe("grads"), optax.sgd(0.1), sowlog.observe("updates", ratio=True))
    params = {"w": jnp.ones(3)}

    @sowlog.scope("block")
    def block(x):
        return sowlog.sow_grad("h", x, sowlog.rms, doc="Gradient.")

    def loss_fn(params):
        return jnp.sum(block(params["w"]) ** 2)

    watches = [sowlog.watch("block", sowlog.rms, of=of) for of in ("inputs", "outputs", "grads")]
    gradients, backward = sowlog.collect(jax.grad(loss_fn), watch=watches)(params)
    _, state = optimizer.update(gradients, optimizer.init(params), params)
    described = sowlog.describe({**backward["metrics"], **sowlog.observed(state)})
    assert {tag: one.phase for tag, one in described.items()} == {
        "block/h": "backward",
        "block/inputs/rms": "forward",
        "block/outputs/rms": "forward",
        "block/grads/rms": "backward",
        **dict.fromkeys(("grads/norm", "grads/w/norm"), "gradient"),
        **dict.fromkeys(("updates/norm", "updates/w/norm", "updates/ratio", "updates/w/ratio"), "update"),
    }
    assert all(one.doc and one.reducer for one in described.values())


def order_of(function, *args):
    _, updates = sowlog.collect(function)(*args)
    sites = map(find, sowlog.compute(updates["metrics"]))
    return [site.tag for site in sorted(sites, key=lambda site: site.position)]


def test_the_order_is_that_of_execution_and_not_of_names():
    """In and around transforms, also of functions that were traced before, and layer by layer."""

    def step(x, _):
        for name in ("z", "m", "a"):
            sowlog.sow(name, x)
        return x, None

    @jax.jit
    def cached(x):
        sowlog.sow("y", x)
        sowlog.sow("b", x)
        return x

    sowlog.collect(cached)(1.0)
    in_scan = [f"scan/{name}/{i:02}" for i in range(2) for name in ("z", "m", "a")]

    def scoped(x):
        sowlog.sow("x", x)
        x = cached(x)
        with sowlog.scope("scan"):
            x, _ = jax.lax.scan(sowlog.stacked(step), x, None, length=2)
        with sowlog.scope("cond"):
            x = jax.lax.cond(x > 0, lambda x: step(x, None)[0], lambda x: x, x)
        sowlog.sow("c", x)
        with sowlog.scope("jit"):
            return jax.jit(lambda x: step(x, None)[0])(x)

    expected = ["x", "y", "b", *in_scan, "cond/z", "cond/m", "cond/a", "c", "jit/z", "jit/m", "jit/a"]
    assert order_of(scoped, 1.0) == expected
    assert order_of(jax.jit(scoped), 1.0) == expected


def test_notes_change_no_program():
    """Two texts under one name are one jaxpr, and a jitted function is traced once."""

    def model(doc):
        def run(x):
            sowlog.sow("size", x, doc=doc)
            return x

        return run

    jaxprs = [str(jax.make_jaxpr(sowlog.collect(model(doc)))(1.0)) for doc in ("one", "other")]
    assert jaxprs[0] == jaxprs[1]


def test_names_that_change_from_step_to_step_do_not_fill_the_memory(monkeypatch):
    """The oldest notes are dropped."""
    monkeypatch.setattr(notes, "_entries", {})
    monkeypatch.setattr(notes, "_packed", {})
    for index in range(notes._SIZE + 10):
        notes.register(f"changing/{index}", notes.NO_NOTE, "forward")
        notes.register_packed(f"changing/{index}")
    assert len(notes._entries) == len(notes._packed) == notes._SIZE
    assert notes.find("changing/0") is None
    assert notes.find(f"changing/{notes._SIZE + 9}") is not None
