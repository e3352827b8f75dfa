"""The ways to one number: each sows the rows of an array, and every reducer must compute the oracle's result.

A way takes the rows, shape [ROWS, 3], and returns the tree of states, as a step would have it. Where a
transform stacks states, the stacked axes are left for the test to merge.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import sowlog
from sowlog.testing import count_traces
from tests.support.oracles import public_reducers

ROWS = 4
LOSS_WEIGHT = 0.5
BOTH = ["metrics", "losses"]
AXES = {"metrics": 0, "losses": 0}
REDUCERS = public_reducers()
Way = Callable[[jax.Array], dict[str, Any]]


def sow_all(module: nn.Module, row: jax.Array) -> None:
    """Sow a row under the name of each public reducer, and its sum as a loss."""
    sow_statistics(module, row)
    sow_loss(module, row)


def sow_statistics(module: nn.Module, row: jax.Array) -> None:
    """Sow a row under the name of each public reducer."""
    for name, reducer in REDUCERS.items():
        sowlog.sow(module, name, row, reducer)


def sow_loss(module: nn.Module, row: jax.Array) -> None:
    """Sow the sum of a row as a loss."""
    sowlog.sow_loss(module, "loss", jnp.sum(row), weight=LOSS_WEIGHT)


class Sower(nn.Module):
    """A layer that sows the row it is given."""

    @nn.compact
    def __call__(self, row: jax.Array) -> jax.Array:
        sow_all(self, row)
        return row


class Layer(nn.Module):
    """The same for loops: the carry is the index of the next row."""

    rows: Any

    @nn.compact
    def __call__(self, index: jax.Array, *_: Any) -> Any:
        sow_all(self, self.rows[index])
        return (index + 1, None) if _ else index + 1


def _collect(call: Callable[[nn.Module, jax.Array], Any]) -> Way:
    class Model(nn.Module):
        @nn.compact
        def __call__(self, rows: jax.Array) -> Any:
            call(self, rows)

    return lambda rows: sowlog.collect(Model().apply)({}, rows)[1]


def _each(call: Callable[[nn.Module, jax.Array], Any]) -> Way:
    def all_rows(module: nn.Module, rows: jax.Array) -> None:
        for row in rows:
            call(module, row)

    return _collect(all_rows)


def _shared(module: nn.Module, rows: jax.Array) -> None:
    sower = Sower(name="sower")
    for row in rows:
        sower(row)


def _layers(module: nn.Module, rows: jax.Array) -> None:
    for index, row in enumerate(rows):
        Sower(name=f"layer_{index}")(row)


def _scan(**kwargs: Any) -> Way:
    class Step(nn.Module):
        @nn.compact
        def __call__(self, carry: Any, row: jax.Array) -> Any:
            sow_all(self, row)
            return carry, None

    return _collect(lambda m, rows: nn.scan(Step, **kwargs)(name="layers")(None, rows))


def _scan_of_remat(module: nn.Module, rows: jax.Array) -> None:
    nn.scan(nn.remat(Layer), variable_axes=AXES, length=ROWS)(rows, name="layers")(jnp.int32(0), None)


def _remat_scan(module: nn.Module, rows: jax.Array) -> None:
    nn.remat_scan(Layer, lengths=(2, 2))(rows, name="layers")(jnp.int32(0))


def _while_loop(module: nn.Module, rows: jax.Array) -> None:
    def body(_: nn.Module, index: jax.Array) -> jax.Array:
        Sower(name="sower")(rows[index])
        return index + 1

    nn.while_loop(lambda _, index: index < ROWS, body, module, jnp.int32(0), carry_variables=BOTH)


def _cond(module: nn.Module, rows: jax.Array) -> None:
    def sow(module: nn.Module, row: jax.Array) -> jax.Array:
        sow_all(module, row)
        return row

    for index, row in enumerate(jnp.concatenate([rows, 1e6 * rows])):
        # The rows beyond are never sown: their branch is not taken.
        nn.cond(index < ROWS, sow, lambda _, row: row, module, row)


def _switch(module: nn.Module, rows: jax.Array) -> None:
    def branch(name: str) -> Callable[[nn.Module, jax.Array], jax.Array]:
        return lambda m, row: Sower(name=name)(row)

    for row in rows:
        nn.switch(jnp.int32(1), [branch("never"), branch("always"), lambda m, row: row], module, row)


def _nn_vjp(module: nn.Module, rows: jax.Array) -> None:
    nn.vjp(lambda m, rows: jnp.sum(Sower(name="sower")(rows)), module, rows)


def _nn_value_and_grad(module: nn.Module, rows: jax.Array) -> None:
    nn.value_and_grad(lambda m, rows: jnp.sum(Sower(name="sower")(rows)), module, rows)


def _custom_vjp(module: nn.Module, rows: jax.Array) -> None:
    """Sow the statistics inside, and the loss of the result outside: inside, its gradient would be lost."""

    def forward(m: nn.Module, rows: jax.Array) -> jax.Array:
        sow_statistics(m, rows)
        return rows

    def forward_and_residuals(m: nn.Module, rows: jax.Array) -> tuple[jax.Array, Any]:
        return nn.vjp(forward, m, rows)

    def backward(vjp: Any, cotangent: jax.Array) -> Any:
        return vjp(cotangent)

    differentiated = nn.custom_vjp(forward, forward_fn=forward_and_residuals, backward_fn=backward)
    sow_loss(module, differentiated(module, rows))


_whole = _collect(lambda m, rows: Sower(name="sower")(rows))


def _empty(row: jax.Array) -> dict[str, Any]:
    """Return the start of a window; JAX caches shapes by the function, and tests change its sows."""
    return sowlog.empty_like(jax.eval_shape(lambda row: _whole(row), row))


def _value_and_grad(way: Way) -> Way:
    def objective(rows: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        updates = way(rows)
        return sowlog.total_loss(updates), updates

    return lambda rows: jax.value_and_grad(objective, has_aux=True)(rows)[0][1]


def _plain_vmap(rows: jax.Array) -> dict[str, Any]:
    return jax.vmap(_whole)(rows)


def _microbatches_by_scan(rows: jax.Array) -> dict[str, Any]:
    def body(total: Any, row: jax.Array) -> tuple[Any, None]:
        return sowlog.merge(total, _whole(row)), None

    start = _empty(rows[0])
    return jax.lax.scan(body, start, rows)[0]


def _microbatches_by_loop(rows: jax.Array) -> dict[str, Any]:
    total = _whole(rows[0])
    for row in rows[1:]:
        total = sowlog.merge(total, _whole(row))
    return total


def _multi_steps(rows: jax.Array) -> dict[str, Any]:
    """Sow within the objective of an optimizer that updates every ROWS passes only."""
    optimizer = optax.MultiSteps(optax.sgd(0.1), every_k_schedule=ROWS)
    params = jnp.zeros(3)

    def body(carry: Any, row: jax.Array) -> tuple[Any, None]:
        params, state, total = carry

        def objective(params: jax.Array) -> tuple[jax.Array, Any]:
            updates = _whole(row + 0 * params)
            return sowlog.total_loss(updates), updates

        grads, updates = jax.grad(objective, has_aux=True)(params)
        steps, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, steps), state, sowlog.merge(total, updates)), None

    start = _empty(rows[0])
    return jax.lax.scan(body, (params, optimizer.init(params), start), rows)[0][2]


def batch_mesh() -> Mesh:
    """Return a mesh with a device for each row."""
    return Mesh(np.array(jax.devices()[:ROWS]), ("batch",))


def _sharded_jit(rows: jax.Array) -> dict[str, Any]:
    return _whole(jax.lax.with_sharding_constraint(rows, NamedSharding(batch_mesh(), PartitionSpec("batch"))))


def _shard_map(*, check: bool) -> Way:
    def way(rows: jax.Array) -> dict[str, Any]:
        def shard(rows: jax.Array) -> Any:
            return sowlog.all_reduce(_whole(rows), "batch")

        return shard_map_over(shard, check=check)(rows)

    return way


def shard_map_over(
    function: Callable[..., Any], *, check: bool, mesh: Mesh | None = None
) -> Callable[..., Any]:
    """Map a function over the rows of a batch, one shard per device, and return one replica's result."""
    specs = {"mesh": mesh or batch_mesh(), "in_specs": PartitionSpec("batch"), "out_specs": PartitionSpec()}
    return jax.shard_map(function, check_vma=check, **specs)


