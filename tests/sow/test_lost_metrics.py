"""No number is lost in silence: each way to lose one raises while tracing, with the line to write."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import sowlog
from sowlog import LostMetricError
from sowlog._sow.transforms import Lift

X = -jnp.arange(1.0, 4.0)


FORMS = {
    "sowlog.sow": lambda m, x: sowlog.sow(m, "value", x, sowlog.max),
    "a reducer": lambda m, x: m.sow("metrics", "value", x, **sowlog.max),
    "the default": lambda m, x: m.sow("metrics", "value", x),
}


class Sower(nn.Module):
    """Sows a statistic and a loss; takes and returns a carry for loops."""

    form = "sowlog.sow"

    @nn.compact
    def __call__(self, x, *rest):
        FORMS[self.form](self, x)
        sowlog.sow_loss(self, "loss", jnp.sum(x))
        return (x + 1, None) if rest else x + 1


class Cell(nn.RNNCellBase):
    """A recurrent cell that sows its carry."""

    num_feature_axes = 1

    @nn.compact
    def __call__(self, carry, x):
        sowlog.sow(self, "value", carry)
        return carry + x, carry

    def initialize_carry(self, rng, input_shape):
        return jnp.zeros(input_shape)


def model_of(call):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return call(self, x)

    return Model()


def _loop(condition, body, **kwargs):
    return lambda module, x: nn.while_loop(condition, body, module, (x, 0), **kwargs)


def _sowing_body(_, carry):
    return Sower(name="sower")(carry[0]), carry[1] + 1


def _sowing_condition(_, carry):
    Sower(name="sower")(carry[0])
    return carry[1] < 2


def _sow_layers(_, x):
    return Sower(name="layers")(x)


def _vjp_of_layers(module, x):
    return nn.vjp(_sow_layers, module, x)


BOTH = ["metrics", "losses"]

# model -> (what the message says of the place and the transform, the line to write)
DROPPED = {
    "nn.scan without the collection": (
        lambda m, x: nn.scan(Sower, length=2)(name="layers")(x, None),
        r'layers/value is sown to "metrics" inside nn.scan',
        r'nn.scan\(..., variable_axes={"params": 0, "metrics": 0}\)',
    ),
    "nn.vmap without the collection": (
        lambda m, x: nn.vmap(Sower)(name="heads")(x),
        r'heads/value is sown to "metrics" inside nn.vmap',
        r'nn.vmap\(..., variable_axes={"params": 0, "metrics": 0}\)',
    ),
    "nn.scan with one of two collections": (
        lambda m, x: nn.scan(Sower, length=2, variable_axes={"metrics": 0})(name="layers")(x, None),
        r'layers/loss is sown to "losses" inside nn.scan',
        r'variable_axes={"params": 0, "losses": 0}',
    ),
    "nn.while_loop that carries nothing": (
        _loop(lambda m, c: c[1] < 2, _sowing_body),
        r'sower/value is sown to "metrics" inside nn.while_loop',
        r'nn.while_loop\(..., carry_variables=\["metrics"\]\)',
    ),
    "the condition of nn.while_loop": (
        _loop(_sowing_condition, lambda m, c: (c[0], c[1] + 1), carry_variables=BOTH),
        "sower/value is sown in the cond_fn of an nn.while_loop",
        "sow it in body_fn, or after the loop",
    ),
    "nn.remat of the parameters only": (
        lambda m, x: nn.remat(Sower, variables=["params"])(name="block")(x),
        r'block/value is sown to "metrics" inside nn.remat',
        r"nn.remat\(Block\) without variables=",
    ),
    "nn.vjp of the parameters only": (
        lambda m, x: nn.vjp(lambda m, x: Sower(name="sower")(x), m, x, variables=["params"])[0],
        r'sower/value is sown to "metrics" inside nn.vjp',
        r"nn.vjp\(..., variables=True\)",
    ),
    "nn.jit of the parameters only": (
        lambda m, x: nn.jit(Sower, variables=["params"])(name="block")(x),
        r'block/value is sown to "metrics" inside nn.jit',
        r"nn.jit\(Block\) without variables=",
    ),
    "nn.RNN without the collection": (
        lambda m, x: nn.RNN(Cell(name="cell"))(x[None, :, None]),
        r'cell/value is sown to "metrics" inside nn.RNN',
        r'nn.RNN\(..., variable_axes={"metrics": 0}\)',
    ),
    "the outer of two transforms": (
        lambda m, x: nn.scan(nn.remat(Sower), length=2)(name="layers")(x, None),
        r'layers/value is sown to "metrics" inside nn.scan',
        r"nn.scan\(",
    ),
    "a loss in nn.custom_vjp": (
        lambda m, x: nn.custom_vjp(_sow_layers, _vjp_of_layers, lambda vjp, g: vjp(g))(m, x),
        "layers/loss is a loss sown inside nn.custom_vjp, whose rule takes the gradient of the function's",
        r'Write: y, loss = nn.custom_vjp\(...\)\(...\), then sowlog.sow_loss\(self, "loss", loss\)',
    ),
    "variable_broadcast": (
        lambda m, x: nn.scan(Sower, length=2, variable_broadcast=BOTH)(name="layers")(x, None),
        "layers/value is sown in the body of an nn.scan that has variable_broadcast",
        r'variable_axes={"metrics": 0}\), or accumulate, variable_carry="metrics"',
    ),
}


def _inside(transform):
    return lambda m, x: transform(lambda x: Sower(name="sower")(x))(x)


RAW = {
    "jax.jit": (_inside(jax.jit), "nn.jit"),
    "jax.vmap": (_inside(jax.vmap), "nn.vmap"),
    "jax.checkpoint": (_inside(jax.checkpoint), "nn.remat"),
    "jax.vjp": (_inside(lambda f: lambda x: jax.vjp(f, x)[0]), "nn.vjp"),
    "jax.lax.scan": (
        lambda m, x: jax.lax.scan(lambda c, _: (Sower(name="sower")(c), None), x, None, 2),
        "nn.scan",
    ),
    "jax.lax.cond": (
        lambda m, x: jax.lax.cond(x[0] > 0, lambda x: Sower(name="sower")(x), lambda x: x, x),
        "nn.cond",
    ),
    "jax.lax.switch": (
        lambda m, x: jax.lax.switch(0, [lambda x: Sower(name="sower")(x), lambda x: x], x),
        "nn.switch",
    ),
    "jax.lax.while_loop": (
        lambda m, x: jax.lax.while_loop(lambda c: c[0] < 0, lambda c: Sower(name="sower")(c), x),
        "nn.while_loop",
    ),
    "jax.lax.fori_loop": (
        lambda m, x: jax.lax.fori_loop(0, 2, lambda i, c: Sower(name="sower")(c), x),
        "nn.while_loop",
    ),
}


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("case", list(DROPPED))
def test_a_sow_that_a_lifted_transform_drops_raises(case, jit):
    """The error names module path, metric, collection and transform, and the line to write."""
    call, place, remedy = DROPPED[case]
    forward = sowlog.collect(model_of(call).apply)
    with pytest.raises(LostMetricError, match=f"{place}.*{remedy}"):
        (jax.jit(forward) if jit else forward)({}, X)


@pytest.mark.parametrize("case", list(DROPPED))
def test_a_sow_without_collect_is_no_error(case):
    """Without collect the same models run in silence: nothing is collected, so nothing is lost."""
    call, _, _ = DROPPED[case]
    model_of(call).apply({}, X)


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("transform", list(RAW))
def test_a_sow_under_a_raw_transform_raises(transform, jit):
    """Where a tracer would leak, or one value count for many, the transform and its lifted form are named."""
    call, lifted = RAW[transform]
    forward = sowlog.collect(model_of(call).apply)
    message = (
        rf"sower/value is sown inside {transform}, .* use {lifted} in place of {transform}, or return the"
    )
    with pytest.raises(LostMetricError, match=message):
        (jax.jit(forward) if jit else forward)({}, X)


def _raw_custom_vjp(function):
    custom = jax.custom_vjp(function)
    custom.defvjp(lambda x: jax.vjp(function, x), lambda f, g: f(g))
    return custom


def _raw_custom_jvp(function):
    custom = jax.custom_jvp(function)
    custom.defjvp(lambda primals, tangents: jax.jvp(function, primals, tangents))
    return custom


@pytest.mark.parametrize(
    ("transform", "custom"), [("jax.custom_vjp", _raw_custom_vjp), ("jax.custom_jvp", _raw_custom_jvp)]
)
@pytest.mark.parametrize("form", ["collect", "collect in jit", "collect in grad", "apply"])
def test_a_loss_in_a_raw_custom_derivative_raises(transform, custom, form):
    """Outside of jit and grad no tracer leaks, and the value is right and the gradient missing."""
    model = model_of(lambda m, x: custom(lambda x: sowlog.sow_loss(m, "loss", jnp.sum(x)))(x))
    apply = sowlog.collect(model.apply)
    call = {
        "collect": lambda x: apply({}, x),
        "collect in jit": jax.jit(lambda x: apply({}, x)),
        "collect in grad": jax.grad(lambda x: sowlog.total_loss(apply({}, x)[1])),
        "apply": lambda x: model.apply({}, x, mutable=["losses"]),
    }[form]
    with pytest.raises(LostMetricError, match=rf"loss is a loss sown inside {transform}, .*Write: y, loss ="):
        call(X)


@pytest.mark.parametrize("custom", [_raw_custom_vjp, _raw_custom_jvp])
def test_a_statistic_in_a_raw_custom_derivative_does_not_vanish_under_a_gradient(custom):
    """Under a gradient JAX runs a rule in place of the function: an error, not a number that is missing."""

    def function(module, x):
        sowlog.sow(module, "value", x)
        return jnp.sum(x)

    model = model_of(lambda m, x: custom(lambda x: function(m, x))(x))
    assert sowlog.compute(sowlog.collect(model.apply)({}, X)[1]) == {"metrics/value": -2.0}
    with pytest.raises(LostMetricError, match=r"value is sown inside jax\.(custom_[jv]{1,2}p|vjp|jvp)"):
        jax.grad(lambda x: sowlog.collect(model.apply)({}, x), has_aux=True)(X)


def test_a_sow_under_a_raw_gradient_raises():
    """jax.grad of a closure that sows leaves a tracer behind in Flax."""
    call = _inside(lambda f: jax.grad(lambda x: jnp.sum(f(x))))
    with pytest.raises(LostMetricError, match=r"sower/value is sown inside jax\.(grad|vjp)"):
        sowlog.collect(model_of(call).apply)({}, X)


def test_a_method_called_under_a_raw_transform_raises():
    """The place of the sow counts, even if the module is older than the transform."""

    class Outer(nn.Module):
        def setup(self):
            self.inner = Sower()

        def __call__(self, x):
            return jax.jit(lambda x: self.inner(x))(x)

    with pytest.raises(LostMetricError, match=r"inner/value is sown inside jax.jit"):
        sowlog.collect(Outer().apply)({}, X)


def test_a_module_from_outside_a_lifted_transform_raises():
    """A branch that closes over a module of its surroundings leaks like a raw transform."""

    class Outer(nn.Module):
        def setup(self):
            self.inner = Sower()

        def __call__(self, x):
            return nn.cond(x[0] > 0, lambda m, x: self.inner(x), lambda m, x: x, self, x)

    message = (
        r"inner/value is sown inside nn.cond by a module from outside of it.*lambda module, x: module.layer"
    )
    with pytest.raises(LostMetricError, match=message):
        sowlog.collect(Outer().apply)({}, X)


def test_a_name_that_a_submodule_has_is_refused():
    """Flax would let the submodule's own metrics vanish, or say nothing of a sow."""

    def call(module, x):
        nn.Dense(2, name="head")(x)
        sowlog.sow(module, "head", x)

    params = model_of(call).init(jax.random.key(0), X)
    with pytest.raises(LostMetricError, match=r"head \(in Model\) is sown under the name of a submodule"):
        sowlog.collect(model_of(call).apply)(params, X)


