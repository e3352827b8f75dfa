"""A reducer: the accumulation of sown values into one result, inside `jit`.

A reducer is static (hashable, compared by value, part of the tree's structure); its state is traced. A
reducer defines four functions of *one* state. This module and `state` add axes, stacking, absence and the
shapes of weights, for built-in reducers and a user's alike:

    empty()                    the parts before anything was sown
    from_value(value, weight)  the parts of one sown value
    merge(a, b)                the parts of both
    compute(parts)             the result
"""

import abc
import dataclasses
from collections.abc import Callable, Generator
from typing import Any, ClassVar, Self, final

import jax
import jax.numpy as jnp
import numpy as np

from sowlog._reduce import ambient, values
from sowlog._reduce.state import Parts, State, cast_like, check_reducer, start
from sowlog._reduce.values import Value, Weighted

Exchange = Generator[Any, Any, Parts]
"""The generator of the arrays that replicas exchange: see `Reducer.exchange`."""


@dataclasses.dataclass(frozen=True)
class Reducer(abc.ABC):
    """The accumulation of sown values: subclass it, or build one from functions with `Reducer.build`.

    A subclass implements `empty`, `from_value`, `merge` and `compute`, each for a single state; axes,
    stacking and absence are added for it. A subclass with settings is a frozen dataclass, too. `merge` must
    be associative and commutative, with `empty()` as its identity:
    `sowlog.testing.assert_reducer_laws(reducer)` checks it.

    Attributes:
        axis: the axes of a sown value that are reduced; None means all. The other axes are kept: they become
            the leading axes of the state, and an index at the end of the tag.
        ordered: whether the order of merges matters, as for `last` (a class attribute; False by default).
        counts_unseen: whether merging a state that saw nothing may change the other, as a pass without a loss
            changes the mean over passes (a class attribute; False by default).

    Example:
        >>> import jax.numpy as jnp
        >>> import sowlog
        >>> class Product(sowlog.Reducer):
        ...     def empty(self):
        ...         return jnp.ones(())
        ...     def from_value(self, value, weight):
        ...         return jnp.prod(value if weight is None else value**weight)
        ...     def merge(self, a, b):
        ...         return a * b
        ...     def compute(self, parts):
        ...         return parts
        >>> product = Product()
        >>> product.of([2.0, 3.0]).merge(product.of(4.0))
        State(product, 24.0)
        >>> product.reduce_fn(product.init_fn(), 5.0)
        State(product, 5.0)
        >>> product(axis=0).of([[2.0, 3.0], [4.0, 5.0]]).compute()
        Array([ 8., 15.], dtype=float32)
    """

    axis: int | tuple[int, ...] | None = dataclasses.field(default=None, kw_only=True)
    ordered: ClassVar[bool] = False
    counts_unseen: ClassVar[bool] = False
    # Only the sums here are exact for bools and small integers; other arithmetic on int8 would wrap.
    _takes_small_integers: ClassVar[bool] = False
    # An equation or two stand in the program where they are; of more, each layer calls one function.
    _is_short: ClassVar[bool] = False

    @abc.abstractmethod
    def empty(self) -> Parts:
        """Return the parts before anything was sown: arrays of fixed shape and strong dtype."""

    @abc.abstractmethod
    def from_value(self, value: jax.Array, weight: jax.Array | None) -> Parts:
        """Return the parts of one value.

        Args:
            value: a real array of any shape, all of which is reduced. Bools, and integers and floats below 32
                bits, arrive as float32; wider ones as they are, so that no digit is lost.
            weight: float32, int32 or bool of the value's shape, or None for 1 everywhere.
        """

    @abc.abstractmethod
    def merge(self, a: Parts, b: Parts) -> Parts:
        """Return the parts of both; `a` was sown before `b`."""

    @abc.abstractmethod
    def compute(self, parts: Parts) -> Any:
        """Return the result: a scalar, or a dict of scalars by name."""

    def exchange(self, parts: Parts, seen: jax.Array, replica: jax.Array) -> Exchange | None:
        """Merge over replicas with three collectives that all metrics share; None gathers the states.

        The generator yields three times: trees to sum over the replicas, then trees to take the maximum of,
        then trees to sum again. Each yield returns the result; the generator returns the merged parts. None
        (the default) gathers the states: one more collective for all such metrics together, with bytes in
        proportion to the number of replicas.

        Args:
            parts: this replica's parts, with leading axes where the state has them.
            seen: whether this replica has any value, bool of shape [*batch].
            replica: this replica's index, int32 scalar.
        """
        del parts, seen, replica

    @staticmethod
    def build(
        *,
        init: Callable[[], Parts],
        add: Callable[[Parts, jax.Array], Parts],
        merge: Callable[[Parts, Parts], Parts],
        compute: Callable[[Parts], Any],
        name: str = "custom",
    ) -> "Reducer":
        """Build a reducer from four functions, once at module level: it is compared by its functions.

        Args:
            init: () -> accumulator, a pytree of arrays.
            add: (accumulator, value) -> accumulator, of init's shapes; value is a real array.
            merge: (accumulator, accumulator) -> accumulator.
            compute: accumulator -> scalar, or dict of scalars by name.
            name: the reducer's name in errors and listings.

        Example:
            >>> import jax.numpy as jnp
            >>> import sowlog
            >>> zeros = sowlog.Reducer.build(
            ...     init=lambda: jnp.zeros(()),
            ...     add=lambda n, x: n + jnp.sum(x == 0),
            ...     merge=lambda a, b: a + b,
            ...     compute=lambda n: n,
            ...     name="zeros",
            ... )
            >>> zeros.of([0.0, 1.0, 0.0])
            State(zeros, 2.0)
        """
        return _Built(init, add, merge, compute, name)

    @final
    def init_fn(self) -> State:
        """Return the state before anything was sown: Flax's `init_fn`."""
        return start(self)

    @final
    def reduce_fn(self, state: State, value: "Value | Weighted") -> State:
        """Return the state with one more value (or `sowlog.weighted` value): Flax's `reduce_fn`.

        Raises:
            TypeError: `state` is one of another reducer, which used the same name.
        """
        if not isinstance(state, State) or state.reducer != self:  # pyright: ignore[reportUnnecessaryIsInstance]  # Flax is untyped here
            other = state.reducer if isinstance(state, State) else type(state).__name__  # pyright: ignore[reportUnnecessaryIsInstance]  # see above
            raise TypeError(
                f"{self} was given the accumulated value of {other}: two reducers share one name. "
                "Give each its own name, or use the same reducer at both places."
            )
        return state.merge(self.of(value))

    @final
    def of(self, value: "Value | Weighted | State", weight: Value | None = None) -> State:
        """Return the state of one value, for a value computed outside of a module.

        Args:
            value: a real number or array, or `sowlog.weighted(value, weight)`; a state of this reducer is
                returned as it is.
            weight: a number, or an array with as many axes as `value` that broadcasts to it. Elements of
                weight 0 are ignored, even NaN. None is a weight of 1 for every element.

        Returns:
            A state with the axes of `value` that `axis` keeps as its leading axes. Without an element of
            non-zero weight it is an empty state.

        Raises:
            TypeError: `value` or `weight` is complex or not a number.
            ValueError: `weight` or `axis` does not fit `value`, or there are two weights.
            RuntimeError: `value` or `weight` was donated or deleted.

        Example:
            >>> import sowlog
            >>> sowlog.mean.of([1.0, 2.0, 9.0], weight=[1, 1, 0])
            State(mean, 1.5)
        """
        if isinstance(value, State):
            return check_reducer(self, value, weight)
        plain, weight = values.separated(value, weight)
        array = values.real_array(plain, "value")
        operands = [array] if weight is None else [array, values.real_array(weight, "weight")]
        is_short = self._is_short and weight is None and values.is_exact_as_float32(array)
        return ambient.isolated(self._inlined if is_short else self._called, *operands)

    def _of_arrays(self, value: jax.Array, *weights: jax.Array) -> State:
        function = self._of_one
        for position, axis in reversed(list(enumerate(_kept_axes(self, value.ndim)))):
            function = jax.vmap(function, in_axes=axis - position)
        return function(value, *(values.fit_weight(weight, value) for weight in weights))

    # Under jit values of one shape are traced once for a reducer, for any number of layers.
    _called = jax.jit(_of_arrays, static_argnums=0)
    _inlined = jax.jit(_of_arrays, static_argnums=0, inline=True)

    def _of_one(self, value: jax.Array, weight: jax.Array | None = None) -> State:
        seen = jnp.asarray(value.size > 0) if weight is None else jnp.any(values.is_counted(weight))
        if values.is_small_integer(value) and not self._takes_small_integers:
            value = value.astype(jnp.float32)
        if weight is not None and weight.dtype != jnp.bool_ and values.is_small_integer(weight):
            weight = weight.astype(jnp.int32)
        return State(self.from_value(value, weight), seen, self)

    @final
    def __call__(self, *values: Any, **settings: Any) -> Self:
        """Return the same reducer, configured: `sowlog.mean(axis=0)`.

        Raises:
            TypeError: The reducer does not have a setting, or is called with a value.
        """
        if values:
            raise TypeError(f"{self} takes settings, such as axis=0. To reduce a value, write `.of(value)`.")
        names = [field.name for field in dataclasses.fields(self)]
        unknown = [name for name in settings if name not in names]
        if unknown:
            raise TypeError(
                f"{self} has no setting {', '.join(unknown)}; it has: {', '.join(names)}. "
                "To reduce a value, write `.of(value)`."
            )
        return dataclasses.replace(self, **{name: static(value) for name, value in settings.items()})

    def keys(self) -> tuple[str, str]:
        """Return the names that `**reducer` unpacks to in `module.sow(col, name, value, **reducer)`."""
        return ("init_fn", "reduce_fn")

    def __getitem__(self, key: str) -> Callable[..., State]:
        if key not in self.keys():
            raise KeyError(key)
        return getattr(self, key)

    def __repr__(self) -> str:
        settings = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        name = type(self).__name__.strip("_").lower()
        return f"{name}({', '.join(settings)})" if settings else name


