"""The labels of sown values, and how the values under one label are joined."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sowlog._reduce.notes import NO_NOTE, Note, Phase
from sowlog._sow.errors import LostMetricError
from sowlog._sow.paths import outer_path
from sowlog._tree import losses

METRICS = "metrics"
"""The collection of statistics; that of losses is `losses.COLLECTION`."""


class Functions(NamedTuple):
    """The functions of a user's plain `module.sow`.

    A lambda is another object at each call, so all functions compare equal. They have an order, behind the
    None of a reducer's label, because JAX sorts the labels of sown states, which are keys of a dict.
    """

    init_fn: Callable[[], Any]
    reduce_fn: Callable[[Any, Any], Any]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Functions)

    def __lt__(self, other: object) -> bool:
        return False

    def __gt__(self, other: object) -> bool:
        return not isinstance(other, Functions)

    def __hash__(self) -> int:
        return hash(Functions)


class Label(NamedTuple):
    """The name that sown values arrive under.

    Attributes:
        collection: "metrics" or "losses".
        path: the scopes and modules around the sow, those inside of the transform that it is in.
        name: the metric's name.
        stacks: how many of the mapping transforms around the sow, from the innermost, stack its states.
        functions: those of a user's plain `module.sow`, whose values are no states; None for a reducer.
        model: the number of the nnx model that sows, from 1; 0 for another.
        of_gradient: whether a backward pass sows it.
        order: the order of nesting of the axes of its states, for when all are stacked; () if it is theirs.
        note: the note on the sow, equal for all labels.
    """

    collection: str
    path: tuple[str, ...]
    name: str
    stacks: int = 0
    functions: Functions | None = None
    model: int = 0
    of_gradient: bool = False
    order: tuple[int, ...] = ()
    note: Note = NO_NOTE

    def __str__(self) -> str:
        return "/".join((*self.path, self.name))

    def join(self, old: Any, new: Any) -> Any:
        """Return the state of two sows under this label."""
        if self.functions is not None:
            return old + new
        try:
            return losses.add_in_pass(old, new) if self.is_loss else old.merge(new)
        except (TypeError, ValueError) as error:
            error.add_note(f"while sowing {self.within(outer_path())}")
            raise

    def within(self, path: tuple[str, ...]) -> "Label":
        """Return the label outside of scopes."""
        return self._replace(path=(*path, *self.path))

    @property
    def note_of_result(self) -> Note:
        """The note on the states that a `collect` returns, with the tag and the part of the step."""
        source = self.note.source._replace(tag=str(self), phase=_phase_of(self))
        return dataclasses.replace(self.note, source=source)

    def unstacked(self, state: Any) -> "tuple[Label, Any]":
        """Return the label and the state outside of a transform that stacked its states."""
        label = self._replace(stacks=self.stacks - 1)
        if label.stacks or not self.order:
            return label, state
        first = len(self.order)
        state = jax.tree.map(lambda x: jnp.transpose(x, (*self.order, *range(first, x.ndim))), state)
        return label._replace(order=()), state

    @property
    def is_loss(self) -> bool:
        """Whether the values are of `sow_loss`."""
        return self.collection == losses.COLLECTION and self.functions is None

    def check_merges(self, transform: str) -> None:
        """Raise if the values cannot be merged over the steps of a transform, or be absent in one.

        Raises:
            LostMetricError: A user's functions accumulate the values, and their empty state is unknown.
        """
        if self.functions is not None:
            raise LostMetricError(
                f"{self} is sown inside {transform}, which needs its state before the first sow. With "
                "functions of your own, or Flax's tuple that grows, that empty state is unknown. Write: "
                f'module.sow("{self.collection}", "{self.name}", value, **sowlog.mean), or another reducer.'
            )


Sown = dict[Label, Any]
"""The states that were sown, or tuples of values under a label with functions."""


def _phase_of(label: Label) -> Phase:
    if label.is_loss:
        return "loss"
    if label.of_gradient:
        return "backward"
    if label.path[-1:] == ("updates",):
        return "update"
    return "input" if label.path in (("inputs",), ("params",)) else "forward"
