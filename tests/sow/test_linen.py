"""Sows of linen modules under every transform, lifted or not, and the errors of those that cannot arrive."""

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from sowlog import LostMetricError
from tests.support import modes

X = -np.arange(1.0, 4.0, dtype=np.float32)


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


def _scanned(*args, target=Sower, **kwargs):
    return lambda m, x: nn.scan(target, *args, length=2, **kwargs)(name="layers")(x, None)


# model -> (the tag that it sows under, the rows that it sows), for X of shape [3]
WAYS = {
    "nn.scan": (_scanned(), "layers/value", [X, X + 1]),
    "nn.scan that stacks": (_scanned(variable_axes={"metrics": 0}), "layers/value", [[X], [X + 1]]),
    "nn.scan that stacks behind": (_scanned(variable_axes={"metrics": -1}), "layers/value", [[X], [X + 1]]),
    "nn.scan that carries": (_scanned(variable_carry=BOTH), "layers/value", [X, X + 1]),
    "nn.scan that broadcasts": (_scanned(variable_broadcast=BOTH), "layers/value", [X, X + 1]),
    "nn.scan of nn.remat": (_scanned(target=nn.remat(Sower)), "layers/value", [X, X + 1]),
    "nn.vmap": (lambda m, x: nn.vmap(Sower)(name="heads")(x[:, None]), "heads/value", [X]),
    "nn.vmap that stacks": (
        lambda m, x: nn.vmap(Sower, variable_axes={"metrics": 0})(name="heads")(x[:, None]),
        "heads/value",
        [[-1], [-2], [-3]],
    ),
    "nn.while_loop": (_loop(lambda m, c: c[1] < 2, _sowing_body), "sower/value", [X, X + 1]),
    "nn.remat of the parameters only": (
        lambda m, x: nn.remat(Sower, variables=["params"])(name="block")(x),
        "block/value",
        [X],
    ),
    "nn.vjp of the parameters only": (
        lambda m, x: nn.vjp(lambda m, x: Sower(name="sower")(x), m, x, variables=["params"])[0],
        "sower/value",
        [X],
    ),
    "nn.jit of the parameters only": (
        lambda m, x: nn.jit(Sower, variables=["params"])(name="block")(x),
        "block/value",
        [X],
    ),
    "nn.RNN": (
        lambda m, x: nn.RNN(Cell(name="cell"))(x[None, :, None]),
        "cell/value",
        [np.array([0.0]), np.array([-1.0]), np.array([-3.0])],
    ),
    "nn.cond": (
        lambda m, x: nn.cond(x[0] < 0, lambda m, x: Sower(name="sower")(x), lambda m, x: x, m, x),
        "sower/value",
        [X],
    ),
}


def _inside(transform):
    return lambda m, x: transform(lambda x: Sower(name="sower")(x))(x)


RAW = {
    "jax.jit": (_inside(jax.jit), [X]),
    "jax.vmap": (lambda m, x: jax.vmap(lambda x: Sower(name="sower")(x))(x[:, None]), [X]),
    "jax.checkpoint": (_inside(jax.checkpoint), [X]),
    "jax.vjp": (_inside(lambda f: lambda x: jax.vjp(f, x)[0]), [X]),
    "jax.grad": (_inside(lambda f: jax.grad(lambda x: jnp.sum(f(x)))), [X]),
    "jax.lax.scan": (
        lambda m, x: jax.lax.scan(lambda c, _: (Sower(name="sower")(c), None), x, None, 2),
        [X, X + 1],
    ),
    "jax.lax.cond": (
        lambda m, x: jax.lax.cond(x[0] < 0, lambda x: Sower(name="sower")(x), lambda x: x, x),
        [X],
    ),
    "jax.lax.switch": (
        lambda m, x: jax.lax.switch(0, [lambda x: Sower(name="sower")(x), lambda x: x], x),
        [X],
    ),
    "jax.lax.while_loop": (
        lambda m, x: jax.lax.while_loop(lambda c: c[0] < 1, lambda c: Sower(name="sower")(c), x),
        [X, X + 1],
    ),
    "jax.lax.fori_loop": (
        lambda m, x: jax.lax.fori_loop(0, 2, lambda i, c: Sower(name="sower")(c), x),
        [X, X + 1],
    ),
}
WAYS |= {f"{transform} in a module": (call, "sower/value", rows) for transform, (call, rows) in RAW.items()}


def _assert_sown(updates, tag, rows, form):
    stacked = [row[0] for row in rows if isinstance(row, list)]
    wanted = {f"{tag}/{i:02}": np.max(row) for i, row in enumerate(stacked)} or {tag: np.max(np.stack(rows))}
    if tag.startswith("cell"):
        wanted = {tag: np.mean(np.stack(rows))}
    assert sowlog.compute(updates["metrics"]) == pytest.approx(wanted)
    if form == "sowlog.sow" and not tag.startswith("cell"):
        total = sum(float(np.sum(row)) for row in (stacked or rows))
        assert float(sowlog.total_loss(updates)) == total


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("form", ["sowlog.sow", "a reducer"])
@pytest.mark.parametrize("way", list(WAYS))
def test_a_module_sows_under_every_transform(way, form, jit, monkeypatch):
    """A transform need not name a collection; where one stacks "metrics", each step keeps a state."""
    monkeypatch.setattr(Sower, "form", form)
    call, tag, rows = WAYS[way]
    forward = sowlog.collect(model_of(call).apply)
    for x in (X, X) if jit else (X,):
        _, updates = (jax.jit(forward) if jit else forward)({}, x)
        _assert_sown(updates, tag, rows, form)


