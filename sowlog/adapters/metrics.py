"""Reducers made of the metric classes of clu and metrax."""

import dataclasses
from collections.abc import Mapping
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np

from sowlog._reduce import ambient
from sowlog._reduce.reducer import Reducer
from sowlog._reduce.state import Parts, State, cast_like
from sowlog.adapters._forms import (
    Form,
    constructor,
    constructor_of_collection,
    default_promotion,
    described,
    fits,
    form_of,
    takes_one_array,
    wide_dtype,
)

_ON_HOST = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)


@final
@dataclasses.dataclass(frozen=True, repr=False)
class MetricReducer(Reducer):
    """A reducer whose parts are the arrays of another library's metric; `from_metric` makes it.

    Example:
        >>> import flax.struct, jax, jax.numpy as jnp, sowlog
        >>> @flax.struct.dataclass
        ... class Precision:
        ...     hits: jax.Array
        ...     claims: jax.Array
        ...     @classmethod
        ...     def empty(cls):
        ...         return cls(jnp.zeros(()), jnp.zeros(()))
        ...     @classmethod
        ...     def from_model_output(cls, predictions, labels):
        ...         return cls(jnp.sum(predictions * labels), jnp.sum(predictions))
        ...     def merge(self, other):
        ...         return jax.tree.map(jnp.add, self, other)
        ...     def compute(self):
        ...         return self.hits / self.claims
        >>> precision = sowlog.adapters.from_metric(Precision)
        >>> state = precision.of_output(predictions=jnp.array([1, 1, 0]), labels=jnp.array([1, 0, 1]))
        >>> state
        State(precision, 0.5)
        >>> state.merge(precision.of_output(predictions=jnp.array([1, 1]), labels=jnp.array([1, 1])))
        State(precision, 0.75)
    """

    metric: Any
    settings: tuple[tuple[str, Any], ...]
    form: Form

    def of_output(self, *outputs: Any, **named: Any) -> State:
        """Return the state of one batch of model outputs, in a step or on the host.

        The state is a leaf of a tree of metrics, `{"auc": auc.of_output(...)}`, and a value of a sow,
        `sowlog.sow("auc", auc.of_output(...), auc)`.

        Args:
            *outputs: the arguments of the metric's `from_model_output`.
            **named: the same by name.

        Raises:
            ValueError: The metric's arrays have other shapes than those of its empty form or the example.
        """
        made = ambient.isolated(lambda args, kwargs: self._accumulated(*args, **kwargs), outputs, named)
        # A batch without elements has no result, as an empty state.
        seen = any(np.size(leaf) > 0 for leaf in jax.tree.leaves((outputs, named)))
        return State(made, jnp.asarray(seen), self)

    def empty(self) -> Parts:
        """Return the arrays of the metric's `empty()`, in the shapes of its form."""
        start = jax.tree.leaves(self.metric.empty())
        if len(start) != len(self.form.constants):
            raise ValueError(
                f"{self}: empty() has {len(start)} leaves, and from_model_output {len(self.form.constants)}. "
                "Both must return one structure."
            )
        kept = [leaf for leaf, setting in zip(start, self.form.constants, strict=True) if setting is None]
        return tuple(
            jnp.broadcast_to(jnp.asarray(leaf, dtype), shape)
            for leaf, (shape, dtype) in zip(kept, self.form.arrays, strict=True)
        )

    def from_value(self, value: jax.Array, weight: jax.Array | None) -> Parts:
        """Return the arrays of a metric of one value, which takes no weight."""
        if weight is not None:
            raise ValueError(
                f"{self} takes no weight beside its value: pass it as an argument of the metric, as in "
                f"of_output(value, sample_weights=weight)."
            )
        return self._accumulated(value)

    def merge(self, a: Parts, b: Parts) -> Parts:
        """Return the arrays of the metric's `merge`."""
        with default_promotion():
            merged = self._metric(a).merge(self._metric(b))
        return cast_like(self._arrays(jax.tree.leaves(merged)), a)

    def compute(self, parts: Parts) -> Any:
        """Return the result of the metric's `compute`."""
        with default_promotion():
            return self._metric(parts).compute()

    def __repr__(self) -> str:
        named = [f"{name}={value!r}" for name, value in self.settings]
        name = self.metric.__name__.lower()
        return f"{name}({', '.join(named)})" if named else name

    def _accumulated(self, *outputs: Any, **named: Any) -> Parts:
        with default_promotion():
            made = constructor(self.metric, self.settings)(*outputs, **named)
        leaves, structure = jax.tree.flatten(made)
        arrays = self._arrays(leaves)
        found = tuple((np.shape(leaf), wide_dtype(leaf)) for leaf in arrays)
        if structure != self.form.structure or not fits(found, self.form.arrays):
            raise ValueError(
                f"{self} makes arrays {described(found)} of these outputs, and its form has "
                f"{described(self.form.arrays)}: pass an example of the outputs, from_metric("
                f"{self.metric.__name__}, example={{name: array, ...}}), with all arguments that are in use."
            )
        return cast_like(arrays, tuple(np.empty(0, dtype) for _, dtype in self.form.arrays))

    def _arrays(self, leaves: list[Any]) -> tuple[Any, ...]:
        if len(leaves) != len(self.form.constants):
            return tuple(leaves)
        pairs = zip(leaves, self.form.constants, strict=True)
        return tuple(leaf for leaf, setting in pairs if setting is None)

    def _metric(self, parts: Parts) -> Any:
        arrays = iter(parts)
        leaves = [next(arrays) if setting is None else setting for setting in self.form.constants]
        return jax.tree.unflatten(self.form.structure, leaves)


