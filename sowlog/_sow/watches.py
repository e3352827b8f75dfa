"""The globs and statistics of `sowlog.watch`, and the watches around the caller."""

import contextlib
import contextvars
import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, final

import jax
import jax.numpy as jnp

from sowlog._reduce import families
from sowlog._reduce.basic import max as largest
from sowlog._reduce.basic import mean, nonfinite
from sowlog._reduce.moments import rms
from sowlog._reduce.reducer import Reducer
from sowlog._sow import internals
from sowlog._sow.cadence import Every, check_every

Of = Literal["outputs", "inputs", "params", "grads", "updates"]
UPDATES = "updates"
_OF: tuple[str, ...] = ("outputs", "inputs", "params", "grads", UPDATES)


def _is_zero(x: jax.Array) -> jax.Array:
    return x == 0


class Statistic(NamedTuple):
    """A statistic of an array.

    Attributes:
        name: the last part of its tag.
        reducer: its reducer.
        of: the function of the array that is reduced; None for the array itself.
    """

    name: str
    reducer: Reducer
    of: Callable[[jax.Array], jax.Array] | None = None


_MAX_ABS = Statistic("max_abs", largest, jnp.abs)
_FAMILIES: dict[str, tuple[Statistic, ...]] = {
    "norms": (Statistic("norm", families.norm), Statistic("rms", rms), _MAX_ABS),
    "health": (
        Statistic("rms", rms),
        _MAX_ABS,
        Statistic("zeros", mean, _is_zero),
        Statistic("nonfinite", nonfinite),
        Statistic("kurtosis", families.kurtosis),
    ),
}


@final
@dataclasses.dataclass(frozen=True)
class watch:  # noqa: N801 - used as a function
    """Sow statistics of a model's modules by their paths, without a line in the model.

    A context around the call of a collected function, or of a jitted function that collects, which is then
    traced anew; or an argument: `collect(fn, watch=...)`. The modules are those of linen, nnx and Equinox,
    also of other libraries, and the functions that `sowlog.scope` decorates, under every transform. A module
    of Equinox has the path of the fields that lead to it from the module that calls it, and the name of its
    class where it is no field.

    The statistics are those of all floating-point arrays of a module's outputs, inputs or parameters, at each
    `__call__`; other arrays are left out. Their tags are `<path>/<of>/<statistic>`.

    Args:
        glob: paths of modules, such as "decoder/*/attention": `*` is any text within a part of the path, `**`
            any number of parts, so that "**" is every module.
        reducers: reducers, or the name of a family: "health" (rms, max_abs, the fraction of zeros, the number
            of nonfinite elements, kurtosis) or "norms" (norm, rms, max_abs).
        of: "outputs", "inputs" or "params". Of these a module in a scan has those of its layer; they count
            once in a pass, with the first call. "grads" are the gradients of the outputs: the backward pass
            sows them, so they arrive, as those of `sow_grad`, at a `collect` around the gradient. "updates"
            are those of the module's parameters, of an `optax` update inside of the `collect` that passes
            `sowlog.observe("updates")`, whose `stacked` names the layers of a scan; paths are those in the
            tree of parameters.
        every: the cadence, as of `sow`: each n-th step, or the name of a flag. Where two watches have one
            statistic of a module, the cadence is that of the inner one.

    Raises:
        TypeError: `reducers` holds no reducer, or `every` is no cadence.
        ValueError: `glob` has an empty part, a family or `of` is unknown, or two reducers have one name.
        UnmatchedWatchError: (at the end of the `collect`) No module that was called has such a path.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp, sowlog
        >>> class Model(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         return nn.Dense(2, kernel_init=nn.initializers.ones)(nn.Dense(3)(x))
        >>> model = Model()
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 2)))
        >>> with sowlog.watch("Dense_*", [sowlog.rms, sowlog.max]):
        ...     y, updates = sowlog.collect(model.apply)(variables, jnp.zeros((1, 2)))
        >>> sowlog.compute(updates["metrics"])["Dense_1/outputs/max"]
        np.float32(0.0)
    """

    glob: str
    reducers: Any = "health"
    of: Of = "outputs"
    every: Every = None
    _entered: list[contextlib.ExitStack] = dataclasses.field(
        default_factory=list, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if not all(str(self.glob).split("/")):
            raise ValueError(
                f"the glob of a watch is {self.glob!r}: write a path of parts, such as blocks/*."
            )
        check_every(self.every)
        if self.of not in _OF:
            raise ValueError(f"a watch is of {self.of!r}, which is none of {', '.join(_OF)}.")
        object.__setattr__(self, "reducers", _frozen(self.reducers))
        names = [statistic.name for statistic in self.statistics]
        if len(set(names)) < len(names):
            raise ValueError(
                f"two reducers of a watch have one name, of {', '.join(names)}: write two watches."
            )

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """Return the statistics of each array."""
        return _statistics(self.reducers)

    def matches(self, path: Sequence[str]) -> bool:
        """Return whether a module with a path is watched."""
        return _pattern(self.glob).fullmatch("".join(f"{part}/" for part in path)) is not None

    def __enter__(self) -> Self:
        stack = contextlib.ExitStack()
        stack.enter_context(watching((*active(), self)))
        self._entered.append(stack)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered.pop().close()


_active: contextvars.ContextVar[tuple[watch, ...]] = contextvars.ContextVar("sowlog_watches", default=())


def active() -> tuple[watch, ...]:
    """Return the watches around the caller, the outermost first."""
    return _active.get()


@contextlib.contextmanager
def watching(watches: tuple[watch, ...]) -> Any:
    """Set the watches; JAX traces functions under other watches anew."""
    token = _active.set(watches)
    try:
        with internals.traced_for(watches):
            yield
    finally:
        _active.reset(token)


def _frozen(reducers: Any) -> Any:
    if isinstance(reducers, str):
        if reducers not in _FAMILIES:
            raise ValueError(
                f"a watch has the reducers {reducers!r}, which is no family: write one of "
                f"{', '.join(sorted(_FAMILIES))}, or reducers such as [sowlog.rms]."
            )
        return reducers
    several = (reducers,) if isinstance(reducers, Reducer) else tuple(_elements(reducers))
    for reducer in several:
        if not isinstance(reducer, Reducer):
            raise TypeError(
                f"a watch has the reducers {several!r}, and {reducer!r} is none. Write reducers such as "
                "[sowlog.rms, sowlog.max], or the name of a family."
            )
    return several


def _elements(reducers: Any) -> Iterable[Any]:
    if isinstance(reducers, Iterable):
        return reducers
    raise TypeError(f"a watch has the reducers {reducers!r}: write a list, such as [sowlog.rms].")


def _statistics(reducers: Any) -> tuple[Statistic, ...]:
    if isinstance(reducers, str):
        return _FAMILIES[reducers]
    return tuple(Statistic(repr(reducer).partition("(")[0], reducer) for reducer in reducers)


@functools.lru_cache(maxsize=1024)
def _pattern(glob: str) -> re.Pattern[str]:
    """Return the expression of a glob, for a path with a slash behind each part."""
    return re.compile("".join(map(_part, glob.split("/"))))


def _part(part: str) -> str:
    if part == "**":
        return "(?:[^/]+/)*"
    wild = {"*": "[^/]*", "?": "[^/]"}
    return "".join(wild.get(letter, re.escape(letter)) for letter in part) + "/"