def test_a_submodule_that_takes_a_sown_name_is_refused():
    """Flax's error does not say that a sow took the name; ours does."""

    def call(module, x):
        sowlog.sow(module, "head", x)
        nn.Dense(2, name="head")(x)

    params = model_of(call).init(jax.random.key(0), X)
    with pytest.raises(
        LostMetricError, match="head is sown under a name that a submodule or parameter takes"
    ):
        sowlog.collect(model_of(call).apply)(params, X)


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("mutable", [False, ["metrics"]], ids=str)
def test_a_model_applied_inside_a_model_is_its_own_affair(mutable, form, monkeypatch):
    """A frozen teacher's sows are not this pass's: dropped, or handed to whoever applies it, is no loss."""
    monkeypatch.setattr(Sower, "form", form)
    teacher = model_of(lambda m, x: nn.scan(Sower, length=2, variable_axes=_AXES)(name="layers")(x, None)[0])
    if not mutable:
        teacher = model_of(lambda m, x: nn.scan(Sower, length=2)(name="layers")(x, None)[0])

    def call(module, x):
        result = teacher.apply({}, x, mutable=mutable)
        y, inner = result if mutable else (result, {"metrics": {"layers": {"value": 0}}})
        # Also in the search for the seeds of the branch, the returned values are the teacher's own.
        assert set(inner["metrics"]) == {"layers"}
        assert set(inner["metrics"]["layers"]) == {"value"}
        return nn.cond(x[0] < 0, _sow_distance, lambda m, d: d, module, y - x)

    _, updates = sowlog.collect(model_of(call).apply)({}, X)
    assert sowlog.compute(updates["metrics"]) == {"distance": 2.0}


