"""A preview of a run from its shapes alone: nothing is compiled, and nothing computed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

import sowlog
from train import evaluation, optimizer, step, tasks
from train.config.experiment import Config
from train.data import Dataset
from train.data.examples import HostBatch
from train.parallel.devices import Devices, cut
from train.runs import writers


def describe(config: Config, dataset: Dataset) -> str:
    """List the parameters, every tag that would be logged, with reducer and bytes, and the writers.

    Args:
        config: the experiment.
        dataset: its data, of which the shapes are looked at.

    Raises:
        ConfigError: No evaluation has a metric that the task or early stopping names, no module is as
            `watch` names it, or a writer lacks its package or login.
    """
    writers.check(config.writers, Path("run"))
    task = tasks.build(config.task)
    rule, schedule = optimizer.build(config.optimizer, steps=config.steps)
    batch = dataset.batch(config.seed, 0)
    state = jax.eval_shape(step.make_init(task, rule, config), batch)
    update = step.make_update(task, rule, schedule, config)
    _, trained = jax.eval_shape(update, state, cut(batch, config.microbatches))
    held_out = dataset.held_out(), dataset.remainder()
    measured = jax.eval_shape(evaluation.make_measure(task, config), state.variables, *held_out).metrics
    packed = jax.eval_shape(sowlog.pack, {"eval": measured})
    evaluation.check_results(config, task, packed.layout.scalars)
    return "\n".join(
        [
            *_variables(state),
            *_shares(Devices(config.sharding), state),
            *_arrays("batch", batch),
            *_held_out(*held_out),
            *_metrics("each step", trained),
            *_metrics(f"each evaluation, every {config.eval.every} steps", {"eval": measured}),
            writers.describe(config.writers),
        ]
    )


def _variables(state: step.TrainState) -> Iterator[str]:
    for name, tree in sorted(state.variables.items(), key=lambda item: item[0] != "params"):
        count, size = _size(tree)
        yield f"{'parameters' if name == 'params' else name}: {count:,} numbers, {_bytes(size)}"
    count, size = _size(state)
    yield f"the whole state, as in a checkpoint: {count:,} numbers, {_bytes(size)}"


def _shares(devices: Devices, state: step.TrainState) -> Iterator[str]:
    if devices.count > 1:
        yield f"of it, on each of {devices.count} devices: {_bytes(devices.share(state))}"


def _arrays(title: str, arrays: dict[str, Any]) -> Iterator[str]:
    yield f"{title}: " + ", ".join(
        f"{name} {array.dtype}{list(array.shape)}" for name, array in arrays.items()
    )


def _held_out(batches: HostBatch, remainder: HostBatch) -> Iterator[str]:
    """Yield the shapes of an evaluation: of each batch, and of the remainder."""
    count = len(next(iter(batches.values())))
    for title, stacked in ((f"held out, {count} of", batches), ("held out, left over", remainder)):
        if stacked:
            yield from _arrays(title, {name: array[0] for name, array in stacked.items()})


def _metrics(title: str, metrics: step.Metrics) -> Iterator[str]:
    packed = jax.eval_shape(sowlog.pack, metrics)
    reducers = dict(_reducers(metrics))
    yield f"{title}: {len(reducers)} tags in one buffer of {_bytes(4 * packed.buffer.size)}"
    width = max(map(len, reducers))
    yield from (f"  {tag:{width}}  {reducer}" for tag, reducer in sorted(reducers.items()))


def _reducers(metrics: step.Metrics) -> Iterator[tuple[str, str]]:
    """Yield each tag with its reducer. A state's own tags are those of a tree that holds it alone."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(metrics, is_leaf=_is_state)[0]:
        tree = leaf
        for key in reversed(path):
            tree = {key.key: tree}
        layout = jax.eval_shape(sowlog.pack, tree).layout
        reducer = str(leaf.reducer) if _is_state(leaf) else "as computed"
        for tag in (*layout.scalars, *(slot.tag for slot in layout.histograms)):
            yield tag, reducer


def _size(tree: Any) -> tuple[int, int]:
    leaves = jax.tree.leaves(tree)
    return sum(leaf.size for leaf in leaves), sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def _bytes(size: int) -> str:
    return f"{size:,} bytes"


def _is_state(leaf: object) -> bool:
    return isinstance(leaf, sowlog.State)