def test_layers_with_stacked_parameters_keep_a_state_each():
    """nn.scan and nn.vmap over "params" stack the states of their sows, and need not name "metrics"."""

    class Dense(nn.Module):
        @nn.compact
        def __call__(self, x, *rest):
            y = nn.Dense(3, kernel_init=nn.initializers.ones)(x)
            sowlog.sow(self, "max", y, sowlog.max)
            return (y, None) if rest else y

    settings = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}

    def call(module, x):
        nn.scan(Dense, length=2, **settings)(name="layers")(x, None)
        return nn.vmap(Dense, in_axes=None, axis_size=2, **settings)(name="heads")(x)

    model = model_of(call)
    _, updates = sowlog.collect(model.apply)(model.init(jax.random.key(0), X), X)
    wanted = {"layers/max/00": -6.0, "layers/max/01": -18.0, "heads/max/00": -6.0, "heads/max/01": -6.0}
    assert sowlog.compute(updates["metrics"]) == wanted


@pytest.mark.parametrize("way", list(WAYS))
def test_a_model_outside_of_collect_runs_as_in_flax(way):
    """Where Flax itself allows it: a raw transform in a module that stores would leak."""
    call, _, _ = WAYS[way]
    model_of(call).apply({}, X)


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_a_sow_in_the_condition_of_a_loop_is_refused(jit):
    """The error has the path, the transform and the remedy."""
    call = _loop(_sowing_condition, lambda m, c: (c[0], c[1] + 1))
    forward = sowlog.collect(model_of(call).apply)
    message = (
        r"sower/value is sown in the cond_fn of a jax.lax.while_loop.* sow it in body_fn, or after the loop"
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


@modes.promoting
@pytest.mark.parametrize("custom", [_raw_custom_vjp, _raw_custom_jvp])
@pytest.mark.parametrize("form", ["collect in jit", "collect in grad"])
def test_a_loss_in_a_raw_custom_derivative_raises(custom, form):
    """The value would be right, and the gradient missing."""
    model = model_of(lambda m, x: custom(lambda x: sowlog.sow_loss(m, "loss", jnp.sum(x)) * x)(x))
    apply = sowlog.collect(model.apply)
    call = {
        "collect in jit": jax.jit(lambda x: apply({}, x)),
        "collect in grad": jax.grad(lambda x: sowlog.total_loss(apply({}, x)[1])),
    }[form]
    with pytest.raises(LostMetricError, match=r"loss is a loss sown inside a custom derivative.*y, loss = f"):
        call(X)


def test_a_loss_in_a_lifted_custom_derivative_raises():
    """nn.custom_vjp is one of jax.custom_vjp."""

    def call(module, x):
        return nn.custom_vjp(_sow_layers, _vjp_of_layers, lambda vjp, g: vjp(g))(module, x)

    with pytest.raises(LostMetricError, match="layers/loss is a loss sown inside a custom derivative"):
        sowlog.collect(model_of(call).apply)({}, X)


@pytest.mark.parametrize("custom", [_raw_custom_vjp, _raw_custom_jvp])
def test_a_statistic_in_a_raw_custom_derivative_does_not_vanish_under_a_gradient(custom):
    """Under a gradient JAX runs a rule in place of the function."""

    def function(module, x):
        sowlog.sow(module, "value", x)
        return jnp.sum(x)

    model = model_of(lambda m, x: custom(lambda x: function(m, x))(x))
    _, updates = jax.grad(lambda x: sowlog.collect(model.apply)({}, x), has_aux=True)(X)
    assert sowlog.compute(updates) == {"metrics/value": -2.0}


@modes.infinite
def test_a_method_called_under_a_raw_transform_is_collected():
    """Also if the module is older than the transform, or comes from outside of a branch."""

    class Outer(nn.Module):
        def setup(self):
            self.inner = Sower()

        def __call__(self, x):
            x = jax.jit(lambda x: self.inner(x))(x)
            return nn.cond(x[0] > 0, lambda m, x: self.inner(x), lambda m, x: x, self, x)

    _, updates = sowlog.collect(Outer().apply)({}, X)
    assert sowlog.compute(updates) == {
        "metrics/inner/value": -1.0,
        "losses/inner/loss": -6.0,
        "losses/inner/loss/weighted": -6.0,
        "losses/total": -6.0,
    }


def test_a_name_that_a_submodule_sows_under_is_refused():
    """A module that sows under its submodule's name: one state would replace the other."""

    def call(module, x):
        Sower(name="head")(x)
        sowlog.sow(module, "head", x)

    message = "head is sown under the name of a submodule or scope, in which head/value is sown"
    with pytest.raises(LostMetricError, match=message):
        sowlog.collect(model_of(call).apply)({}, X)


def test_a_name_of_a_submodule_that_sows_nothing_is_free():
    """The tag names the sow alone."""

    def call(module, x):
        nn.Dense(2, name="head")(x)
        sowlog.sow(module, "head", x)

    params = model_of(call).init(jax.random.key(0), X)
    _, updates = sowlog.collect(model_of(call).apply)(params, X)
    assert sowlog.compute(updates["metrics"]) == {"head": -2.0}


def test_a_submodule_that_takes_a_sown_name_is_refused():
    """A submodule that sows under a name that was sown before."""

    def call(module, x):
        sowlog.sow(module, "head", x)
        Sower(name="head")(x)

    with pytest.raises(
        LostMetricError, match="head is sown under the name of a submodule or scope, in which head/"
    ):
        sowlog.collect(model_of(call).apply)({}, X)


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("mutable", [False, ["metrics"]], ids=str)
def test_a_model_applied_inside_a_model_is_not_collected(mutable, form, monkeypatch):
    """A frozen teacher's sows are not of this pass: without `mutable` of its own `apply` they are dropped."""
    monkeypatch.setattr(Sower, "form", form)
    teacher = model_of(lambda m, x: nn.scan(Sower, length=2, variable_axes=_AXES)(name="layers")(x, None)[0])
    if not mutable:
        teacher = model_of(lambda m, x: nn.scan(Sower, length=2)(name="layers")(x, None)[0])

    def call(module, x):
        result = teacher.apply({}, x, mutable=mutable)
        y, inner = result if mutable else (result, {"metrics": {"layers": {"value": 0}}})
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
    """It reaches the user once, from a function that ran once, with the user's line at its end."""
    runs = []

    def call(module, x):
        runs.append(1)
        return nn.cond(x[0] < 0, _sow_distance, lambda m, d: d + "one", module, x)

    with pytest.raises(TypeError, match=r"add|unsupported") as caught:
        sowlog.collect(model_of(call).apply)({}, X)
    assert len(runs) == 1
    assert any(frame.lineno == _line_of('d + "one"') for frame in caught.traceback)


def _line_of(text):
    lines = Path(__file__).read_text().splitlines()
    return next(number for number, line in enumerate(lines) if text in line)


def test_branches_that_differ_in_their_results_stay_an_error():
    """Sows are added to branches, and repair nothing else."""

    def call(module, x):
        return nn.cond(x[0] > 0, lambda m, x: Sower(name="sower")(x), lambda m, x: x[:2], module, x)

    with pytest.raises(TypeError, match=r"branch|true_fun|cond"):
        sowlog.collect(model_of(call).apply)({}, X)


@modes.infinite
@pytest.mark.parametrize("reducer", [sowlog.histogram, sowlog.quantiles], ids=str)
def test_layers_are_stacked_in_front_of_the_bins(reducer):
    """A state's own axes come last, also if the transform stacks the collection at -1."""

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            def sow(module, x):
                sowlog.sow(module, "value", x, reducer)
                return x

            return nn.cond(x[0] < -1, sow, lambda m, x: x, self, 2 * x), None

    def call(module, x):
        return nn.scan(Layer, variable_axes={"metrics": -1}, length=2)(name="layers")(x, None)

    _, updates = sowlog.collect(model_of(call).apply)({}, X)
    assert updates["metrics"]["layers"]["value"].seen.tolist() == [False, True]


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


def test_a_start_that_is_not_of_the_states_kind_is_an_error():
    """JAX refuses the branch that does not sow."""

    def sow(module, x):
        sowlog.sow(module, "value", x, Unsteady())
        return x

    with pytest.raises(TypeError, match=r"(?s)float32\[\].*float32\[2\]"):
        sowlog.collect(model_of(lambda m, x: nn.cond(x[0] < 0, sow, lambda m, x: x, m, x)).apply)({}, X)


class Named(nn.Module):
    @nn.compact
    def __call__(self, x):
        sowlog.sow(self, "sum", x, sowlog.sum)
        return x


def test_each_module_of_a_jitted_class_sows_under_its_own_path():
    """nn.jit keeps one traced function for all modules that differ in name alone."""
    jitted = nn.jit(Named)

    def call(module, x):
        return jitted(name="one")(jitted(name="two")(x))

    for _ in range(2):
        _, updates = sowlog.collect(model_of(call).apply)({}, X)
        total = np.sum(X)
        assert sowlog.compute(updates["metrics"]) == {"one/sum": total, "two/sum": total}
    _, updates = sowlog.collect(nn.Sequential([jitted(), jitted()]).apply)({}, X)
    assert sorted(sowlog.compute(updates["metrics"])) == ["layers_0/sum", "layers_1/sum"]