def _vmap_all_reduce(rows: jax.Array) -> dict[str, Any]:
    reduced = jax.vmap(lambda row: sowlog.all_reduce(_whole(row), "batch"), axis_name="batch")(rows)
    return jax.tree.map(lambda leaf: leaf[0], reduced)


def _microbatches_under_shard_map(rows: jax.Array) -> dict[str, Any]:
    """scan(remat) inside microbatches under shard_map: each device has a row, cut into three microbatches."""
    element = _collect(
        lambda m, rows: nn.scan(nn.remat(Layer), variable_carry=BOTH, length=1)(rows, name="layers")(
            jnp.int32(0), None
        )
    )

    def shard(row: jax.Array) -> Any:
        elements = row.reshape(3, 1, 1)

        def body(total: Any, rows: jax.Array) -> tuple[Any, None]:
            return sowlog.merge(total, element(rows)), None

        start = sowlog.empty_like(jax.eval_shape(element, elements[0]))
        return sowlog.all_reduce(jax.lax.scan(body, start, elements)[0], "batch")

    return shard_map_over(shard, check=False)(rows)


# name -> (the way, how many passes it makes: losses are averaged over them)
JITTED: dict[str, tuple[Way, int]] = {
    "one call": (_whole, 1),
    "repeated calls": (_each(sow_all), 1),
    "a shared module": (_collect(_shared), 1),
    "a Python loop over layers": (_collect(_layers), 1),
    "nn.scan over layers, variable_axes": (_scan(variable_axes=AXES), 1),
    "nn.scan, variable_carry": (_scan(variable_carry=BOTH), 1),
    "nn.scan over time, unrolled": (_scan(variable_axes=AXES, unroll=2, in_axes=0), 1),
    "nn.scan(nn.remat)": (_collect(_scan_of_remat), 1),
    "nn.remat_scan": (_collect(_remat_scan), 1),
    "nn.vmap": (_collect(lambda m, rows: nn.vmap(Sower, variable_axes=AXES)(name="heads")(rows)), 1),
    "nn.remat": (_collect(lambda m, rows: nn.remat(Sower)(name="sower")(rows)), 1),
    "nn.while_loop": (_collect(_while_loop), 1),
    "nn.cond, one branch": (_collect(_cond), 1),
    "nn.switch, different names": (_collect(_switch), 1),
    "nn.jit": (_collect(lambda m, rows: nn.jit(Sower)(name="sower")(rows)), 1),
    "nn.vjp": (_collect(_nn_vjp), 1),
    "nn.value_and_grad": (_collect(_nn_value_and_grad), 1),
    "nn.custom_vjp": (_collect(_custom_vjp), 1),
    "jax.value_and_grad of collect": (_value_and_grad(_whole), 1),
    "jax.value_and_grad of nn.custom_vjp": (_value_and_grad(_collect(_custom_vjp)), 1),
    "jax.vmap of collect": (_plain_vmap, ROWS),
    "microbatches by lax.scan": (_microbatches_by_scan, ROWS),
    "microbatches by a Python loop": (_microbatches_by_loop, ROWS),
    "optax.MultiSteps": (_multi_steps, ROWS),
    "a sharded batch under jit": (_sharded_jit, 1),
    "shard_map with all_reduce, checked": (_shard_map(check=True), ROWS),
    "shard_map with all_reduce, unchecked": (_shard_map(check=False), ROWS),
    "vmap(axis_name) with all_reduce": (_vmap_all_reduce, ROWS),
    "scan(remat) in microbatches under shard_map": (_microbatches_under_shard_map, 3 * ROWS),
}


def _pmap(rows: jax.Array) -> dict[str, Any]:
    step = count_traces(lambda row: sowlog.all_reduce(_whole(row), "batch"))
    mapped = jax.pmap(step, axis_name="batch")
    mapped(-rows)
    reduced = mapped(rows)
    assert step.traces == 1
    return jax.tree.map(lambda leaf: leaf[0], reduced)


def _window(*, half_way: Callable[[Any], Any]) -> Way:
    """Merge the results of one jitted step on the device, in one trace from the first step on."""

    def way(rows: jax.Array) -> dict[str, Any]:
        step = count_traces(lambda window, row: sowlog.merge(window, _whole(row)))
        jitted = jax.jit(step)
        window = _empty(rows[0])
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


EAGER: dict[str, tuple[Way, int]] = {
    "jax.pmap with all_reduce": (_pmap, ROWS),
    "a window of steps": (_window(half_way=lambda window: window), ROWS),
    "an orbax checkpoint of a window": (_window(half_way=_through_a_checkpoint), ROWS),
}