_AXES = {"metrics": 0}


def _sow_distance(module, distance):
    sowlog.sow(module, "distance", distance)
    return distance


def test_a_collect_inside_a_collect_has_its_own_passes():
    """A model that collects from another gets the other's values, and sows its own."""

    def call(module, x):
        _, updates = sowlog.collect(Sower().apply)({}, x)
        sowlog.sow(module, "inner_max", updates["metrics"]["value"].compute())

    _, updates = sowlog.collect(model_of(call).apply)({}, X)
    assert sowlog.compute(updates) == {"metrics/inner_max": -1.0}


def test_a_users_own_type_error_stays_as_it_is():
    """The search for seeds does not hide an error of the model itself."""
    with pytest.raises(TypeError, match="unsupported operand"):
        sowlog.collect(model_of(lambda m, x: x + "one").apply)({}, X)


def test_branches_that_differ_in_their_results_stay_an_error():
    """Seeds repair structures that differ by sows, and no others."""

    def call(module, x):
        return nn.cond(x[0] > 0, lambda m, x: Sower(name="sower")(x), lambda m, x: x[:2], module, x)

    with pytest.raises(TypeError, match=r"branch|true_fun|cond"):
        sowlog.collect(model_of(call).apply)({}, X)


@pytest.mark.parametrize("in_a_branch", [False, True])
@pytest.mark.parametrize("reducer", [sowlog.histogram, sowlog.quantiles, sowlog.histogram(axis=())], ids=str)
def test_layers_stacked_behind_the_bins_are_refused(reducer, in_a_branch):
    """A state's own axes come last: along axis -1 layers would be taken for bins."""

    def sow(module, x):
        sowlog.sow(module, "value", x, reducer)
        return x

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            if in_a_branch:
                return nn.cond(x[0] < 0, sow, lambda m, x: x, self, x), None
            return sow(self, x), None

    def call(module, x):
        return nn.scan(Layer, variable_axes={"metrics": -1}, length=2)(name="layers")(x, None)

    message = r'layers/value is sown with .*nn.scan around it stacks.*Write: variable_axes={"metrics": 0}'
    with pytest.raises(LostMetricError, match=message):
        sowlog.collect(model_of(call).apply)({}, X)


