"""The sows of one `collect`, and the errors for those that a transform would lose.

Flax silently drops a collection that a lifted transform does not name, and lets values leak out of raw JAX
transforms. While `collect` runs, every sow reports to a recorder, which raises at the sow of a lost value.
"""

import contextlib
import contextvars
import functools
import weakref
from collections.abc import Generator, Mapping
from typing import Any, NamedTuple

import flax.core
import jax
import numpy as np
from flax import linen as nn

from sowlog._reduce.reducer import Reducer
from sowlog._reduce.state import State
from sowlog._sow import transforms
from sowlog._sow.transforms import Lift
from sowlog._tree.tags import is_state


class LostMetricError(RuntimeError):
    """A sown value would be lost or wrong; the message has the place, the cause and the line to write.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp, sowlog
        >>> class Block(nn.Module):
        ...     def __call__(self, x):
        ...         def scale(x):
        ...             sowlog.sow(self, "rms", x, sowlog.rms)
        ...             return 2 * x
        ...         return jax.jit(scale)(x)
        >>> y, updates = sowlog.collect(Block().apply)({}, jnp.ones(3))
        Traceback (most recent call last):
            ...
        sowlog.LostMetricError: rms is sown inside jax.jit, which knows nothing of Flax's collections: ...
    """


class Site(NamedTuple):
    """Where a value is sown: all calls under one name in one module.

    Attributes:
        collection: the variable collection.
        path: the module's path.
        name: the metric's name.
    """

    collection: str
    path: tuple[str, ...]
    name: str

    def __str__(self) -> str:
        return "/".join((*self.path, self.name))


class Recorder:
    """The sows of one pass.

    Attributes:
        states: the last state sown at each site, as shapes and dtypes.
        withheld: sites whose values are not stored in this pass; see `sowlog._sow.seeding`.
    """

    def __init__(self, withheld: frozenset[Site] = frozenset()) -> None:
        self.states: dict[Site, State] = {}
        self.withheld = withheld
        self._lifts: dict[Site, list[Lift]] = {}
        self._stored: list[tuple[Site, int]] = []
        self._roots: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._depth = transforms.apply_depth() + 1

    def hears(self) -> bool:
        """Return whether the caller runs in the `apply` that is collected, not in one inside it."""
        return transforms.apply_depth() == self._depth

    def note(self, module: nn.Module, site: Site, state: State | None) -> None:
        """Record a value before it is stored; None is a value accumulated by a user's functions.

        Raises:
            LostMetricError: The value would be lost, or stand for many values.
        """
        _check_no_raw_transform(module, site)
        lifts = transforms.enclosing_lifts()
        if any(lift.broadcasts(site.collection) for lift in lifts):
            raise LostMetricError(_broadcast_message(site))
        self._lifts[site] = lifts
        if state is not None:
            self.states[site] = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
        self.note_stored(module, site)

    def note_stored(self, module: nn.Module, site: Site) -> None:
        """Record that a value is stored at a site, unless the site is withheld."""
        if site not in self.withheld and module.scope is not None:
            self._stored.append((site, self._number_of(module.scope.root)))

    def _number_of(self, root: Any) -> int:
        """Return a number of a root scope. The scope itself would keep the tracers of its transform alive."""
        known, number = self._roots.get(id(root), (None, 0))
        if known is None or known() is not root:
            number = len(self._stored)
            self._roots[id(root)] = weakref.ref(root), number
        return number

    def last_lifted(self) -> set[Site]:
        """Return the sites stored in the lifted transform (of a cond, the branch) that ran last."""
        if not self._stored:
            return set()
        # Each run of a lifted transform has a root scope of its own.
        last = self._stored[-1][1]
        return {site for site, root in self._stored if root == last != self._stored[0][1]}

    def check_heard(self, module: nn.Module, site: Site) -> None:
        """Raise if the collection of a sow is not mutable although its pass is collected.

        Raises:
            LostMetricError: A lifted transform does not hand the collection back.
        """
        if not self.hears():
            return
        _check_no_raw_transform(module, site)
        lifts = transforms.enclosing_lifts()
        if lifts:
            deaf = (lift for lift in lifts if not lift.hands_back(site.collection))
            raise LostMetricError(_dropped_message(site, next(deaf, lifts[0])))

    def check_returned(self, updates: Mapping[str, Any]) -> None:
        """Raise if a stored value is missing from the updates, or is stacked wrong.

        Raises:
            LostMetricError: A transform dropped the value, or stacked its parts apart.
        """
        for site in self._lifts.keys() - self.withheld:
            leaf = _find(updates, site)
            if leaf is None:
                raise LostMetricError(
                    f'{site} was sown to "{site.collection}" and did not come back: {self.lifts_of(site)} '
                    f'around it dropped it. Name "{site.collection}" among the variables that it hands back.'
                )
            if is_state(leaf) and not _is_stacked_in_front(leaf):
                raise LostMetricError(self.stacked_apart_message(site))

    def withheld_without_reducer(self) -> list[Site]:
        """Return the withheld sites with an unknown empty state, accumulated by a user's functions."""
        return [site for site in self._lifts if site in self.withheld and site not in self.states]

    def unseedable_message(self, site: Site) -> str:
        """Return the message for a withheld site with an unknown empty state."""
        return (
            f"{site} is sown inside {self.lifts_of(site)}, which needs its state before the first sow. With "
            "functions of your own, or Flax's tuple that grows, that empty state is unknown. Write: "
            f'module.sow("{site.collection}", "{site.name}", value, **sowlog.mean), or another reducer.'
        )

    def stacked_apart_message(self, site: Site) -> str:
        """Return the message for a state with parts that a transform stacked along axes of their own."""
        return (
            f"{site} is sown with {self.states[site].reducer}, whose parts have axes of their own, "
            f'and {self.lifts_of(site)} around it stacks "{site.collection}" behind them, along a negative '
            f'axis: layers would be taken for parts. Write: variable_axes={{"{site.collection}": 0}}.'
        )

    def lifts_of(self, site: Site) -> str:
        """Return the names of the lifted transforms around a sow, the innermost first."""
        return ", ".join(f"nn.{lift.name}" for lift in self._lifts[site]) or "a transform"


