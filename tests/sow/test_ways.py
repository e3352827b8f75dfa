"""All ways to a number compute the same number."""

import os
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from sowlog._tree.tags import is_state, leaves_by_tag
from sowlog.testing import count_traces
from tests.support.ways import EAGER, JITTED, base
from tests.support.ways.base import LOSS_WEIGHT, REDUCERS, ROWS, Ways

# JAX has no gradient of a loop of unknown length.
IRREVERSIBLE = {"nn.while_loop", "nnx.while_loop", "jax.lax.while_loop"}
# Each framework runs its own ways; of those that all have, the first one runs all, and the others with
# SOWLOG_MATRIX=all, which also sows every reducer in every way.
FIRST, ALL = "linen", os.environ.get("SOWLOG_MATRIX") == "all"
VALUES = np.random.default_rng(0).normal(-50.0, 3.0, (3, ROWS, 3)).astype(np.float32)


def _cases(table: dict[str, Ways], without: Collection[str] = ()) -> list[Any]:
    return [
        pytest.param(framework, way, id=f"{framework}: {way}")
        for framework, ways in table.items()
        for way in ways
        if way not in without and (framework == FIRST or ALL or way not in table[FIRST])
    ]


def _choose_reducers(framework: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sow one reducer in a way of a further framework, and the next one in its next way."""
    if framework != FIRST and not ALL:
        name = list(REDUCERS)[list(JITTED[framework]).index(way) % len(REDUCERS)]
        monkeypatch.setattr(base, "REDUCERS", {name: REDUCERS[name]})


def _merge_stacked(state: sowlog.State) -> sowlog.State:
    while state.seen.ndim:
        rows = [jax.tree.map(lambda leaf, i=i: leaf[i], state) for i in range(state.seen.shape[0])]
        state = rows[0]
        for row in rows[1:]:
            state = state.merge(row)
    return state


def _by_name(tree: Any) -> dict[str, sowlog.State]:
    """Return one state per metric name: layers, stacked or not, merged in their order."""
    found: dict[str, sowlog.State] = {}
    for tag, state in leaves_by_tag(tree):
        assert is_state(state)
        name = tag.rpartition("/")[2]
        merged = jax.jit(_merge_stacked)(state)
        found[name] = found[name].merge(merged) if name in found else merged
    return found


def _oracle(name: str, rows: np.ndarray) -> Any:
    return REDUCERS[name].of(rows).compute()


def _structure(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in leaves]


def _assert_one_number(updates: dict[str, Any]) -> None:
    found = _by_name(updates["metrics"])
    assert set(found) == set(base.REDUCERS)
    for name, state in found.items():
        for ours, wanted in zip(
            jax.tree.leaves(state.compute()), jax.tree.leaves(_oracle(name, VALUES[0])), strict=True
        ):
            np.testing.assert_allclose(ours, wanted, rtol=1e-6, atol=1e-7, err_msg=name)


def _assert_trained_as_logged(updates: dict[str, Any], passes: int) -> None:
    wanted = float(np.sum(VALUES[0], dtype=np.float64)) / passes
    tree = {"losses": jax.tree.map(_merge_stacked, updates["losses"], is_leaf=is_state)}
    computed = sowlog.compute(tree)
    values = [value for tag, value in computed.items() if tag.endswith("/loss")]
    assert sum(values) == pytest.approx(wanted, rel=1e-6)
    assert computed["losses/total"] == pytest.approx(LOSS_WEIGHT * wanted, rel=1e-6)
    assert float(sowlog.total_loss(tree)) == pytest.approx(LOSS_WEIGHT * wanted, rel=1e-6)


@pytest.mark.parametrize(("framework", "way"), _cases(JITTED))
def test_every_way_gives_one_number_in_one_trace(framework, way, monkeypatch):
    """Each reducer has the oracle's result, losses are logged as trained on, three steps are one trace."""
    _choose_reducers(framework, way, monkeypatch)
    function, passes = JITTED[framework][way]
    step = count_traces(function)
    jitted = jax.jit(step)
    steps = [jitted(jnp.asarray(rows)) for rows in VALUES]
    _assert_one_number(steps[0])
    _assert_trained_as_logged(steps[0], passes)
    structures = [_structure(updates) for updates in steps]
    assert step.traces == 1
    assert structures[0] == structures[1] == structures[2]
    assert not any(weak for _, _, weak in structures[0][1])


@pytest.mark.parametrize(("framework", "way"), _cases(JITTED, without=IRREVERSIBLE))
def test_every_way_has_the_gradient_of_its_losses(framework, way, monkeypatch):
    """The losses of each way are trained on: under a custom derivative each has a gradient."""
    monkeypatch.setattr(base, "REDUCERS", {})
    function, passes = JITTED[framework][way]
    gradient = jax.jit(jax.grad(lambda rows: sowlog.total_loss(function(rows))))(jnp.asarray(VALUES[0]))
    np.testing.assert_allclose(gradient, np.full_like(VALUES[0], LOSS_WEIGHT / passes), rtol=1e-6)


@pytest.mark.parametrize(("framework", "way"), _cases(EAGER))
def test_ways_outside_of_jit_give_one_number(framework, way):
    """The same holds where a way is no single jitted function; each counts its traces itself."""
    function, passes = EAGER[framework][way]
    updates = function(jnp.asarray(VALUES[0]))
    _assert_one_number(updates)
    _assert_trained_as_logged(updates, passes)


def test_passes_that_vmap_stacks_are_averaged_as_merged_ones():
    """The objective and the logged total of stacked passes are means, where stacked layers are summed."""
    updates = jax.jit(JITTED["linen"]["jax.vmap of collect"][0])(jnp.asarray(VALUES[0]))
    wanted = LOSS_WEIGHT * float(np.mean(np.sum(VALUES[0], axis=1, dtype=np.float64)))
    assert float(sowlog.total_loss(updates)) == pytest.approx(wanted, rel=1e-6)
    assert sowlog.compute(updates)["losses/total"] == pytest.approx(wanted, rel=1e-6)


def test_a_branch_not_taken_is_absent():
    """A value that a branch did not sow has no point: not inf, not 0, not NaN."""
    function, _ = JITTED["linen"]["nn.switch, different names"]
    computed = sowlog.compute(jax.jit(function)(jnp.asarray(VALUES[0]))["metrics"])
    assert computed
    assert not [tag for tag in computed if "never" in tag]
