"""A value sown in a function arrives as one number from under every transform of JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

import sowlog
from sowlog.testing import count_traces
from tests.support import modes
from tests.support.matrix import cases

ROWS = jnp.arange(8.0).reshape(4, 2)
BOTH_ROWS = [np.asarray(row) for row in ROWS]


def sow(x):
    """Sow a count, the mean and the last of an array, and return a function of it."""
    sowlog.sow("runs", 1 + 0 * jnp.ravel(x)[0], sowlog.sum)
    sowlog.sow("mean", x)
    sowlog.sow("last", jnp.ravel(x)[0], sowlog.last)
    return jnp.sin(x)


def scan(x, body=sow):
    return jax.lax.scan(lambda total, row: (total + body(row), None), jnp.zeros(2), x)[0].sum()


@jax.custom_vjp
def by_vjp(x):
    return sow(x)


by_vjp.defvjp(lambda x: (sow(x), x), lambda x, g: (g * jnp.cos(x),))


@jax.custom_jvp
def by_jvp(x):
    return sow(x)


@by_jvp.defjvp
def _(primals, tangents):
    return sow(*primals), jnp.cos(*primals) * tangents[0]


@jax.custom_vjp
def by_forward_rule(x):
    return jnp.sin(x)


by_forward_rule.defvjp(lambda x: (sow(x), x), lambda x, g: (g * jnp.cos(x),))


@jax.custom_jvp
def by_jvp_rule(x):
    return jnp.sin(x)


@by_jvp_rule.defjvp
def _(primals, tangents):
    return sow(*primals), jnp.cos(*primals) * tangents[0]


@jax.custom_vjp
def by_backward_rule(x):
    return jnp.sin(x)


by_backward_rule.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x) + 0 * sow(x),))


def evaluated_again(x):
    """Call a function whose backward rule evaluates its jaxpr again, as jax.experimental.ode.odeint does."""
    traced, _ = jax.closure_convert(sow, x)
    function = jax.custom_vjp(traced)
    function.defvjp(lambda x: (traced(x), x), lambda x, g: jax.vjp(traced, x)[1](g))
    return function(x)


@jax.custom_vjp
def by_itself(x):
    return sow(x)


by_itself.defvjp(lambda x: (jax.lax.stop_gradient(by_itself(x)), x), lambda x, g: (g * jnp.cos(x),))


def solved(x):
    """Sow in the operator of a linear solve, which the solver calls once; the solution is the input."""

    def operator(x):
        sow(x)
        return x

    def solve(operator, b):
        operator(b)
        return b

    return jax.lax.custom_linear_solve(operator, x, solve, solve)


def two_rows(x):
    """Sow in a loop whose length depends on the values, and only of rows below 3."""
    return jax.lax.while_loop(lambda i: x[i, 0] < 3, lambda i: i + 1 + 0 * sow(x[i])[0].astype(int), 0)


def counted(bound):
    return jax.lax.while_loop(lambda i: i < bound, lambda i: i + 1 + 0 * sow(i + jnp.zeros(2))[0], 0.0)


def sharded(function, **settings):
    mesh = Mesh(np.array(jax.devices()[:4]), ("shards",))
    specs = PartitionSpec("shards")
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=specs, **settings)


def on_two_axes(x):
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("data", "model"))
    specs = PartitionSpec("data")
    return jax.shard_map(sow, mesh=mesh, in_specs=specs, out_specs=specs)(x)


def in_depth(x):
    """A branch in a checkpointed loop in a mapped function, under an inner gradient."""

    def row_loss(row):
        def step(total, i):
            return total + jax.lax.cond(row[0] > 1, sow, jnp.cos, row + 0 * i), None

        return jax.lax.scan(jax.checkpoint(step), jnp.zeros(2), jnp.arange(2.0))[0].sum()

    return jax.vmap(jax.grad(row_loss))(x)


def is_long(row):
    return row[0] > 1


cached = jax.jit(sow)
unmapped = np.zeros(2, np.float32)

# name -> (a function of the rows, the arrays that it sows, in order)
CASES = {
    "no transform": (sow, [ROWS]),
    "jit": (lambda x: jax.jit(sow)(x), [ROWS]),
    "a jitted function traced before": (cached, [ROWS]),
    "jit, called twice": (lambda x: cached(x[:2]) + cached(x[2:]), [ROWS[:2], ROWS[2:]]),
    "vmap": (jax.vmap(sow), BOTH_ROWS),
    "vmap of an unmapped value": (jax.vmap(lambda row: row + sow(jnp.zeros(2))), [unmapped] * 4),
    "vmap of vmap": (jax.vmap(jax.vmap(sow)), [np.asarray(x) for x in jnp.ravel(ROWS)]),
    "vmap over a named axis": (
        jax.vmap(lambda row: sow(row - jax.lax.pmean(row, "rows")), axis_name="rows"),
        list(np.asarray(ROWS) - np.mean(np.asarray(ROWS), axis=0)),
    ),
    "vmap of jit": (jax.vmap(cached), BOTH_ROWS),
    "scan": (scan, BOTH_ROWS),
    "scan, reversed and unrolled": (
        lambda x: jax.lax.scan(lambda c, row: (c, sow(row)), 0, x, reverse=True, unroll=2)[1],
        BOTH_ROWS[::-1],
    ),
    "scan of no steps": (lambda x: scan(x[:0]), []),
    "map": (lambda x: jax.lax.map(sow, x), BOTH_ROWS),
    "map in batches": (lambda x: jax.lax.map(sow, x, batch_size=3), BOTH_ROWS),
    "fori_loop": (lambda x: jax.lax.fori_loop(0, 4, lambda i, c: c + sow(x[i]), jnp.zeros(2)), BOTH_ROWS),
    "while_loop": (two_rows, BOTH_ROWS[:2]),
    "vmap of fori_loop": (
        jax.vmap(lambda row: jax.lax.fori_loop(0, 2, lambda i, c: c + sow(row), jnp.zeros(2))),
        [row for row in BOTH_ROWS for _ in range(2)],
    ),
    "cond, taken": (lambda x: jax.lax.cond(x[0, 0] < 1, sow, jnp.sin, x), [ROWS]),
    "cond, not taken": (lambda x: jax.lax.cond(x[0, 0] > 1, sow, jnp.sin, x), []),
    "switch": (lambda x: jax.lax.switch(1, [jnp.sin, sow, jnp.cos], x), [ROWS]),
    "a mapped predicate": (
        jax.vmap(lambda row: jax.lax.cond(is_long(row), sow, jnp.sin, row)),
        BOTH_ROWS[1:],
    ),
    "a mapped bound": (
        lambda x: jax.vmap(counted)(jnp.array([1.0, 3.0, 0.0])) + x[:3, 0],
        [np.zeros(2), np.zeros(2), np.ones(2), np.full(2, 2.0)],
    ),
    "checkpoint": (jax.checkpoint(sow), [ROWS]),
    "checkpoint with a policy": (
        jax.grad(lambda x: jax.checkpoint(scan, policy=jax.checkpoint_policies.everything_saveable)(x)),
        BOTH_ROWS,
    ),
    "grad": (jax.grad(lambda x: sow(x).sum()), [ROWS]),
    "grad of scan": (jax.grad(scan), BOTH_ROWS),
    "grad of what does not depend on the loop": (
        jax.grad(lambda x: scan(x, lambda row: row + sow(jnp.zeros(2)))),
        [unmapped] * 4,
    ),
    "grad of checkpoint of scan": (jax.grad(jax.checkpoint(scan)), BOTH_ROWS),
    "grad of scan of checkpoint": (jax.grad(lambda x: scan(x, jax.checkpoint(sow))), BOTH_ROWS),
    "grad of a jitted scan": (jax.grad(jax.jit(scan)), BOTH_ROWS),
    "grad of cond": (jax.grad(lambda x: jax.lax.cond(x[0, 0] < 1, sow, jnp.sin, x).sum()), [ROWS]),
    "grad of grad": (jax.grad(lambda x: jax.grad(lambda x: sow(x).sum())(x).sum()), [ROWS]),
    "vmap of grad": (jax.vmap(jax.grad(lambda row: sow(row).sum())), BOTH_ROWS),
    "vjp": (lambda x: jax.vjp(scan, x)[1](1.0), BOTH_ROWS),
    "jvp": (lambda x: jax.jvp(scan, (x,), (x,))[1], BOTH_ROWS),
    "linearize": (lambda x: jax.linearize(scan, x)[1](x), BOTH_ROWS),
    "linear_transpose, which only traces": (
        lambda x: jax.linear_transpose(lambda x: (sow(x), sow(jnp.zeros(2)), 2 * x)[2], x)(x)[0],
        [],
    ),
    "jacfwd": (jax.jacfwd(scan), BOTH_ROWS),
    "jacrev": (jax.jacrev(lambda x: sow(x)), [ROWS]),
    "hessian": (jax.hessian(scan), BOTH_ROWS),
    "custom_vjp": (by_vjp, [ROWS]),
    "grad of custom_vjp": (jax.grad(lambda x: by_vjp(x).sum()), [ROWS]),
    "grad of jit of custom_vjp": (jax.grad(lambda x: jax.jit(by_vjp)(x).sum()), [ROWS]),
    "grad of scan of custom_vjp": (jax.grad(lambda x: scan(x, by_vjp)), BOTH_ROWS),
    "grad of scan of checkpoint of custom_vjp": (
        jax.grad(lambda x: scan(x, jax.checkpoint(by_vjp))),
        BOTH_ROWS,
    ),
    "custom_jvp": (by_jvp, [ROWS]),
    "grad of custom_jvp": (jax.grad(lambda x: by_jvp(x).sum()), [ROWS]),
    "vmap of grad of custom_jvp": (jax.vmap(jax.grad(lambda row: by_jvp(row).sum())), BOTH_ROWS),
    "grad of scan of custom_jvp": (jax.grad(lambda x: scan(x, by_jvp)), BOTH_ROWS),
    "grad of a forward rule": (jax.grad(lambda x: by_forward_rule(x).sum()), [ROWS]),
    "grad of checkpoint of a forward rule": (
        jax.grad(lambda x: jax.checkpoint(by_forward_rule)(x).sum()),
        [ROWS],
    ),
    "grad of a backward rule": (jax.grad(lambda x: by_backward_rule(x).sum()), [ROWS]),
    "a backward rule that evaluates the function again": (
        jax.grad(lambda x: evaluated_again(x).sum()),
        [ROWS],
    ),
    "grad of scan of such a rule": (jax.grad(lambda x: scan(x, evaluated_again)), BOTH_ROWS),
    "custom_linear_solve": (solved, [ROWS]),
    "grad of custom_linear_solve": (jax.grad(lambda x: solved(x).sum()), [ROWS]),
    "vmap of custom_linear_solve": (jax.vmap(solved), BOTH_ROWS),
    "jvp of a jvp rule": (lambda x: jax.jvp(by_jvp_rule, (x,), (x,))[1], [ROWS]),
    "grad of a jvp rule": (jax.grad(lambda x: by_jvp_rule(x).sum()), [ROWS]),
    "shard_map": (sharded(sow), BOTH_ROWS),
    "shard_map, unchecked": (sharded(sow, check_vma=False), BOTH_ROWS),
    "shard_map of scan": (sharded(lambda x: jax.lax.map(sow, x)), BOTH_ROWS),
    "shard_map of a branch": (
        sharded(lambda x: jax.lax.cond(is_long(x[0]), sow, jnp.sin, x)),
        BOTH_ROWS[1:],
    ),
    "shard_map of two branches": (
        sharded(lambda x: jax.lax.cond(is_long(x[0]), sow, lambda x: sow(jnp.zeros((1, 2))) + x, x)),
        [unmapped, *BOTH_ROWS[1:]],
    ),
    "shard_map over one of two axes": (on_two_axes, [ROWS[:2], ROWS[2:]]),
    "grad of shard_map": (jax.grad(lambda x: sharded(sow)(x).sum()), BOTH_ROWS),
    "pmap": (jax.pmap(sow), BOTH_ROWS),
    "grad of pmap": (jax.grad(lambda x: jax.pmap(sow)(x).sum()), BOTH_ROWS),
    "in depth": (in_depth, [row for row in BOTH_ROWS[1:] for _ in range(2)]),
}


def assert_sown(metrics, wanted):
    computed = sowlog.compute(metrics)
    if not wanted:
        assert computed == {}
        return
    assert computed["runs"] == len(wanted)
    np.testing.assert_allclose(computed["mean"], np.mean([np.mean(x) for x in wanted]), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(computed["last"], np.ravel(wanted[-1])[0], rtol=1e-6, atol=1e-7)


# Eagerly JAX compiles each operation by itself, one of a shard_map for seconds: `make matrix` runs all so.
FEW = [
    *("no transform", "jit, called twice", "vmap of jit", "vmap over a named axis", "scan", "while_loop"),
    *("vmap of fori_loop", "switch", "a mapped predicate", "checkpoint", "grad of scan of checkpoint"),
    *(
        "grad of a jitted scan",
        "jacfwd",
        "grad of custom_vjp",
        "a backward rule that evaluates the function again",
    ),
    *("custom_linear_solve", "grad of a jvp rule", "shard_map of a branch", "pmap", "in depth"),
]
EAGER = cases(CASES, default=FEW)


@pytest.mark.parametrize("case", EAGER)
def test_a_value_arrives_once_for_each_run_of_a_function_that_is_eager(case):
    """How often it ran, the mean over all runs, and the value of the last."""
    function, wanted = CASES[case]
    _, updates = sowlog.collect(function)(ROWS)
    assert_sown(updates["metrics"], wanted)


@pytest.mark.parametrize("case", list(CASES))
def test_a_value_arrives_once_for_each_run_of_its_function(case):
    """Under jit, at each call of one trace."""
    function, wanted = CASES[case]
    traced = count_traces(lambda x: sowlog.collect(function)(x))
    step = jax.jit(traced)
    for _ in range(2):
        _, updates = step(ROWS)
        assert_sown(updates["metrics"], wanted)
    assert traced.traces == 1


@pytest.mark.parametrize("case", list(CASES))
def test_a_collected_function_computes_what_it_does_without(case):
    """Bit for bit: its result under jit."""
    function, _ = CASES[case]
    without = jax.jit(function)(ROWS)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(sowlog.collect(function))(ROWS)[0], without)


def within_vjp(x):
    """Run a forward rule, which JAX runs again to differentiate the derivative."""
    return jax.vjp(lambda x: jax.lax.map(by_itself, x), x)[0]


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize(
    ("function", "wanted"), [(evaluated_again, [ROWS]), (within_vjp, BOTH_ROWS)], ids=["again", "in vjp"]
)
def test_a_function_evaluated_again_after_the_collect_is_counted_once(function, wanted, jit):
    """Its gradient is taken around the collect, and is that of the function without."""

    def objective(x):
        y, updates = sowlog.collect(function)(x)
        return y.sum(), updates

    differentiate = jax.grad(objective, has_aux=True)
    gradient, updates = (jax.jit(differentiate) if jit else differentiate)(ROWS)
    assert_sown(updates["metrics"], wanted)
    np.testing.assert_allclose(gradient, jax.grad(lambda x: function(x).sum())(ROWS), rtol=1e-6)


def loss(row):
    sowlog.sow_loss("square", jnp.sum(row**2), weight=0.5)
    return row


# Functions whose losses are the squares of all elements of the rows, each once.
LOSSES = {
    "no transform": loss,
    "jit": jax.jit(loss),
    "vmap": jax.vmap(loss),
    "scan": lambda x: jax.lax.scan(lambda c, row: (c, loss(row)), 0, x)[1],
    "scan of checkpoint": lambda x: jax.lax.scan(jax.checkpoint(lambda c, row: (c, loss(row))), 0, x)[1],
    "fori_loop": lambda x: jax.lax.fori_loop(0, 4, lambda i, c: c + loss(x[i]), jnp.zeros(2)),
    "stacked": lambda x: jax.lax.map(sowlog.stacked(loss), x),
    "cond": jax.vmap(lambda row: jax.lax.cond(row[0] > -1, loss, jnp.sin, row)),
    "shard_map": lambda x: sharded(loss)(x),
    "an inner gradient": lambda x: jax.grad(lambda x: loss(x).sum())(x),
}


@modes.leaking
@pytest.mark.parametrize("case", list(LOSSES))
def test_a_loss_is_trained_on_as_it_is_logged(case):
    """Its value, its weighted value, and the gradient written by hand."""

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def objective(x):
        _, updates = sowlog.collect(LOSSES[case])(x)
        return sowlog.total_loss(updates), updates

    (total, updates), gradient = objective(ROWS)
    wanted = float(jnp.sum(ROWS**2)) / (4 if case == "shard_map" else 1)
    assert sowlog.compute(updates["losses"]) == {"square": wanted, "square/weighted": 0.5 * wanted}
    assert total == 0.5 * wanted
    np.testing.assert_allclose(gradient, ROWS / (4 if case == "shard_map" else 1), rtol=1e-6)


@modes.leaking
@pytest.mark.parametrize("stacked", [False, True], ids=["one", "a stack"])
@pytest.mark.parametrize("checked", [True, False], ids=["checked", "unchecked"])
def test_a_loss_of_some_devices_is_a_mean_over_all(checked, stacked):
    """A device whose branch sows no loss adds 0 to the mean, as such a microbatch does."""

    def branch(rows):
        return jax.lax.cond(is_long(rows[0]), loss, jnp.sin, rows)

    def on_device(rows):
        return jax.lax.map(sowlog.stacked(branch), rows[None])[0] if stacked else branch(rows)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def objective(x):
        _, updates = sowlog.collect(sharded(on_device, check_vma=checked))(x)
        return sowlog.total_loss(updates), updates

    (total, updates), gradient = objective(ROWS)
    sown = np.array([bool(is_long(row)) for row in ROWS])[:, None]
    wanted = np.sum(sown * ROWS**2) / 4
    assert 0 < sown.sum() < 4
    assert sowlog.compute(updates["losses"]) == {"square": wanted, "square/weighted": 0.5 * wanted}
    assert total == 0.5 * wanted
    np.testing.assert_allclose(gradient, sown * ROWS / 4, rtol=1e-6)


@pytest.mark.parametrize("inner", [by_vjp, by_jvp], ids=["custom_vjp", "custom_jvp"])
def test_a_custom_derivative_may_collect_from_another(inner):
    """Under a gradient JAX runs its functions several times, and in each the collect has the value."""

    def collecting(x):
        y, updates = sowlog.collect(inner)(x)
        return y, updates["metrics"]["runs"].compute()

    @jax.custom_jvp
    def outer(x):
        y, runs = collecting(x)
        sowlog.sow("inner", runs, sowlog.sum)
        return y

    @outer.defjvp
    def _(primals, tangents):
        y, runs = collecting(*primals)
        return y * runs, jnp.cos(*primals) * tangents[0]

    def objective(x):
        y, updates = sowlog.collect(outer)(x)
        return y.sum(), updates["metrics"]

    differentiate = jax.value_and_grad(objective, has_aux=True)
    for run in (differentiate, jax.jit(differentiate)):
        (y, metrics), gradient = run(ROWS)
        assert sowlog.compute(metrics) == {"inner": 1.0}
        np.testing.assert_allclose(y, jnp.sin(ROWS).sum(), rtol=1e-6)
        np.testing.assert_allclose(gradient, jnp.cos(ROWS), rtol=1e-6)


def test_a_jaxpr_with_a_sow_may_be_evaluated():
    """As libraries that convert closures do: JAX passes its literals as Python's numbers, without a shape."""

    def sowing(x):
        sowlog.sow("runs", 1.0, sowlog.sum)
        sowlog.sow("x", x, sowlog.last)
        return 2 * x

    def evaluated(x):
        closed = jax.make_jaxpr(sowing)(x)
        return jax.core.eval_jaxpr(closed.jaxpr, closed.consts, x)

    for function in (evaluated, jax.jit(evaluated)):
        _, updates = sowlog.collect(function)(3.0)
        leaves = jax.tree.leaves(updates)
        assert all(hasattr(leaf, "shape") for leaf in leaves), leaves
        assert sowlog.compute(updates["metrics"]) == {"runs": 1.0, "x": 3.0}