@final
@dataclasses.dataclass(frozen=True, repr=False)
class _Built(Reducer):
    """A reducer made of functions: see `Reducer.build`."""

    init: Callable[[], Parts]
    add: Callable[[Parts, jax.Array], Parts]
    merge_fn: Callable[[Parts, Parts], Parts]
    compute_fn: Callable[[Parts], Any]
    name: str

    def empty(self) -> Parts:
        return self.init()

    def from_value(self, value: jax.Array, weight: jax.Array | None) -> Parts:
        if weight is not None:
            raise ValueError(
                f"{self} was built from functions and its `add` takes no weight: "
                "sow without a weight, or subclass sowlog.Reducer and use the weight in `from_value`."
            )
        return cast_like(self.add(self.empty(), value), self.empty())

    def merge(self, a: Parts, b: Parts) -> Parts:
        return cast_like(self.merge_fn(a, b), a)

    def compute(self, parts: Parts) -> Any:
        return self.compute_fn(parts)

    def __repr__(self) -> str:
        return self.name


def static(setting: Any) -> Any:
    """Return a hashable setting: a list as a tuple, a NumPy number as Python's."""
    if isinstance(setting, list | tuple):
        return tuple(static(part) for part in setting)
    return setting.item() if isinstance(setting, np.generic) else setting


def _kept_axes(reducer: Reducer, ndim: int) -> list[int]:
    if reducer.axis is None:
        return []
    axes = (reducer.axis,) if isinstance(reducer.axis, int) else reducer.axis
    outside = [axis for axis in axes if not -ndim <= axis < ndim]
    if outside:
        raise ValueError(f"{reducer} cannot reduce axis {outside[0]} of a value with {ndim} axes.")
    reduced = {axis % ndim for axis in axes}
    return [axis for axis in range(ndim) if axis not in reduced]
