"""sow, sow_loss and collect: Flax's documented behaviour, and the additions of sowlog."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from sowlog.testing import count_traces

X = jnp.array([1.0, 2.0, 3.0])


class Sower(nn.Module):
    """A module that sows its input's mean and a loss, and returns the results of both sows."""

    reducer: sowlog.Reducer = sowlog.mean

    @nn.compact
    def __call__(self, x):
        stored = sowlog.sow(self, "value", x, self.reducer)
        trained = sowlog.sow_loss(self, "penalty", jnp.sum(x), weight=0.5)
        return stored, trained


class Plain(nn.Module):
    """Sows in Flax's own form."""

    options: dict

    @nn.compact
    def __call__(self, x):
        return self.sow("metrics", "value", x, **self.options)


class Twice(nn.Module):
    """Calls one shared module twice."""

    def setup(self):
        self.shared = Sower()

    def __call__(self, x):
        self.shared(x)
        return self.shared(3 * x)


def _collect(model, *args, variables=None, **kwargs):
    return sowlog.collect(model.apply)(variables or {}, *args, **kwargs)


def test_sowing_to_a_mutable_collection_returns_true_and_stores():
    """A stored value returns True and comes back from collect under its name."""
    stored, updates = _collect(Sower(), X)
    assert stored == (True, True)
    assert sowlog.compute(updates) == {
        "losses/penalty": 6.0,
        "losses/penalty/weighted": 3.0,
        "losses/total": 3.0,
        "metrics/value": 2.0,
    }


def test_sowing_to_an_immutable_collection_does_nothing():
    """Without a listener sow returns False, nothing is stored, and nothing is computed."""
    assert Sower().apply({}, X) == (False, False)
    silent = Plain(dict(sowlog.std))
    assert not jax.make_jaxpr(lambda x: (silent.apply({}, x), x)[1])(X).eqns


def test_one_of_two_collections_may_listen():
    """Statistics and losses are separate collections."""
    assert Sower().apply({}, X, mutable=["metrics"])[0] == (True, False)


def test_init_leaves_no_metrics_in_the_variables():
    """While init runs nothing is sown, so the variables hold parameters only."""
    assert Sower().init(jax.random.key(0), X) == {}


def test_a_shared_module_accumulates():
    """A module called twice adds to one state: the mean over both calls, the sum of both losses."""
    _, updates = _collect(Twice(), X)
    assert sowlog.compute(updates["metrics"]) == {"shared/value": 4.0}
    assert sowlog.total_loss(updates) == 0.5 * (6 + 18)


@pytest.mark.parametrize("form", ["sowlog", "flax"])
def test_both_forms_of_sowing_give_one_state(form):
    """`sowlog.sow(self, name, x, reducer)` and Flax's `self.sow(..., **reducer)` agree bit for bit."""
    model = Sower(sowlog.std) if form == "sowlog" else Plain(dict(sowlog.std))
    _, updates = _collect(model, X)
    for leaf, wanted in zip(
        jax.tree.leaves(updates["metrics"]["value"]), jax.tree.leaves(sowlog.std.of(X)), strict=True
    ):
        np.testing.assert_array_equal(leaf, wanted)


def test_weights_travel_in_both_forms():
    """`weight=` and `sowlog.weighted` weigh the value's elements."""

    class Masked(nn.Module):
        def __call__(self, x, mask):
            sowlog.sow(self, "ours", x, weight=mask)
            self.sow("metrics", "plain", sowlog.weighted(x, mask), **sowlog.mean)

    _, updates = _collect(Masked(), X, jnp.array([1, 0, 1]))
    assert sowlog.compute(updates["metrics"]) == {"ours": 2.0, "plain": 2.0}


def test_flax_default_collects_one_series_per_call():
    """Flax's default, a tuple, reaches the tags with an index for each call."""

    class TwoCalls(nn.Module):
        def __call__(self, x):
            self.sow("metrics", "value", jnp.mean(x))
            self.sow("metrics", "value", jnp.max(x))

    _, updates = _collect(TwoCalls(), X)
    assert sowlog.compute(updates["metrics"]) == {"value/00": 2.0, "value/01": 3.0}


def test_a_raw_pair_of_functions_gives_flax_documented_result():
    """Flax's own init_fn and reduce_fn are untouched: 1 + 2 + 3 accumulated over three calls."""

    class Accumulating(nn.Module):
        def __call__(self, x):
            for value in x:
                self.sow("metrics", "h", value, init_fn=lambda: 0.0, reduce_fn=lambda a, b: a + b)

    _, updates = _collect(Accumulating(), X)
    assert sowlog.compute(updates["metrics"]) == {"h": 6.0}


def test_a_collection_passed_back_in_plain_flax_goes_on_accumulating():
    """As Flax documents: apply with the collection passed back continues from it."""
    model = Plain(dict(sowlog.sum))
    _, updates = model.apply({}, X, mutable=["metrics"])
    _, updates = model.apply(updates, X, mutable=["metrics"])
    assert sowlog.compute(updates["metrics"]) == {"value": 12.0}


