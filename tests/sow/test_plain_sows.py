"""Flax's own `module.sow` under collect: an error for each lost value, and seeds for reducers."""

import flax.linen as nn
import jax.numpy as jnp
import pytest

import sowlog
from sowlog import LostMetricError
from tests.sow.test_lost_metrics import DROPPED, RAW, Sower, X, model_of


@pytest.mark.parametrize("form", ["a reducer", "the default"])
@pytest.mark.parametrize("case", list(DROPPED))
def test_a_plain_sow_that_a_lifted_transform_drops_raises(case, form, monkeypatch):
    """Flax's own module.sow under collect raises the same error."""
    monkeypatch.setattr(Sower, "form", form)
    call, place, remedy = DROPPED[case]
    with pytest.raises(LostMetricError, match=f"{place}.*{remedy}"):
        sowlog.collect(model_of(call).apply)({}, X)


@pytest.mark.parametrize("form", ["a reducer", "the default"])
@pytest.mark.parametrize("transform", list(RAW))
def test_a_plain_sow_under_a_raw_transform_raises(transform, form, monkeypatch):
    """Flax's own module.sow under collect raises the same error."""
    monkeypatch.setattr(Sower, "form", form)
    call, lifted = RAW[transform]
    with pytest.raises(LostMetricError, match=rf"sower/value is sown inside {transform}, .* use {lifted}"):
        sowlog.collect(model_of(call).apply)({}, X)


class Plain(nn.Module):
    """Sows by Flax alone."""

    options: dict

    @nn.compact
    def __call__(self, x, *rest):
        self.sow("metrics", "value", jnp.sum(x), **self.options)
        return (x, None) if rest else x


STRUCTURED = {
    "cond": lambda m, x, **o: nn.cond(x[0] < 0, lambda m, x: Plain(o, name="s")(x), lambda m, x: x, m, x),
    "switch": lambda m, x, **o: nn.switch(0, [lambda m, x: Plain(o, name="s")(x), lambda m, x: x], m, x),
    "scan": lambda m, x, **o: nn.scan(Plain, length=2, variable_carry="metrics")(o, name="s")(x, None),
    "while_loop": lambda m, x, **o: nn.while_loop(
        lambda m, c: c[1] < 2,
        lambda m, c: (Plain(o, name="s")(c[0]), c[1] + 1),
        m,
        (x, 0),
        carry_variables=["metrics"],
    ),
}
OPTIONS = {
    "the default": {},
    "functions": {"init_fn": lambda: jnp.float32(0), "reduce_fn": lambda a, b: a + b},
}


@pytest.mark.parametrize("options", list(OPTIONS))
@pytest.mark.parametrize("transform", list(STRUCTURED))
def test_a_plain_sow_whose_empty_state_is_unknown_is_refused(transform, options):
    """A loop or branch needs the state before it is sown; of a tuple that grows, say, it is not known."""

    def call(module, x):
        return STRUCTURED[transform](module, x, **OPTIONS[options])

    message = (
        rf"s/value is sown inside nn.{transform}, which needs its state before the first sow.*"
        r'Write: module.sow\("metrics", "value", value, \*\*sowlog.mean\)'
    )
    with pytest.raises(LostMetricError, match=message):
        sowlog.collect(model_of(call).apply)({}, X)


@pytest.mark.parametrize("transform", list(STRUCTURED))
def test_a_plain_sow_of_a_reducer_is_seeded(transform):
    """The same with one of sowlog's reducers is counted, however often it runs."""
    passes = 1 if transform in ("cond", "switch") else 2
    _, updates = sowlog.collect(model_of(lambda m, x: STRUCTURED[transform](m, x, **sowlog.sum)).apply)({}, X)
    assert sowlog.compute(updates["metrics"]) == {"s/value": passes * float(jnp.sum(X))}


def test_what_both_branches_sow_by_functions_needs_no_seed():
    """Beside a seeded reducer in one branch, the values that both branches store do not change."""

    def plain(module, x):
        return Plain(OPTIONS["functions"], name="s")(x)

    def both(module, x):
        sowlog.sow(module, "value", x, sowlog.max)
        return plain(module, x)

    _, updates = sowlog.collect(model_of(lambda m, x: nn.cond(x[0] < 0, both, plain, m, x)).apply)({}, X)
    assert sowlog.compute(updates["metrics"]) == {"value": -1.0, "s/value": -6.0}
