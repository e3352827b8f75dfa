"""The assertions and helpers of sowlog.testing."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sowlog
from sowlog.testing import (
    HostSyncError,
    assert_invariant,
    assert_reducer_laws,
    assert_sown,
    count_traces,
    forbid_host_sync,
    sown_structure,
)

pytestmark = pytest.mark.usefixtures("light_compilation")


class Model(nn.Module):
    """Sows a statistic in a submodule and a loss."""

    @nn.compact
    def __call__(self, x, *, loud=True):
        h = nn.Dense(3, name="hidden")(x)
        if loud:
            sowlog.sow(self, "hidden_rms", h, sowlog.rms)
        sowlog.sow_loss(self, "l2", jnp.sum(h**2))
        return h


X = jax.ShapeDtypeStruct((2, 4), jnp.float32)
VARIABLES = {"params": {"hidden": {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)}}}


def test_assert_sown_returns_every_tag():
    """Shapes suffice; the result is the list of sown tags."""
    assert assert_sown(Model(), VARIABLES, X, names=["hidden_rms", "losses/*"]) == ["hidden_rms", "losses/l2"]


def test_flags_among_the_inputs_stay_what_they_are():
    """A Python flag by position is not traced, and the model may return other objects than arrays."""

    class Flagged(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            if train:
                sowlog.sow(self, "noise", x)
            return "text"

    assert sown_structure(Flagged(), {}, X, True) == {"noise": "mean"}
    assert sowlog.discover(Flagged().apply, {}, X, False) == {"metrics": {}, "losses": {}}


def test_assert_sown_names_what_is_missing_and_what_is_there():
    """A name that matches nothing fails with the list of sown tags; arguments reach the model."""
    with pytest.raises(AssertionError, match="Model does not sow hidden_rms; it sows: losses/l2"):
        assert_sown(Model(), VARIABLES, X, names="hidden_rms", loud=False)


class NnxModel(nnx.Module):
    """Sows a statistic in a submodule and a loss, and changes its state in a call."""

    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.hidden = Hidden()

    def __call__(self, x, *, train=True):
        return self.hidden(self.norm(x, use_running_average=not train))


class Hidden(nnx.Module):
    def __call__(self, x):
        sowlog.sow(self, "load", x, sowlog.mean(axis=0))
        sowlog.sow_loss(self, "l2", jnp.sum(x**2))
        return x


@pytest.mark.parametrize("train", [False, True])
def test_nnx_models_and_functions_are_checked(train):
    """A model, abstract or not, a method, a function of it, a jitted one, and a function without a model."""
    model = NnxModel(nnx.Rngs(0))
    abstract = nnx.eval_shape(lambda: NnxModel(nnx.Rngs(0)))
    wanted = {"hidden/load": "mean(axis=0)[4]", "losses/hidden/l2": "loss"}
    for called in (
        model,
        abstract,
        model.__call__,
        nnx.jit(model.__class__.__call__, static_argnames="train"),
    ):
        args = () if isinstance(getattr(called, "__self__", called), NnxModel) else (model,)
        assert sown_structure(called, *args, X, train=train) == wanted
        assert assert_sown(called, *args, X, names=["*/load", "losses/**"], train=train) == list(wanted)
    with pytest.raises(
        AssertionError, match=r"does not sow losses/\*; it sows: hidden/load, losses/hidden/l2"
    ):
        assert_sown(model, X, names="losses/*", train=train)
    assert assert_sown(lambda x: sowlog.sow("largest", x, sowlog.max), X, names="largest") == ["largest"]
    assert model.norm.mean[...].tolist() == [0.0] * 4


def test_assert_sown_names_an_nnx_model_or_a_function():
    """The error names the class of a model, or the function."""
    model = NnxModel(nnx.Rngs(0))
    with pytest.raises(AssertionError, match=r"NnxModel does not sow rms; it sows: hidden/load, losses/"):
        assert_sown(model, X, names="rms")
    with pytest.raises(AssertionError, match=r"NnxModel.__call__ does not sow rms"):
        assert_sown(model.__call__, X, names="rms")


def test_metrics_of_nnx_models_are_invariant():
    """The function closes over the model, in the mode that changes no state."""
    model = NnxModel(nnx.Rngs(0))

    def metrics(batch):
        return sowlog.collect(model)(batch, train=False)[1]["metrics"]

    assert_invariant(metrics, jnp.arange(24.0).reshape(6, 4))


def test_count_traces_counts_retraces():
    """A weakly typed second argument costs a trace, and shows."""
    step = count_traces(lambda x: x * 2)
    jitted = jax.jit(step)
    jitted(jnp.float32(1.0))
    jitted(jnp.float32(2.0))
    assert step.traces == 1
    jitted(1.0)
    assert step.traces == 2


def test_sown_structure_is_a_snapshot():
    """A change of a sown name, its reducer or its shape changes the snapshot."""
    assert sown_structure(Model(), VARIABLES, X) == {"hidden_rms": "rms", "losses/l2": "loss"}
    assert sown_structure(Model(), VARIABLES, X, loud=False) == {"losses/l2": "loss"}


def test_what_plain_sows_packed_is_described():
    """A packed tree in a collection is one entry, of so many words."""

    class Sower(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.sow("metrics", "packed", sowlog.pack({"a": x, "b": x}))

    assert sown_structure(Sower(), {}, jnp.ones(())) == {"packed/00": "packed[2]"}


def test_metrics_of_states_are_invariant():
    """States give one number over microbatches, a scan and shards, histograms and vectors included."""

    def metrics(batch):
        _, updates = sowlog.collect(Model().apply)(VARIABLES, batch)
        by_feature = sowlog.mean(axis=0).of(batch)
        return {**updates["metrics"], "histogram": sowlog.histogram.of(batch), "features": by_feature}

    assert_invariant(metrics, jnp.arange(24.0).reshape(6, 4), parts=3)


@pytest.mark.parametrize("way", ["microbatch", "scan", "shard"])
def test_a_mean_of_means_is_not_invariant(way):
    """A maximum that was averaged before it was sown depends on the cut; the error shows both numbers."""
    with pytest.raises(AssertionError, match=f'over "{way}", peak is 3.0; of the whole batch it is 5.0'):
        assert_invariant(lambda x: {"peak": sowlog.mean.of(jnp.max(x))}, _peaks(), over=[way])


def _peaks():
    return jnp.array([0.0, 1.0, 5.0, 2.0])


def test_a_metric_that_only_a_part_sows_is_not_invariant():
    """The error names a value that depends on the whole batch."""

    def metrics(x):
        return {"x": sowlog.mean.of(x, weight=jnp.sum(x) > 7.0)}

    with pytest.raises(AssertionError, match='over "microbatch", x is sown in only one of both'):
        assert_invariant(metrics, _peaks())


def test_an_unknown_way_is_refused():
    """The error lists the ways that there are."""
    with pytest.raises(ValueError, match="over='pmap' is no way to cut a batch; there are microb"):
        assert_invariant(lambda x: {"x": sowlog.mean.of(x)}, jnp.ones(4), over=["pmap"])


class CountsFromOne(sowlog.Reducer):
    """A sum that starts at 1, so that its start changes the other state of a merge."""

    counts_unseen = True

    def empty(self):
        return jnp.ones(())

    def from_value(self, value, weight):
        return jnp.sum(value)

    def merge(self, a, b):
        return a + b

    def compute(self, parts):
        return parts


def test_a_start_that_counts_is_no_identity():
    """If a reducer merges unseen states, the flag of absence does not hide their parts."""
    with pytest.raises(AssertionError, match="empty is not the left identity of merge"):
        assert_reducer_laws(CountsFromOne())


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (
            [np.ones(3), np.ones((2, 2))],
            ValueError,
            r"values has 2 arrays \(shapes: \(3,\), \(2, 2\)\).*three",
        ),
        ([np.ones(3)], ValueError, r"values has 1 array \(shapes"),
        ([], ValueError, r"values has 0 arrays \(shapes: none\)"),
        (np.float32(3), TypeError, "values is float32, and must be a sequence of at least three arrays"),
        (None, TypeError, "values is NoneType"),
    ],
)
def test_values_of_the_laws_are_checked(values, kind, message):
    """Three are needed, since merge is associative; any sequence has them, and a generator."""
    with pytest.raises(kind, match=message):
        assert_reducer_laws(sowlog.mean, values)
    assert_reducer_laws(sowlog.max, values=(np.float32(value) for value in (1, -2, 3)))


def test_one_way_may_stand_alone():
    """A name is no list of letters."""
    with pytest.raises(AssertionError, match='over "scan", peak is'):
        assert_invariant(lambda x: {"peak": sowlog.mean.of(jnp.max(x))}, _peaks(), over="scan")


def test_a_batch_that_cannot_be_cut_for_the_check_is_refused():
    """The error names the array and its shape."""
    with pytest.raises(ValueError, match=r"batch\['x'\] of shape \(4,\) cannot be cut into 3 equal"):
        assert_invariant(lambda batch: {"x": sowlog.mean.of(batch["x"])}, {"x": _peaks()}, parts=3)


READS = {
    "float": float,
    "int": int,
    "bool": bool,
    "index": lambda x: range(3)[x.astype(jnp.int32)],
    "item": lambda x: x.item(),
    "tolist": lambda x: x.tolist(),
    "array": jax.device_get,
    "format": lambda x: f"{x:.3f}",
    "str": lambda x: f"{x!s}",
    "repr": repr,
}


@pytest.mark.parametrize("read", list(READS))
def test_reading_an_array_is_forbidden(read):
    """Each way to wait for the device raises within the guard, and works again after it."""
    x = jnp.ones(()) * 1
    if read == "index":
        x = x.astype(jnp.int32)
    with forbid_host_sync(), pytest.raises(HostSyncError, match=rf"{read}.* waits for the device"):
        READS[read](x)
    READS[read](x)


def test_a_training_loop_that_logs_passes_the_guard(tmp_path):
    """The logger's own thread reads, and the loop does not; batches of the host may enter."""
    step = jax.jit(lambda x, batch: (x + batch[0], sowlog.pack({"x": sowlog.mean.of(x)})))
    x = jnp.zeros(())
    with sowlog.Logger(tmp_path) as log, forbid_host_sync():
        for index in range(5):
            x, metrics = step(x, np.ones(1, np.float32))
            log(index, metrics)
    assert [point.value for point in sowlog.testing.read_events(tmp_path)] == [0.0, 1.0, 2.0, 3.0, 4.0]
