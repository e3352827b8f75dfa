"""Places of nnx modules: models in odd holders, modules that are made, copied or moved in the call."""

import functools
import types

import flax.struct
import jax
import numpy as np
import pytest

from tests.support.nnx_models import INPUTS, Model, X, largest_of


@pytest.fixture
def model():
    return Model()


# Holders of a model -----------------------------------------------------------------------------------------


class Holder:
    """An object that is neither a module nor a pytree."""

    def __init__(self, model):
        self.model = model

    def __call__(self, x):
        return self.model(x)


@jax.tree_util.register_pytree_with_keys_class
class Node(Holder):
    """A pytree of its own kind."""

    def tree_flatten_with_keys(self):
        return [(jax.tree_util.GetAttrKey("model"), self.model)], None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


@flax.struct.dataclass
class TrainState:
    model: Model


def _with_default(model):
    def call(x, model=model):
        return model(x)

    return call


def _with_keyword_default(model):
    def call(x, *, model=model):
        return model(x)

    return call


def _remembering(model):
    @functools.lru_cache
    def get():
        return model

    return lambda x: get()(x)


def _namespace(model):
    return types.SimpleNamespace(model=model)


def _in_cycle(model):
    holder = {"model": model}
    holder["itself"] = holder
    return holder


HOLDERS = {
    "an object": lambda m: (lambda holder, x: holder(x), Holder(m)),
    "an object in an object": lambda m: (Holder(Holder(m)),),
    "a namespace": lambda m: (lambda space, x: space.model(x), _namespace(m)),
    "a function": lambda m: (lambda call, x: call(x), lambda x: m(x)),
    "a method": lambda m: (lambda call, x: call(x), m.__call__),
    "a partial": lambda m: (jax.jit(lambda f, x: f(x)), jax.tree_util.Partial(lambda m, x: m(x), m)),
    "a default": lambda m: (_with_default(m),),
    "a keyword default": lambda m: (_with_keyword_default(m),),
    "a cached function": lambda m: (_remembering(m),),
}
KEYED_HOLDERS = {
    "a pytree": lambda m: (jax.jit(lambda node, x: node.model(x)), Node(m)),
    "a dataclass of Flax": lambda m: (jax.jit(lambda state, x: state.model(x)), TrainState(m)),
    "a dict with itself": lambda m: (lambda holder, x: holder["model"](x), _in_cycle(m)),
}


@pytest.mark.parametrize("holder", list(HOLDERS))
def test_models_are_found_in_what_a_function_is_given_or_holds(holder, model):
    fn, *args = HOLDERS[holder](model)
    assert largest_of(fn, *args, X) == INPUTS


@pytest.mark.parametrize("holder", list(KEYED_HOLDERS))
def test_the_keys_of_containers_stand_before_the_paths(holder, model):
    fn, *args = KEYED_HOLDERS[holder](model)
    assert largest_of(fn, *args, X) == {f"model/{path}": value for path, value in INPUTS.items()}


def test_archives_are_not_read(tmp_path, model):
    """A mapping that is no dict may read its values from a file, as that of np.load does."""
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    with np.load(tmp_path / "arrays.npz") as archive:
        assert largest_of(lambda x: (archive, model(x))[1], X) == INPUTS
        assert largest_of(lambda archive, x: model(x), archive, X) == INPUTS
