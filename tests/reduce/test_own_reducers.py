"""Reducers of a user, by subclass or from functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from sowlog.testing import assert_reducer_laws
from tests.support import modes


class GeometricMean(sowlog.Reducer):
    """A user's own reducer, by subclassing."""

    def empty(self):
        return {"logs": jnp.zeros(()), "weight": jnp.zeros(())}

    def from_value(self, value, weight):
        weight = jnp.ones_like(value) if weight is None else weight
        return {"logs": jnp.sum(jnp.log(jnp.abs(value)) * weight), "weight": jnp.sum(weight)}

    def merge(self, a, b):
        return jax.tree.map(jnp.add, a, b)

    def compute(self, parts):
        return {"value": jnp.exp(parts["logs"] / parts["weight"]), "weight": parts["weight"]}


_POSITIVE = [np.array([1.0, 4.0]), np.array([2.0]), np.array([[8.0, 1.5]])]


def test_a_users_subclass_obeys_the_laws():
    """Four methods make a reducer that accumulates, stacks and keeps axes like ours."""
    assert_reducer_laws(GeometricMean(), _POSITIVE)
    state = GeometricMean(axis=0).of([[1.0, 3.0], [4.0, 3.0]], weight=[[1.0], [1.0]])
    np.testing.assert_allclose(state.compute()["value"], [2.0, 3.0], rtol=1e-6)


def test_a_reducer_built_from_functions_obeys_the_laws():
    """init, add, merge and compute make a reducer; its accumulator keeps init's dtype."""
    count_large = sowlog.Reducer.build(
        init=lambda: jnp.zeros((), jnp.int32),
        add=lambda n, x: n + jnp.sum(x > 1),
        merge=lambda a, b: a + b,
        compute=lambda n: n,
        name="count_large",
    )
    assert_reducer_laws(count_large, _POSITIVE)
    assert float(count_large.of(_POSITIVE[0]).compute()) == 1.0
    with pytest.raises(
        ValueError, match="count_large was built from functions and its `add` takes no weight"
    ):
        count_large.of(1.0, weight=2.0)


def test_a_python_number_as_init_is_made_an_array_of_strong_dtype():
    """`init=lambda: 0.0` starts a float32 state, not a weakly typed one that is traced twice."""
    total = _broken(init=lambda: 0.0)
    assert_reducer_laws(total)
    assert not jax.tree.leaves(total.init_fn())[0].weak_type


def _broken(**changes):
    functions = {
        "init": lambda: jnp.zeros(()),
        "add": lambda n, x: n + jnp.sum(x),
        "merge": lambda a, b: a + b,
        "compute": lambda n: n,
    }
    return sowlog.Reducer.build(**{**functions, **changes}, name="broken")


@modes.promoting
@pytest.mark.parametrize(
    ("changes", "law"),
    [
        ({"init": lambda: jnp.ones(())}, "neutral"),
        ({"merge": lambda a, b: a - b}, "neutral|associative"),
        ({"merge": lambda a, b: (a + b) / 2}, "neutral|associative"),
        ({"merge": lambda a, b: a + b + 0.1 * b * (a != 0) * (b != 0)}, "associative|commutative"),
        ({"add": lambda n, x: n + jnp.mean(x)}, "one call and several calls"),
        ({"init": lambda: jnp.zeros((), jnp.bfloat16)}, "narrower than 32 bits"),
    ],
)
def test_the_laws_catch_a_broken_reducer(changes, law):
    """Each way to get a reducer wrong fails the law that it breaks."""
    with pytest.raises(AssertionError, match=law):
        assert_reducer_laws(_broken(**changes))