_current: contextvars.ContextVar[Recorder | None] = contextvars.ContextVar("sowlog_recorder", default=None)


def current() -> Recorder | None:
    """Return the recorder of the innermost running `collect`, or None."""
    return _current.get()


@contextlib.contextmanager
def recording(recorder: Recorder) -> Generator[Recorder]:
    """Let every sow report to a recorder."""
    token = _current.set(recorder)
    try:
        yield recorder
    finally:
        _current.reset(token)


def site_of(module: nn.Module, collection: str, name: str) -> Site:
    """Return the site of a sow."""
    return Site(collection, tuple(module.path), name)


def check_trained(site: Site) -> None:
    """Raise if no gradient of a loss would be taken at its sow.

    Raises:
        LostMetricError: A custom derivative runs the caller: the loss would be logged and not trained on.
    """
    transform = transforms.custom_derivative()
    if transform is not None:
        raise LostMetricError(
            f"{site} is a loss sown inside {transform}, whose rule takes the gradient of the function's "
            "result alone: the loss would be logged and not trained on. Return the value and sow it outside. "
            f"Write: y, {site.name} = {transform}(...)(...), then sowlog.sow_loss(self, "
            f'"{site.name}", {site.name}).'
        )


def _check_no_raw_transform(module: nn.Module, site: Site) -> None:
    trace = flax.core.current_trace()
    scope = module.scope
    while scope is not None:
        if scope.trace_level != trace:
            raise LostMetricError(_raw_message(site, transforms.innermost()))
        scope = scope.parent


def _find(updates: Mapping[str, Any], site: Site) -> Any:
    """Return the leaf of the updates at a site, or None."""
    node: Any = updates.get(site.collection)
    for key in (*site.path, site.name):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def _is_stacked_in_front(state: State) -> bool:
    batch = np.shape(state.seen)
    parts = zip(jax.tree.leaves(state), _own_shapes(state.reducer), strict=True)
    return all(np.shape(leaf) == batch + shape for leaf, shape in parts)


@functools.lru_cache(maxsize=256)
def _own_shapes(reducer: Reducer) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(reducer.init_fn))]


def has_own_axes(reducer: Reducer) -> bool:
    """Return whether a part of a reducer's single state has axes: the bins of a histogram."""
    return any(_own_shapes(reducer))


def _broadcast_message(site: Site) -> str:
    return (
        f'{site} is sown in the body of an nn.scan that has variable_broadcast for "{site.collection}": '
        "one value would come back for all its steps. Hand back one per step, "
        f'nn.scan(..., variable_axes={{"{site.collection}": 0}}), or accumulate, '
        f'variable_carry="{site.collection}".'
    )


_REMEDIES = {
    "scan": 'nn.scan(..., variable_axes={{"params": 0, "{collection}": 0}})',
    "RNN": 'nn.RNN(..., variable_axes={{"{collection}": 0}})',
    "vmap": 'nn.vmap(..., variable_axes={{"params": 0, "{collection}": 0}})',
    "while_loop": 'nn.while_loop(..., carry_variables=["{collection}"])',
    "remat": "nn.remat(Block) without variables=, which hands on all collections",
    "jit": "nn.jit(Block) without variables=, which hands on all collections",
    "vjp": "nn.vjp(..., variables=True), with vjp_variables= for the differentiated collections",
    "value_and_grad": "nn.value_and_grad(..., variables=True)",
    "jvp": "nn.jvp(..., variables=True)",
}


def _dropped_message(site: Site, lift: Lift) -> str:
    if lift.part == "cond_wrapper":
        return (
            f"{site} is sown in the cond_fn of an nn.while_loop, which hands back nothing: "
            "sow it in body_fn, or after the loop."
        )
    remedy = _REMEDIES.get(lift.name, 'hand on "{collection}"').format(collection=site.collection)
    return (
        f'{site} is sown to "{site.collection}" inside nn.{lift.name}, which does not hand that collection '
        f"back, so the value would be lost. Write: {remedy}."
    )


_LIFTED = {
    "jax.lax.scan": "nn.scan",
    "jax.lax.map": "nn.scan",
    "jax.lax.fori_loop": "nn.while_loop",
    "jax.lax.while_loop": "nn.while_loop",
    "jax.lax.cond": "nn.cond",
    "jax.lax.switch": "nn.switch",
    "jax.checkpoint": "nn.remat",
    "jax.jit": "nn.jit",
    "jax.vmap": "nn.vmap",
    "jax.grad": "nn.value_and_grad",
    "jax.vjp": "nn.vjp",
    "jax.jvp": "nn.jvp",
    "jax.custom_vjp": "nn.custom_vjp",
}


def _raw_message(site: Site, transform: str) -> str:
    if transform.startswith("nn."):
        return (
            f"{site} is sown inside {transform} by a module from outside of it, so the value would leak out "
            "of it as a tracer. Use the module that the transformed function is given: "
            f"{transform}(..., lambda module, x: module.layer(x), ...)."
        )
    lifted = _LIFTED.get(transform)
    instead = f"use {lifted} in place of {transform}, or " if lifted else ""
    return (
        f"{site} is sown inside {transform}, which knows nothing of Flax's collections: the value would leak "
        f"out of it as a tracer, or count once for many. In the module, {instead}return the value from the "
        "transformed function and sow it outside."
    )