def test_a_collection_passed_back_through_collect_is_an_error():
    """A doubled count is refused, and both remedies are named."""
    variables = Plain(dict(sowlog.sum)).init(jax.random.key(0), X)
    assert "metrics" in variables
    with pytest.raises(ValueError, match=r"already hold metrics.*init\(key, x\)\[\"params\"\].*sowlog.merge"):
        _collect(Plain(dict(sowlog.sum)), X, variables=variables)


class Normalised(nn.Module):
    """A second mutable collection is in play."""

    @nn.compact
    def __call__(self, x):
        y = nn.BatchNorm(use_running_average=False)(x)
        sowlog.sow(self, "mean", x)
        return y


@pytest.mark.parametrize(
    ("mutable", "wanted"),
    [
        ("batch_stats", {"batch_stats"}),
        (["batch_stats"], {"batch_stats"}),
        (("batch_stats", "metrics"), {"batch_stats"}),
        ({"batch_stats"}, {"batch_stats"}),
        (True, {"batch_stats", "params"}),
        (nn.DenyList("params"), {"batch_stats"}),
    ],
)
def test_mutable_is_taken_as_apply_takes_it(mutable, wanted):
    """Every form of Flax's filter joins sowlog's two collections."""
    x = jnp.ones((2, 3))
    variables = Normalised().init(jax.random.key(0), x)
    _, updates = _collect(Normalised(), x, variables=variables, mutable=mutable)
    assert set(updates) == {"metrics", "losses"} | wanted
    assert set(updates["metrics"]) == {"mean"}


def test_collect_always_returns_both_collections():
    """A model that sows nothing has empty updates, so that a step needs no special case."""
    _, updates = _collect(nn.Dense(2), jnp.ones((1, 2)), variables={"params": _dense_params()})
    assert updates == {"metrics": {}, "losses": {}}


def _dense_params():
    return nn.Dense(2).init(jax.random.key(0), jnp.ones((1, 2)))["params"]


def test_a_statistic_carries_no_gradient_and_a_loss_does():
    """A statistic observes: training sees the losses only."""

    class Both(nn.Module):
        def __call__(self, x):
            sowlog.sow(self, "square", x**2, sowlog.sum)
            sowlog.sow_loss(self, "square", jnp.sum(x**2), weight=0.5)

    def through(name):
        def objective(x):
            _, updates = _collect(Both(), x)
            observed = updates["metrics"]["square"].compute()
            return observed if name == "metrics" else sowlog.total_loss(updates)

        return jax.grad(objective)(X)

    np.testing.assert_array_equal(through("metrics"), 0.0)
    np.testing.assert_allclose(through("losses"), X)


def test_the_weight_of_a_statistic_carries_no_gradient():
    """The weight of a statistic carries no gradient, either."""

    class Weighed(nn.Module):
        def __call__(self, x):
            sowlog.sow(self, "mean", X, weight=x)

    gradient = jax.grad(lambda x: _collect(Weighed(), x)[1]["metrics"]["mean"].compute())(X)
    np.testing.assert_array_equal(gradient, 0.0)


class Layer(nn.Module):
    """A layer for nn.scan: carry in, carry out."""

    @nn.compact
    def __call__(self, x, _):
        sowlog.sow(self, "rms", x, sowlog.rms)
        sowlog.sow(self, "load", x, sowlog.mean(axis=()))
        sowlog.sow_loss(self, "l1", jnp.sum(jnp.abs(x)), weight=0.1)
        return 2 * x, None


class Scanned(nn.Module):
    """Three remat'd layers under nn.scan."""

    @nn.compact
    def __call__(self, x):
        layers = nn.scan(nn.remat(Layer), variable_axes={"metrics": 0, "losses": 0}, length=3)
        return layers(name="layers")(x, None)[0]


def test_layers_under_scan_and_remat_are_distinguished_by_index():
    """A stacked axis ends the tag; kept axes follow it; a loss is summed over the layers."""
    _, updates = jax.jit(sowlog.collect(Scanned().apply))({}, jnp.array([3.0, -4.0]))
    computed = sowlog.compute(updates)
    rms = np.sqrt(12.5)
    for layer in range(3):
        assert computed[f"metrics/layers/rms/{layer:02}"] == pytest.approx(rms * 2**layer, rel=1e-6)
        assert computed[f"metrics/layers/load/{layer:02}/01"] == -4.0 * 2**layer
    assert computed["losses/layers/l1"] == 7.0 * (1 + 2 + 4)
    assert computed["losses/total"] == pytest.approx(0.1 * 49)


def test_a_step_is_traced_once():
    """The structure stands from the first step on: five steps, one trace."""

    def step(x):
        _, updates = _collect(Scanned(), x)
        return sowlog.pack({**updates["metrics"], "losses": updates["losses"]})

    counted = count_traces(step)
    jitted = jax.jit(counted)
    for value in range(5):
        jitted(jnp.array([1.0, float(value)]))
    assert counted.traces == 1