class Branching(nn.Module):
    """Sows in one branch, and so needs seeds."""

    @nn.compact
    def __call__(self, x, _):
        return nn.cond(x[0] < 0, _sow_distance, lambda m, x: x, self, x) + 1, None


def test_numbers_may_be_stacked_along_any_axis():
    """A state of numbers has no axes of its own: -1 is the axis of the layers."""

    def call(module, x):
        return nn.scan(Branching, variable_axes={"metrics": -1}, length=2)(name="layers")(x, None)

    _, updates = sowlog.collect(model_of(call).apply)({}, X)
    found = updates["metrics"]["layers"]["distance"]
    assert found.seen.tolist() == [True, False]
    assert found.compute()[0] == -2.0


def test_a_transform_whose_filters_are_not_known_is_not_accused():
    """Should Flax hide them, another transform that surely drops a collection is named before it."""
    assert Lift("scan", "", None).hands_back("metrics")
    assert not Lift("scan", "", None).broadcasts("metrics")
    assert not Lift("scan", "", ("params",)).hands_back("metrics")


class Unsteady(sowlog.Reducer):
    """A reducer that breaks the laws: its start is no state of the same kind."""

    def empty(self):
        return jnp.zeros((), jnp.float32)

    def from_value(self, value, weight):
        return jnp.stack([jnp.min(value), jnp.max(value)])

    def merge(self, a, b):
        return a + b

    def compute(self, parts):
        return parts


def test_a_seed_that_does_not_fit_is_named_in_the_error():
    """The first error, of a structure without seeds, would hide it."""

    def sow(module, x):
        sowlog.sow(module, "value", x, Unsteady())
        return x

    with pytest.raises(TypeError, match=r"(?s)float32\[2\].*float32\[\]"):
        sowlog.collect(model_of(lambda m, x: nn.cond(x[0] < 0, sow, lambda m, x: x, m, x)).apply)({}, X)
