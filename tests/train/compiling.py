"""Runs of one configuration in one process that trace and compile their functions once."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import jax

from train import evaluation, parts, step
from train.config import file as config_file

SIZE = 24
"""Functions that are kept: each holds its traces and its compiled programs."""


class Memo:
    """The functions that were made last, by all that they were made of."""

    def __init__(self) -> None:
        self._made: dict[Any, Any] = {}

    def share(self, make: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that makes the same, once for a task's class, a configuration and shardings."""

        @functools.wraps(make)
        def made(task: Any, *arguments: Any, **shardings: Any) -> Any:
            *_, config = arguments
            leaves, structure = jax.tree.flatten(shardings)
            key = make, type(task), config_file.dump(config), tuple(leaves), structure
            self._made[key] = self._made.pop(key, None) or make(task, *arguments, **shardings)
            if len(self._made) > SIZE:
                del self._made[next(iter(self._made))]
            return self._made[key]

        return made


@contextlib.contextmanager
def compiled_once() -> Iterator[None]:
    """Share the jitted functions of a run, and nothing else of it, with later runs of its configuration."""
    memo = Memo()
    with (
        mock.patch.object(parts, "step", _sharing(step, memo, "make_init", "make_train_step")),
        mock.patch.object(parts, "evaluation", _sharing(evaluation, memo, "make_evaluate")),
    ):
        yield


def _sharing(module: ModuleType, memo: Memo, *names: str) -> SimpleNamespace:
    """Return a module's names, of which some are shared: for `parts` alone, not for tests of the module."""
    shared = {name: memo.share(getattr(module, name)) for name in names}
    return SimpleNamespace(**{**vars(module), **shared})
