"""Linen models that nest structures: a branch around a stack, an RNN beside a branch, many branches."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from sowlog.testing import count_traces

X = np.ones((3, 2), np.float32)


class Layer(nn.Module):
    """Sows its input, and adds one to it."""

    @nn.compact
    def __call__(self, x, *rest):
        sowlog.sow(self, "rms", x, sowlog.rms)
        return (x + 1, None) if rest else x + 1


def _scan(module, x):
    return nn.scan(Layer, variable_axes={"metrics": 0}, length=2)(name="layers")(x, None)[0]


def _vmap(module, x):
    return nn.vmap(Layer, variable_axes={"metrics": 0})(name="heads")(x)


def _scan_of_scan(module, x):
    def body(module, x, _):
        return _scan(module, x), None

    return nn.scan(body, variable_axes={"metrics": 0}, length=2)(module, x, None)[0]


STACKS = {
    # name -> the function, and the inputs of its layers when x is 1
    "scan": (_scan, {"layers/rms/00": 1.0, "layers/rms/01": 2.0}),
    "vmap": (_vmap, dict.fromkeys(["heads/rms/00", "heads/rms/01", "heads/rms/02"], 1.0)),
    "scan of scan": (_scan_of_scan, {f"layers/rms/{n // 2:02}/{n % 2:02}": 1.0 + n for n in range(4)}),
}
OUTER = {
    # name -> the module's call, and how often the stack runs
    "one branch": (lambda m, x, stack: nn.cond(x[0, 0] > 0, stack, lambda m, x: x, m, x), 1),
    "both branches": (lambda m, x, stack: nn.cond(x[0, 0] > 0, stack, stack, m, x), 1),
    "while loop": (
        lambda m, x, stack: nn.while_loop(
            lambda m, carry: carry[1] < 2,
            lambda m, carry: (stack(m, carry[0]), carry[1] + 1),
            m,
            (x, 0),
            carry_variables=["metrics"],
        )[0],
        2,
    ),
    "carried scan": (
        lambda m, x, stack: nn.scan(lambda m, x, _: (stack(m, x), None), variable_carry="metrics", length=2)(
            m, x, None
        )[0],
        2,
    ),
}


@pytest.mark.parametrize("outer", list(OUTER))
@pytest.mark.parametrize("stack", list(STACKS))
def test_a_stack_inside_of_a_branch_or_loop(outer, stack):
    """The layers are kept apart, and the runs of the loop are merged."""
    call, runs = OUTER[outer]
    body, inputs = STACKS[stack]

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return call(self, x, body)

    y, updates = jax.jit(sowlog.collect(Model().apply))({}, X)
    added = (y[0, 0] - 1) / runs  # by one run to its input
    wanted = {
        tag: np.sqrt(np.mean([(first + added * run) ** 2 for run in range(runs)]))
        for tag, first in inputs.items()
    }
    assert sowlog.compute(updates["metrics"]) == pytest.approx(wanted)


class Cell(nn.RNNCellBase):
    num_feature_axes = 1

    @nn.compact
    def __call__(self, carry, x):
        sowlog.sow(self, "sum", x, sowlog.sum)
        return carry + x, carry

    def initialize_carry(self, rng, input_shape):
        return jnp.zeros(input_shape)


@pytest.mark.parametrize("has_branch", [False, True])
def test_an_rnn_beside_a_branch(has_branch):
    """The branch changes nothing for the steps of the RNN."""

    def sow(module, x):
        sowlog.sow(module, "mean", x)
        return x

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            if has_branch:
                x = nn.cond(x[0, 0, 0] > 0, sow, lambda m, x: x, self, x)
            return nn.RNN(Cell(name="cell"), variable_axes={"metrics": 0})(x)

    _, updates = jax.jit(sowlog.collect(Model().apply))({}, jnp.ones((1, 2, 3)))
    wanted = {"cell/sum/00": 3.0, "cell/sum/01": 3.0}
    assert sowlog.compute(updates["metrics"]) == ({"mean": 1.0, **wanted} if has_branch else wanted)


@pytest.mark.parametrize("branches", [1, 12])
def test_a_model_with_branches_is_run_once_for_a_trace(branches):
    """The time of a trace does not grow with the square of the number of branches that sow."""
    runs = count_traces(lambda: None)

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            def sow(module, x):
                runs()
                sowlog.sow(module, "rms", x, sowlog.rms)
                return x + 1

            for _ in range(branches):
                x = nn.cond(x[0, 0] > 0, sow, lambda m, x: x, self, x)
            return x

    jax.jit(sowlog.collect(Model().apply)).trace({}, X)
    assert runs.traces == branches