class Clash(nn.Module):
    """Sows one name with two reducers."""

    def __call__(self, x):
        sowlog.sow(self, "value", x, sowlog.mean)
        sowlog.sow(self, "value", x, sowlog.max)


def test_two_reducers_under_one_name_are_refused():
    """The error names both reducers and the place."""
    with pytest.raises(
        TypeError, match="a state of mean with one of max: two reducers share one name"
    ) as raised:
        _collect(Clash(), X)
    assert "while sowing value (in Clash)" in raised.value.__notes__


def test_a_foreign_value_under_the_name_is_refused():
    """A name that Flax's default took before is named with its place."""

    class Mixed(nn.Module):
        def __call__(self, x):
            self.sow("metrics", "value", x)
            sowlog.sow(self, "value", x)

    with pytest.raises(TypeError, match=r"value: another sow left a value of another kind under this name"):
        _collect(Mixed(), X)


def test_a_reducer_must_be_one():
    """A function in a reducer's place is refused with the ways to write it."""

    class Wrong(nn.Module):
        def __call__(self, x):
            sowlog.sow(self, "value", x, jnp.mean)

    with pytest.raises(
        TypeError, match=r"value \(in Wrong\): .*no sowlog reducer.*Reducer.build.*module.sow"
    ):
        Wrong().apply({}, X)


def test_losses_are_sown_by_sow_loss_only():
    """A statistic cannot enter the losses by mistake."""

    class Wrong(nn.Module):
        def __call__(self, x):
            sowlog.sow(self, "aux", x, collection="losses")

    with pytest.raises(
        ValueError, match=r'"losses" holds losses with a weight.*sowlog.sow_loss\(self, "aux"'
    ):
        Wrong().apply({}, X)


def test_other_collections_are_free():
    """A collection of one's own is collected when it is named mutable."""

    class Diagnosed(nn.Module):
        def __call__(self, x):
            return sowlog.sow(self, "value", x, collection="diagnostics")

    assert _collect(Diagnosed(), X)[0] is False
    stored, updates = _collect(Diagnosed(), X, mutable=["diagnostics"])
    assert stored
    assert sowlog.compute(updates["diagnostics"]) == {"value": 2.0}


def test_a_sow_by_name_has_no_other_collection():
    """The line to write is that of a sow by name."""
    with pytest.raises(ValueError, match=r'"other" is no collection of x: .*Write: sowlog.sow\("x", value\)'):
        sowlog.sow("x", X, collection="other")


@pytest.mark.parametrize("reducer", [sowlog.sum, sowlog.sum(axis=())], ids=str)
def test_constants_under_remat_are_arrays_outside_of_jit_too(reducer):
    """jax.checkpoint returns a constant as a Python bool there: calls still merge, and states compute."""

    class Model(nn.Module):
        def sow(self, *args, **kwargs):
            return super().sow(*args, **kwargs)

        @nn.remat
        def rematted(self, x):
            sowlog.sow(self, "value", x, reducer)
            return sowlog.sow(self, "other", x, reducer)

        def __call__(self, x):
            self.rematted(x)
            return sowlog.sow(self, "value", 3 * x, reducer)

    _, updates = _collect(Model(), X)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(updates))
    assert jnp.sum(updates["metrics"]["value"].compute()) == 24.0
    assert jnp.sum(updates["metrics"]["other"].compute()) == 6.0


WRONG = {
    "text": (lambda m: sowlog.sow(m, "x", "text"), TypeError, "a value must be a real number .* got str"),
    "a dict": (
        lambda m: sowlog.sow(m, "x", {"a": X}),
        TypeError,
        "a value must be a real number .* got dict",
    ),
    "a weight": (lambda m: sowlog.sow(m, "x", X, weight=X[:2]), ValueError, r"weight of shape \(2,\)"),
    "a vector loss": (lambda m: sowlog.sow_loss(m, "x", X), ValueError, "a loss must be a scalar"),
    "a complex loss": (
        lambda m: sowlog.sow_loss(m, "x", 1j),
        TypeError,
        r"a loss must be real, got complex\d+",
    ),
    "another shape": (
        lambda m: [sowlog.sow(m, "x", x, sowlog.mean(axis=())) for x in (1.0, X)],
        ValueError,
        r"shapes \(\) and \(3,\)",
    ),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_an_error_of_a_value_names_the_place_of_its_sow(case):
    """Cause and value come with the module path, the name and the class."""
    call, kind, message = WRONG[case]

    class Inner(nn.Module):
        @nn.compact
        def __call__(self):
            call(self)

    class Model(nn.Module):
        @nn.compact
        def __call__(self):
            Inner(name="inner")()

    with pytest.raises(kind, match=rf"(?s){message}.*while sowing inner/x \(in Inner\)"):
        _collect(Model())
