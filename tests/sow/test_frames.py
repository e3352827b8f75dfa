"""The frames that decisions depend on: a rename upstream is an error of the first collect."""

import inspect
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax.core import lift, scope
from flax.linen import transforms as linen_transforms
from jax._src import custom_derivatives

import sowlog
from sowlog._sow import frames


class Model(nn.Module):
    """A model that sows."""

    @nn.compact
    def __call__(self, x):
        sowlog.sow(self, "value", x)
        return x


@pytest.fixture(autouse=True)
def _first_collect():
    """Let each test's collect be the first of its process, and the next test's as well."""
    frames.check_frames.cache_clear()
    yield
    frames.check_frames.cache_clear()


def renamed(code, change):
    """Return code with the change made to it and to all code within."""
    within = (renamed(each, change) if isinstance(each, types.CodeType) else each for each in code.co_consts)
    return change(code).replace(co_consts=tuple(within))


def other_file(code):
    """Return code that stands in another file, as after a move upstream."""
    return code.replace(co_filename=code.co_filename.replace(".py", "_new.py"))


def other_name(code):
    """Return code whose functions have another name, as after a renaming upstream."""
    return code.replace(co_qualname=f"new_{code.co_qualname}".replace(".<locals>.", ".<locals>.new_"))


FUNCTIONS = {
    "apply": scope.apply,
    "nn.scan": lift.pack,
    "the cond_fn of nn.while_loop": lift.while_loop,
    "nn.custom_vjp": lift.custom_vjp,
    "jax.custom_jvp": custom_derivatives.custom_jvp.__call__,
    "jax.custom_vjp": custom_derivatives.custom_vjp.__call__,
    "nn.RNN": nn.RNN.__call__,
    "the check of a module's setup": nn.Module._validate_setup,
    "the fingerprint of a module": linen_transforms._fingerprint_recursive,
}


def test_the_frames_are_those_of_this_flax_and_jax():
    """All that is looked for is found, and each check is tested below."""
    frames.check_frames()
    assert set(FUNCTIONS) == set(frames._CHECKS)


@pytest.mark.parametrize("change", [other_file, other_name])
@pytest.mark.parametrize("frame", FUNCTIONS)
def test_a_renamed_frame_is_an_error_of_the_first_collect(frame, change, monkeypatch):
    """The error names the frame; without it, a dropped value would be lost in silence."""
    function = inspect.unwrap(FUNCTIONS[frame])
    monkeypatch.setattr(function, "__code__", renamed(function.__code__, change))
    collected = sowlog.collect(Model().apply)
    with pytest.raises(RuntimeError, match=rf"does not find .*{frame}.* in flax"):
        collected({}, jnp.ones(3))


def test_the_filters_of_a_lifted_transform_are_among_the_frames(monkeypatch):
    """Where the filters have another name, the returned collections are unknown."""
    code = lift.pack.__code__
    names = {"out_variable_filters": "outgoing"}

    def other_variable(code):
        return code.replace(
            co_varnames=tuple(names.get(name, name) for name in code.co_varnames),
            co_cellvars=tuple(names.get(name, name) for name in code.co_cellvars),
            co_freevars=tuple(names.get(name, name) for name in code.co_freevars),
        )

    monkeypatch.setattr(lift.pack, "__code__", renamed(code, other_variable))
    with pytest.raises(RuntimeError, match=r"does not find nn\.scan"):
        sowlog.collect(Model().apply)({}, jnp.ones(3))


def test_frames_are_checked_once_in_a_process(monkeypatch):
    """Later calls pay nothing."""
    sowlog.collect(Model().apply)({}, jnp.ones(3))
    monkeypatch.setattr(frames, "_CHECKS", {"apply": lambda: False})
    sowlog.collect(Model().apply)({}, jnp.ones(3))


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, jax.eval_shape])
def test_the_first_collect_may_be_anywhere(transform):
    """Within transforms, and with a module's interceptors, which the check does not call."""
    calls = []

    def intercept(call, args, kwargs, context):
        calls.append(context.method_name)
        return call(*args, **kwargs)

    def first(x):
        with nn.intercept_methods(intercept):
            return sowlog.collect(Model().apply)({}, x)[1]

    sown = transform(first, jnp.ones(3)) if transform is jax.eval_shape else transform(first)(jnp.ones(3))
    assert set(sown["metrics"]) == {"value"}
    assert calls == ["__call__"]
