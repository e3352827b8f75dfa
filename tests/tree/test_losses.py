"""Auxiliary losses: the logged value equals the trained value."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from sowlog._tree.losses import LOSS
from tests.support import modes


class Quadratic(nn.Module):
    """Two losses of the parameters; the second is sown in two calls."""

    @nn.compact
    def __call__(self, x, weight=0.25):
        w = self.param("w", nn.initializers.ones, (3,))
        sowlog.sow_loss(self, "square", jnp.sum(w**2 * x))
        sowlog.sow_loss(self, "linear", jnp.sum(w * x), weight=weight)
        sowlog.sow_loss(self, "linear", jnp.sum(w), weight=weight)
        return w @ x


X = jnp.array([1.0, 2.0, 3.0])
PARAMS = {"w": jnp.array([1.0, -1.0, 0.5])}


def _pass(x, params=PARAMS, **kwargs):
    return sowlog.collect(Quadratic().apply)({"params": params}, x, **kwargs)


def test_total_loss_is_the_weighted_sum():
    """total_loss is the sum of weight * value over losses and calls: a float32 scalar."""
    total = sowlog.total_loss(_pass(X)[1])
    assert total.dtype == jnp.float32
    assert float(total) == pytest.approx((1 + 2 + 0.75) + 0.25 * (0.5 + 0.5))


def test_total_loss_has_the_gradient_of_the_sum():
    """The gradient is that of the losses written out by hand."""

    def written_out(params):
        w = params["w"]
        return jnp.sum(w**2 * X) + 0.25 * (jnp.sum(w * X) + jnp.sum(w))

    ours = jax.grad(lambda params: sowlog.total_loss(_pass(X, params)[1]))(PARAMS)
    np.testing.assert_allclose(ours["w"], jax.grad(written_out)(PARAMS)["w"], rtol=1e-6)


def test_a_weight_may_be_traced():
    """A schedule's value can weigh a loss, and the gradient passes to the parameters."""
    total = jax.jit(lambda weight: sowlog.total_loss(_pass(X, weight=weight)[1]))
    assert float(total(1.0)) - float(total(0.0)) == pytest.approx(1.0)


def test_weight_zero_shows_the_loss_and_trains_nothing():
    """With weight 0 the value is logged and the weighted part is 0."""
    computed = sowlog.compute({"losses": _pass(X, weight=0.0)[1]["losses"]})
    assert computed["losses/linear"] == 1.0
    assert computed["losses/linear/weighted"] == 0.0


class Sometimes(nn.Module):
    """A loss in a branch: a pass without it is a pass all the same."""

    @nn.compact
    def __call__(self, x):
        def sow(module, x):
            sowlog.sow_loss(module, "aux", x)
            return x

        return nn.cond(x > 0, sow, lambda module, x: x, self, x)


@pytest.mark.parametrize("move", [lambda x: x, jax.device_get], ids=["device", "host"])
def test_a_fetched_pass_without_the_loss_counts(move):
    """Over a pass with a loss of 4 and one without, the mean is 2, wherever the states' arrays live."""
    passes = [sowlog.collect(Sometimes().apply)({}, jnp.float32(x))[1]["losses"] for x in (4, -4)]
    for order in (passes, passes[::-1]):
        assert float(sowlog.total_loss({"losses": sowlog.merge(*move(order))})) == 2.0


@modes.promoting
def test_averaged_losses_are_an_error():
    """A loss is a state too: an average of its arrays would be an average of totals."""
    passes = [_pass(X)[1], _pass(2 * X)[1]]
    averaged = jax.tree.map(lambda a, b: (a + b) / 2, *passes)
    with pytest.raises(TypeError, match=r"linear: a state of loss.* has been through arithmetic"):
        sowlog.total_loss(averaged)


def test_passes_are_averaged_and_calls_are_summed():
    """Over microbatches a loss is the mean of its values per pass: logged as it was trained on."""
    passes = [_pass(X)[1], _pass(2 * X)[1], _pass(3 * X)[1]]
    merged = sowlog.merge(sowlog.merge(passes[0]["losses"], passes[1]["losses"]), passes[2]["losses"])
    mean_of_totals = np.mean([float(sowlog.total_loss(updates)) for updates in passes])
    assert float(sowlog.total_loss({"losses": merged})) == pytest.approx(mean_of_totals)
    computed = sowlog.compute({"losses": merged})
    assert computed["losses/linear"] == pytest.approx(np.mean([1.0, 1.5, 2.0]))
    assert computed["losses/total"] == pytest.approx(mean_of_totals)


