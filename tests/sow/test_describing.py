"""Descriptions of sown values, and their order of execution."""

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import sowlog
from sowlog._tree.sites import source_of
from sowlog.testing import MemoryWriter

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


class Pair(sowlog.Reducer):
    """Results whose names are numbers."""

    def empty(self):
        return jnp.zeros(())

    def from_value(self, value, weight):
        return jnp.sum(value)

    def merge(self, a, b):
        return a + b

    def compute(self, parts):
        return {"1": parts, "2": 2 * parts}


def test_a_result_whose_name_is_a_number_is_no_layer():
    """The indices of layers are as many as the stacked axes."""

    def model(xs):
        def layer(x, _):
            sowlog.sow("stacked", x, Pair())
            return x, None

        sowlog.sow("pair", xs, Pair())
        return jax.lax.scan(sowlog.stacked(layer), xs, length=2)

    sites = sowlog.pack(sowlog.collect(model)(jnp.ones(()))[1]["metrics"]).layout.sites
    assert {tag: site.layers for tag, site in sites.items()} == {
        "pair/1": (),
        "pair/2": (),
        **{f"stacked/{name}/{layer:02}": (layer,) for name in (1, 2) for layer in range(2)},
    }


def test_a_description_is_text():
    """Where it is sown; bytes of a file name that are not UTF-8 are escaped where they are written."""
    for doc in (3, None, b"text"):
        with pytest.raises(TypeError, match=r"doc of loss is .*: give a text\."):
            sown(doc)


def test_odd_bytes_in_a_description_lose_no_record(tmp_path):
    """They are escaped in the event file."""
    with sowlog.Logger(tmp_path) as log:
        log(0, sown("In \udcff.py."))
    assert sowlog.read(tmp_path).scalars["loss"].values.tolist() == [1.0]
    texts = EventAccumulator(str(tmp_path)).Reload().summary_metadata
    assert texts["loss"].summary_description.startswith(r"In \udcff.py. Reducer: mean.")


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


def sown(doc):
    """Return the metrics of a model that sows "loss"."""

    def model(x):
        sowlog.sow("loss", x, doc=doc)
        return x

    return sowlog.collect(model)(jnp.ones(()))[1]["metrics"]


def in_scan(metrics):
    def step(total, _):
        return sowlog.merge(total, metrics), None

    return jax.lax.scan(step, sowlog.empty_like(metrics), length=2)[0]


def accumulated(metrics):
    return sowlog.accumulate(lambda *_: metrics, 2)(0.0, jnp.ones(2))


PASSAGES = {
    "merge": lambda metrics: sowlog.merge(metrics, metrics),
    "merge into nothing": lambda metrics: sowlog.merge(sowlog.empty_like(metrics), metrics),
    "merge with a number": lambda metrics: sowlog.merge({"loss": sowlog.mean.of(1.0)}, metrics),
    "jit": lambda metrics: jax.jit(lambda metrics: metrics)(metrics),
    "scan": in_scan,
    "accumulate": accumulated,
    "all_reduce": lambda metrics: jax.vmap(
        lambda _: sowlog.all_reduce(metrics, "i"), axis_name="i", out_axes=None, axis_size=2, in_axes=None
    )(0.0),
    "bytes": lambda metrics: flax.serialization.from_bytes(metrics, flax.serialization.to_bytes(metrics)),
    "pack": sowlog.pack,
    "packs": lambda metrics: sowlog.pack({"": sowlog.pack(metrics)}),
}


@pytest.mark.parametrize("passage", PASSAGES.values(), ids=PASSAGES)
def test_two_sows_under_one_tag_keep_their_descriptions(passage):
    """Also through programs that JAX has compiled for the other, whose states have an equal structure."""
    docs = ("One.", "Other.", "One.")
    logged = [passage(sown(doc)) for doc in docs]
    assert [sowlog.describe(tree)["loss"].doc for tree in logged] == list(docs)


def test_a_state_that_was_not_sown_has_no_description():
    """Under the tag of one that was sown before, packed by the same program."""
    one = {"loss": sowlog.mean.of(1.0)}
    assert sowlog.describe(sown("Sown."))["loss"].doc == "Sown."
    assert sowlog.describe(one)["loss"] == sowlog.Description()
    sowlog.compute(sown("Sown."))
    assert sowlog.pack(one).layout.sites == {}


def test_records_know_the_sows_of_their_tags():
    """Of two models that a logger has in turns; numbers beside them have none."""
    memory = MemoryWriter()
    with sowlog.Logger("unused", writers=[memory]) as log:
        for step, doc in enumerate(("One.", "Other.", "One.")):
            log(step, {**sown(doc), "lr": 0.1})
    docs = [[source.doc for tag in record.tags if (source := source_of(tag))] for record in memory.records]
    assert docs == [["One."], ["Other."], ["One."]]
    assert [type(tag) for tag in sowlog.compute(sown("One."))] == [str]


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
    sites = sowlog.pack(updates["metrics"]).layout.sites
    return sorted(sites, key=lambda tag: sites[tag].position)


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
