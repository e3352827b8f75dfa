"""Ways that merge the results of several passes, or take one apart: they take the call of any framework."""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec

import sowlog
from sowlog.testing import count_traces
from tests.support.ways.base import ROWS, Framework, Way, Ways, batch_mesh, shard_map_over


def jitted_ways(framework: Framework) -> Ways:
    """Return all ways of a framework that are one jitted function."""
    whole = framework.whole
    return {
        **framework.structures,
        "jax.value_and_grad of collect": (value_and_grad(whole), 1),
        "jax.vmap of collect": (lambda rows: jax.vmap(whole)(rows), ROWS),
        "microbatches by lax.scan": (functools.partial(_microbatches_by_scan, whole), ROWS),
        "microbatches by a Python loop": (functools.partial(_microbatches_by_loop, whole), ROWS),
        "optax.MultiSteps": (functools.partial(_multi_steps, whole), ROWS),
        "a sharded batch under jit": (functools.partial(_sharded_jit, whole), 1),
        "shard_map with all_reduce, checked": (_shard_map(whole, check=True), ROWS),
        "shard_map with all_reduce, unchecked": (_shard_map(whole, check=False), ROWS),
        "vmap(axis_name) with all_reduce": (functools.partial(_vmap_all_reduce, whole), ROWS),
        "scan(remat) in microbatches under shard_map": (
            functools.partial(_microbatches_under_shard_map, framework.element),
            3 * ROWS,
        ),
    }


def eager_ways(framework: Framework) -> Ways:
    """Return the ways of a framework that are no single jitted function."""
    whole = framework.whole
    return {
        "jax.pmap with all_reduce": (functools.partial(_pmap, whole), ROWS),
        "a window of steps": (_window(whole, half_way=lambda window: window), ROWS),
        "an orbax checkpoint of a window": (_window(whole, half_way=_through_a_checkpoint), ROWS),
    }


def _empty(way: Way, row: jax.Array) -> dict[str, Any]:
    """Return the start of a window; JAX caches shapes by the function, and tests change its sows."""
    return sowlog.empty_like(jax.eval_shape(lambda row: way(row), row))


def value_and_grad(way: Way) -> Way:
    def objective(rows: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        updates = way(rows)
        return sowlog.total_loss(updates), updates

    return lambda rows: jax.value_and_grad(objective, has_aux=True)(rows)[0][1]


def _microbatches_by_scan(whole: Way, rows: jax.Array) -> dict[str, Any]:
    def body(total: Any, row: jax.Array) -> tuple[Any, None]:
        return sowlog.merge(total, whole(row)), None

    start = _empty(whole, rows[0])
    return jax.lax.scan(body, start, rows)[0]


def _microbatches_by_loop(whole: Way, rows: jax.Array) -> dict[str, Any]:
    total = whole(rows[0])
    for row in rows[1:]:
        total = sowlog.merge(total, whole(row))
    return total


def _multi_steps(whole: Way, rows: jax.Array) -> dict[str, Any]:
    """Sow within the objective of an optimizer that updates every ROWS passes only."""
    optimizer = optax.MultiSteps(optax.sgd(0.1), every_k_schedule=ROWS)
    params = jnp.zeros(3)

    def body(carry: Any, row: jax.Array) -> tuple[Any, None]:
        params, state, total = carry

        def objective(params: jax.Array) -> tuple[jax.Array, Any]:
            updates = whole(row + 0 * params)
            return sowlog.total_loss(updates), updates

        grads, updates = jax.grad(objective, has_aux=True)(params)
        steps, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, steps), state, sowlog.merge(total, updates)), None

    start = _empty(whole, rows[0])
    return jax.lax.scan(body, (params, optimizer.init(params), start), rows)[0][2]


def _sharded_jit(whole: Way, rows: jax.Array) -> dict[str, Any]:
    return whole(jax.lax.with_sharding_constraint(rows, NamedSharding(batch_mesh(), PartitionSpec("batch"))))


def _shard_map(whole: Way, *, check: bool) -> Way:
    def way(rows: jax.Array) -> dict[str, Any]:
        def shard(rows: jax.Array) -> Any:
            return sowlog.all_reduce(whole(rows), "batch")

        return shard_map_over(shard, check=check)(rows)

    return way


def _vmap_all_reduce(whole: Way, rows: jax.Array) -> dict[str, Any]:
    reduced = jax.vmap(lambda row: sowlog.all_reduce(whole(row), "batch"), axis_name="batch")(rows)
    return jax.tree.map(lambda leaf: leaf[0], reduced)


def _microbatches_under_shard_map(element: Way, rows: jax.Array) -> dict[str, Any]:
    """scan(remat) inside microbatches under shard_map: each device has a row, cut into three microbatches."""

    def shard(row: jax.Array) -> Any:
        elements = row.reshape(3, 1, 1)

        def body(total: Any, rows: jax.Array) -> tuple[Any, None]:
            return sowlog.merge(total, element(rows)), None

        start = _empty(element, elements[0])
        return sowlog.all_reduce(jax.lax.scan(body, start, elements)[0], "batch")

    return shard_map_over(shard, check=False)(rows)


def _pmap(whole: Way, rows: jax.Array) -> dict[str, Any]:
    step = count_traces(lambda row: sowlog.all_reduce(whole(row), "batch"))
    mapped = jax.pmap(step, axis_name="batch")
    mapped(-rows)
    reduced = mapped(rows)
    assert step.traces == 1
    return jax.tree.map(lambda leaf: leaf[0], reduced)


def _window(whole: Way, *, half_way: Callable[[Any], Any]) -> Way:
    """Merge the results of one jitted step on the device, in one trace from the first step on."""

    def way(rows: jax.Array) -> dict[str, Any]:
        step = count_traces(lambda window, row: sowlog.merge(window, whole(row)))
        jitted = jax.jit(step)
        window = _empty(whole, rows[0])
        for index, row in enumerate(rows):
            window = jitted(half_way(window) if index == ROWS // 2 else window, row)
        assert step.traces == 1
        return window

    return way


def _through_a_checkpoint(window: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder, ocp.StandardCheckpointer() as checkpointer:
        path = Path(folder) / "window"
        checkpointer.save(path, window)
        checkpointer.wait_until_finished()
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), window)
        return checkpointer.restore(path, like)