def test_the_logged_parts_add_up_to_the_total():
    """losses/total is the sum of all weighted losses, under whatever name the tree is put."""
    computed = sowlog.compute({"train": {"losses": _pass(X)[1]["losses"], "loss": 1.0}})
    parts = [value for tag, value in computed.items() if tag.endswith("/weighted")]
    assert computed["train/losses/total"] == pytest.approx(sum(parts))


@pytest.mark.parametrize("expect", ["square", ["square", "linear"], "lin*", ["*"]])
def test_expected_losses_that_were_sown_pass(expect):
    """Names and globs match the losses' tags or last parts."""
    sowlog.total_loss(_pass(X)[1], expect=expect)


def test_a_missing_loss_is_named():
    """An expected loss that was not sown is an error, never a 0."""
    with pytest.raises(
        LookupError, match=r"expected the losses router_z, but this pass sowed linear, square"
    ):
        sowlog.total_loss(_pass(X)[1], expect=["square", "router_z"])
    _, updates = sowlog.collect(nn.Dense(1).apply)(nn.Dense(1).init(jax.random.key(0), X), X)
    with pytest.raises(LookupError, match=r"sowed none: a module .* was not called, or only in an `apply`"):
        sowlog.total_loss(updates, expect="load_balance")
    assert float(sowlog.total_loss(updates)) == 0.0


def test_updates_must_come_from_collect():
    """A tree without the collection is refused with the line to write."""
    with pytest.raises(
        LookupError, match=r"no \"losses\" among \['metrics'\].*sowlog.collect\(model.apply\)"
    ):
        sowlog.total_loss({"metrics": {}})


def test_a_foreign_value_among_the_losses_is_refused():
    """A plain sow into the losses has no weight, so it is named and not guessed."""

    class Plain(nn.Module):
        def __call__(self, x):
            self.sow("losses", "aux", jnp.sum(x), **sowlog.sum)

    _, updates = sowlog.collect(Plain().apply)({}, X)
    with pytest.raises(TypeError, match=r"holds aux, which `sow_loss` did not write.*sow_loss\(self, 'aux'"):
        sowlog.total_loss(updates)


@pytest.mark.parametrize(
    ("value", "weight", "what"), [(jnp.ones(3), 1.0, "loss"), (1.0, jnp.ones(2), "weight of a loss")]
)
def test_a_loss_is_a_scalar(value, weight, what):
    """A loss per token must be reduced where it is computed."""

    class PerToken(nn.Module):
        def __call__(self):
            sowlog.sow_loss(self, "aux", value, weight=weight)

    with pytest.raises(ValueError, match=rf"a {what} must be a scalar, got shape .*value.mean\(\)"):
        sowlog.collect(PerToken().apply)({})


def test_bfloat16_losses_are_accumulated_in_float32():
    """260 bfloat16 ones are 260, not 256, and the gradient has the input's dtype."""

    class Half(nn.Module):
        def __call__(self, x):
            for _ in range(260):
                sowlog.sow_loss(self, "ones", x)

    def total(x):
        return sowlog.total_loss(sowlog.collect(Half().apply)({}, x)[1])

    assert float(jax.jit(total)(jnp.ones((), jnp.bfloat16))) == 260.0
    assert jax.eval_shape(jax.grad(total), jnp.ones((), jnp.bfloat16)).dtype == jnp.bfloat16


def test_the_total_of_no_pass_is_nothing():
    """Empty losses, as a scan over microbatches starts from, add 0 to the objective and not NaN."""
    empty = sowlog.empty_like({"losses": {"aux": LOSS.of(1.0)}})
    assert sowlog.total_loss(empty) == 0.0
    assert sowlog.compute(empty) == {"losses/total": 0.0}


def test_a_pass_that_did_not_take_the_branch_counts_in_the_mean():
    """Its part of the objective was 0: over two passes a loss of 4 in one of them is logged as 2."""

    class Branching(nn.Module):
        @nn.compact
        def __call__(self, x):
            def sow(module, x):
                sowlog.sow_loss(module, "aux", x)
                return x

            return nn.cond(x > 0, sow, lambda m, x: x, self, x)

    passes = [sowlog.collect(Branching().apply)({}, jnp.float32(x))[1]["losses"] for x in (4, -4)]
    for first, second in (passes, passes[::-1]):
        merged = {"losses": sowlog.merge(first, second)}
        assert sowlog.compute(merged)["losses/aux"] == sowlog.total_loss(merged) == 2.0
