"""Runs of one configuration in one process that trace and compile their functions once."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import jax

from train import evaluation, parts, step
from train.config.experiment import Config

SIZE = 60
"""Functions that are kept: each holds its traces and its compiled programs."""

INIT = frozenset({"task", "optimizer", "seed", "ema"})
"""Fields of a configuration on which a run's `init` depends."""

TRAIN_STEP = INIT | {"microbatches", "precision", "steps", "watch"}
"""Those of its training step: the schedule of the learning rate may end with the last step."""

EVALUATE = frozenset({"task", "precision", "early_stop"})
"""Those of its evaluation."""


class Memo:
    """The functions that were made last, by all that they were made of."""

    def __init__(self) -> None:
        self._made: dict[Any, Any] = {}

    def share(self, make: Callable[..., Any], fields: frozenset[str]) -> Callable[..., Any]:
        """Return a function that makes the same, once for a task's class, fields of a config and shardings.

        The function that it makes finds no other fields in its configuration.
        """

        @functools.wraps(make)
        def made(task: Any, *arguments: Any, **shardings: Any) -> Any:
            *others, config = arguments
            leaves, structure = jax.tree.flatten(shardings)
            key = make, type(task), config.model_dump_json(include=fields), tuple(leaves), structure
            if key not in self._made:
                self._made[key] = make(task, *others, _part_of(config, fields), **shardings)
            self._made[key] = self._made.pop(key)
            if len(self._made) > SIZE:
                del self._made[next(iter(self._made))]
            return self._made[key]

        return made


def _part_of(config: Config, fields: frozenset[str]) -> Any:
    return SimpleNamespace(**{name: getattr(config, name) for name in fields})


@contextlib.contextmanager
def compiled_once() -> Iterator[None]:
    """Share the jitted functions of a run, and nothing else of it, with later runs of its configuration."""
    memo = Memo()
    init = memo.share(step.make_init, INIT)
    train_step = memo.share(step.make_train_step, TRAIN_STEP)
    evaluate = memo.share(evaluation.make_evaluate, EVALUATE)
    with (
        mock.patch.object(parts, "step", _with(step, make_init=init, make_train_step=train_step)),
        mock.patch.object(parts, "evaluation", _with(evaluation, make_evaluate=evaluate)),
    ):
        yield


def _with(module: ModuleType, **shared: Callable[..., Any]) -> SimpleNamespace:
    """Return a module's names, of which some are shared: for `parts` alone, not for tests of the module."""
    return SimpleNamespace(**{**vars(module), **shared})
