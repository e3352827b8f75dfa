"""States of one value on several ways, compared with each other."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from sowlog.testing import assert_reducer_laws
from tests.support import modes
from tests.support.oracles import public_reducers

each_reducer = pytest.mark.parametrize("name", sorted(public_reducers()))

_compute = jax.jit(sowlog.State.compute)


# The numbers themselves are tested in test_reducers.py and test_distributions.py.
pytestmark = pytest.mark.usefixtures("light_compilation")


@each_reducer
def test_laws_hold(name):
    """Identity, associativity, commutativity, steady structure and one number hold for each."""
    assert_reducer_laws(public_reducers()[name])


@each_reducer
def test_a_mask_is_the_same_in_every_dtype(name):
    """A mask of flags, integers or floats selects the elements that an index would."""
    value = jnp.asarray(np.random.default_rng(0).integers(-(2**30), 2**30, 64), jnp.int32)
    mask = np.arange(64) % 3 > 0
    of = jax.jit(public_reducers()[name].of)
    selected = jax.tree.leaves(_compute(of(value[np.flatnonzero(mask)])))
    for dtype in (jnp.bool_, jnp.int32, jnp.uint32, jnp.float32):
        masked = jax.tree.leaves(_compute(of(value, jnp.asarray(mask, dtype))))
        for a, b in zip(masked, selected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


@modes.infinite
@each_reducer
def test_a_fetched_state_is_the_state(name):
    """On the host, as NumPy arrays or copied back, a state merges and computes as on the device."""
    of = jax.jit(public_reducers()[name].of)
    states = of(np.array([1.0, 4.0])), of(np.array([2.0, 5.0]), np.zeros(2)), of(np.array([3.0, 9.0]))
    merge = jax.jit(sowlog.merge)
    wanted = jax.tree.leaves(_compute(functools.reduce(merge, states)))
    for move in (jax.device_get, functools.partial(jax.tree.map, np.array), _pickled):
        moved = move(states)
        for merged in (functools.reduce(merge, moved), functools.reduce(_merge_parts, moved)):
            for x, y in zip(jax.tree.leaves(_compute(merged)), wanted, strict=True):
                np.testing.assert_array_equal(x, y)


def _merge_parts(a, b):
    # Outside jit, where the arrays of a fetched state are NumPy's as the merge sees them.
    return a.merge(b)


def _pickled(tree):
    return pickle.loads(pickle.dumps(tree))