def from_metric(metric: Any, *, example: Mapping[str, Any] | None = None, **settings: Any) -> MetricReducer:
    """Make a reducer of a metric class of clu, metrax, or any other with their four methods.

    These are the class methods `empty()` and `from_model_output(...)`, and `merge(other)` and `compute()`. A
    `Collection` of clu is one, too. Make the reducer once, at module level. Its accuracy is that of the
    metric: sums in plain float32 are not compensated, as those of sowlog's own reducers are.

    A metric of one array is used as any reducer, `sowlog.sow("loss", x, reducer)`. One of several arguments
    makes its state by `reducer.of_output(predictions=..., labels=...)`; a sow takes that state as its value.
    The outputs may be lists of texts, as for `metrax.WER`: `of_output` then runs on the host, outside of jit.

    Two classes of metrax need a subclass of yours, decorated by `flax.struct.dataclass`: `FBetaScore` (F1),
    which has no `merge`, and `BLEU`, whose `compute` uses Python's `math`, which no jitted step can.

    Args:
        metric: the metric class, a pytree.
        example: outputs by name, of any batch size, arrays or `jax.ShapeDtypeStruct`s: needed beside
            settings, and where `empty()` has arrays of other shapes than `from_model_output`, as for
            `metrax.AUCROC` and `metrax.WER`.
        **settings: further arguments of each `from_model_output`, such as `threshold=0.3`.

    Returns:
        The reducer, equal to another one of the same class and settings.

    Raises:
        TypeError: The class lacks one of the methods, does not compute on the device, or computes an array.
        ValueError: There are settings and no example.

    Example:
        >>> import flax.struct, jax, jax.numpy as jnp, sowlog
        >>> @flax.struct.dataclass
        ... class Average:
        ...     total: jax.Array
        ...     count: jax.Array
        ...     @classmethod
        ...     def empty(cls):
        ...         return cls(jnp.zeros(()), jnp.zeros(()))
        ...     @classmethod
        ...     def from_model_output(cls, values):
        ...         return cls(jnp.sum(values), jnp.float32(values.size))
        ...     def merge(self, other):
        ...         return Average(self.total + other.total, self.count + other.count)
        ...     def compute(self):
        ...         return self.total / self.count
        >>> average = sowlog.adapters.from_metric(Average)
        >>> def model(x):
        ...     sowlog.sow("x", x, average)
        ...     return x
        >>> y, updates = sowlog.collect(model)(jnp.array([1.0, 3.0]))
        >>> sowlog.compute(updates["metrics"])
        {'x': np.float32(2.0)}
    """
    missing = [
        name
        for name in ("empty", "from_model_output", "merge", "compute")
        if not callable(getattr(metric, name, None))
        and not (name == "from_model_output" and constructor_of_collection(metric))
    ]
    if missing or not isinstance(metric, type):
        raise TypeError(
            f"{metric!r} is no metric class"
            f"{'' if not missing else ': it has no ' + ', no '.join(missing)}. Pass a class with empty, "
            "from_model_output, merge and compute, as clu.metrics.Average."
        )
    if settings and example is None:
        raise ValueError(
            f"from_metric({metric.__name__}, {', '.join(settings)}=...) needs an example of the outputs "
            "beside settings: example=dict(predictions=jnp.zeros(1), labels=jnp.zeros(1))."
        )
    known = tuple(sorted(settings.items()))
    make = constructor(metric, known)
    try:
        if example is None and takes_one_array(make):
            form = form_of(make, (jax.ShapeDtypeStruct((1,), jnp.float32),), {})
        else:
            form = form_of(metric.empty) if example is None else form_of(make, (), example)
        reducer = MetricReducer(metric, known, form)
        jax.eval_shape(lambda: reducer.merge(reducer.empty(), reducer.empty()))
    except NotImplementedError as error:
        raise TypeError(
            f"{metric.__name__} lacks a method ({error}), so the states of two batches cannot become one. "
            f"Extend it by a @flax.struct.dataclass class Mine({metric.__name__}) with this method, as in "
            "def merge(self, other): return self.replace(total=self.total + other.total)."
        ) from error
    _check_results(reducer, is_example=example is not None)
    return reducer


def _check_results(reducer: MetricReducer, *, is_example: bool) -> None:
    try:
        results = jax.eval_shape(lambda: reducer.compute(reducer.empty()))
    except (*_ON_HOST, TypeError, ValueError) as error:
        raise TypeError(
            f"{reducer} does not compute on the device, as a reducer must in a step "
            f"({str(error).partition(chr(10))[0].rstrip('.')}). "
            f"{'' if is_example else 'Pass an example of the outputs. '}If the metric computes by Python, "
            "override compute by jax.numpy in a subclass, or accumulate on the host, and log the number: "
            "log(step, {'score': metric.compute()})."
        ) from error
    arrays = [leaf.shape for leaf in jax.tree.leaves(results) if leaf.shape]
    if arrays:
        raise TypeError(
            f"{reducer} computes an array of shape {arrays[0]}, and a reducer computes scalars: subclass the "
            "metric and return a dict of scalars by name."
        )
