"""Random programs of JAX's transforms around sows, each with its meaning in plain Python.

A program maps an array [2] to an array [2], elementwise. Numbers are small integers, exact in float32, so
both evaluations take the same branches.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax.sharding import Mesh, PartitionSpec

import sowlog

ROWS = 3
"""The steps of a loop and the elements of a vmap."""


class Dual(NamedTuple):
    """An array and its elementwise derivative by the program's input."""

    value: np.ndarray
    slope: np.ndarray

    def __add__(self, number: Any) -> "Dual":
        return Dual(self.value + number, self.slope)


class Entry(NamedTuple):
    """A sown value: the steps of `sowlog.stacked` it is sown in, and its weight in an average of passes."""

    tag: str
    steps: tuple[int, ...]
    kind: str
    value: Dual
    share: float


class Log:
    """The values that a program sows in plain Python, in their order."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._scopes: list[str] = []
        self._steps: list[int] = []
        self._shares: list[float] = [1.0]

    def sow(self, name: str, kind: str, value: Dual) -> None:
        steps = () if kind == "loss" else tuple(self._steps)
        self.entries.append(Entry("/".join((*self._scopes, name)), steps, kind, value, self._shares[-1]))

    @contextlib.contextmanager
    def scope(self, name: str) -> Iterator[None]:
        self._scopes.append(name)
        yield
        self._scopes.pop()

    @contextlib.contextmanager
    def step(self, index: int) -> Iterator[None]:
        self._steps.append(index)
        yield
        self._steps.pop()

    @contextlib.contextmanager
    def device(self, of: int) -> Iterator[None]:
        self._shares.append(self._shares[-1] / of)
        yield
        self._shares.pop()


@dataclasses.dataclass(frozen=True)
class Program:
    """A function of JAX, and its meaning.

    Attributes:
        text: the transforms, from the outside.
        run: the function.
        plain: its meaning: a function of a Dual, which sows in a Log.
        reverse: whether JAX has its gradient.
        forward: whether JAX has its derivative in forward mode.
    """

    text: str
    run: Callable[[Any], Any]
    plain: Callable[[Dual, Log], Dual]
    reverse: bool = True
    forward: bool = True


class Place(NamedTuple):
    """What a program may hold where it is built.

    Attributes:
        reverse: whether JAX takes its gradient, which a while loop has not.
        forward: whether JAX takes its derivative in forward mode, which a custom_vjp has not.
        loss: whether it may sow a loss, as outside of a custom derivative.
        shards: whether it may hold a shard_map: all use one mesh axis.
        ordered: whether it may sow a `last`: undefined if a function runs twice under vmap.
        stacked: whether it may stack, as outside of a while loop.
        derivatives: the number of derivatives around it that a custom derivative has not taken.
    """

    reverse: bool = False
    forward: bool = False
    loss: bool = True
    shards: bool = True
    ordered: bool = True
    stacked: bool = True
    derivatives: int = 0


KINDS = {
    "sum": sowlog.sum,
    "mean": sowlog.mean,
    "max": sowlog.max,
    "last": sowlog.last,
    "histogram": sowlog.histogram(),
}


def _turn(x: Any) -> Any:
    return jnp.where(x > 3, x - 3, 4 - x)


def _leaf(draw: Any, place: Place, names: Iterator[str]) -> Program:
    kinds = [kind for kind in KINDS if place.ordered or kind != "last"] + ["loss"] * place.loss
    chosen = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=2, unique=True))
    labels = [(next(names), kind) for kind in chosen]

    def run(x: Any) -> Any:
        for name, kind in labels:
            if kind == "loss":
                sowlog.sow_loss(name, jnp.sum(x**2), weight=0.5)
            else:
                sowlog.sow(name, x, KINDS[kind])
        return _turn(x)

    def plain(x: Dual, log: Log) -> Dual:
        for name, kind in labels:
            log.sow(name, kind, x)
        high = x.value > 3
        return Dual(np.where(high, x.value - 3, 4 - x.value), np.where(high, 1, -1) * x.slope)

    return Program("+".join(chosen), run, plain)


Run = Callable[[Any], Any]
Plain = Callable[[Dual, Log], Dual]


def _rows(x: Any) -> Any:
    return x[None] + jnp.arange(float(ROWS))[:, None]


def _each_row(plain: Plain, *, of: range = range(ROWS), add: int = 1) -> Plain:
    def run(x: Dual, log: Log) -> Dual:
        return [plain(x + add * i, log) for i in of][-1]

    return run


def _carried(plain: Plain, of: range = range(ROWS)) -> Plain:
    def run(x: Dual, log: Log) -> Dual:
        for i in of:
            x = plain(x + i, log)
        return x

    return run


def _in_steps(loop: Callable[[Plain], Plain], plain: Plain) -> Plain:
    """Return the meaning of a loop over a stacked body."""

    def run(x: Dual, log: Log) -> Dual:
        steps = itertools.count()

        def body(x: Dual, log: Log) -> Dual:
            with log.step(next(steps)):
                return plain(x, log)

        return loop(body)(x, log)

    return run


def _scan(f: Run, **settings: Any) -> Run:
    return lambda x: jax.lax.scan(lambda c, i: (f(c + i), None), x, jnp.arange(float(ROWS)), **settings)[0]


def _while(f: Run) -> Run:
    def run(x: Any) -> Any:
        bound = jnp.mod(x[0], 3).astype(int)
        return jax.lax.while_loop(lambda c: c[0] < bound, lambda c: (c[0] + 1, f(c[1] + c[0])), (0, x))[1]

    return run


def _plain_while(p: Plain) -> Plain:
    return lambda x, log: _carried(p, range(int(x.value[0]) % 3))(x, log)


def _custom_vjp(f: Run, *, runs: bool) -> Run:
    custom = jax.custom_vjp(f)
    custom.defvjp(lambda x: (f(x) if runs else jax.lax.stop_gradient(custom(x)), None), lambda _, g: (g,))
    return custom


def _custom_jvp(f: Run) -> Run:
    custom = jax.custom_jvp(f)
    custom.defjvp(lambda x, t: (f(*x), t[0]))
    return custom


def _own_slope(p: Plain) -> Plain:
    return lambda x, log: Dual(p(x, log).value, x.slope)


def _without_slope(p: Plain) -> Plain:
    return lambda x, log: p(x, log)._replace(slope=0 * x.slope)


def _gradient(f: Run) -> Run:
    def loss(x: Any) -> Any:
        y = f(x)
        return y.sum(), y

    def run(x: Any) -> Any:
        (_, y), gradient = jax.value_and_grad(loss, has_aux=True)(x)
        return y + 0 * gradient

    return run


def _vjp(f: Run) -> Run:
    def run(x: Any) -> Any:
        y, pull = jax.vjp(f, x)
        return y + 0 * pull(y)[0]

    return run


def _jvp(f: Run) -> Run:
    def run(x: Any) -> Any:
        y, tangent = jax.jvp(f, (x,), (x,))
        return y + 0 * tangent

    return run


def _linearize(f: Run) -> Run:
    def run(x: Any) -> Any:
        y, linear = jax.linearize(f, x)
        return y + 0 * linear(x)

    return run


def _hessian(f: Run) -> Run:
    return lambda x: x + 0 * jax.hessian(lambda x: f(x).sum())(x).sum(0)


def _aside(p: Plain) -> Plain:
    def run(x: Dual, log: Log) -> Dual:
        p(x, log)
        return x

    return run


def _mapped_shards(f: Run, *, checked: bool = True) -> Run:
    def run(x: Any) -> Any:
        mesh, spec = Mesh(np.array(jax.devices()[:2]), ("shards",)), PartitionSpec("shards")
        rows = x[None] + jnp.arange(2.0)[:, None]
        one = jax.shard_map(
            lambda rows: f(rows[0])[None], mesh=mesh, in_specs=spec, out_specs=spec, check_vma=checked
        )
        return one(rows)[-1]

    return run


def _plain_shards(p: Plain) -> Plain:
    def run(x: Dual, log: Log) -> Dual:
        with log.device(of=2):
            return _each_row(p, of=range(2))(x, log)

    return run


def _equal_shards(f: Run) -> Run:
    def run(x: Any) -> Any:
        mesh = Mesh(np.array(jax.devices()[:2]), ("shards",))
        return jax.shard_map(f, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec())(x)

    return run


def _nested(f: Run) -> Run:
    def run(x: Any) -> Any:
        y, updates = sowlog.collect(f)(x)
        states = jax.tree.leaves(updates["metrics"], is_leaf=lambda node: isinstance(node, sowlog.State))
        seen = [jnp.sum(state.seen > 0) for state in states]
        sowlog.sow("seen", sum(seen, 0 * jnp.sum(x)), sowlog.sum)
        return y

    return run


def _plain_nested(p: Plain) -> Plain:
    def run(x: Dual, log: Log) -> Dual:
        inner = Log()
        y = p(x, inner)
        seen = [(entry.tag, entry.steps) for entry in inner.entries if entry.kind != "loss"]
        log.sow("seen", "sum", Dual(np.array([float(len(set(seen)))]), np.zeros(1)))
        return y

    return run


def _scoped(p: Plain) -> Plain:
    def run(x: Dual, log: Log) -> Dual:
        with log.scope("scope"):
            return p(x, log)

    return run


def _branch(p: Plain) -> Plain:
    return lambda x, log: p(x, log) if x.value[0] % 2 else x


def _is_odd(x: Any) -> Any:
    """Return a predicate that differs from row to row."""
    return jnp.mod(x[0], 2) == 1


# The name of a transform, its form in JAX, and its meaning.
TRANSFORMS: dict[str, tuple[Callable[[Run], Run], Callable[[Plain], Plain]]] = {
    "jit": (jax.jit, lambda p: p),
    "vmap": (lambda f: lambda x: jax.vmap(f)(_rows(x))[-1], _each_row),
    "vmap, other axes": (
        lambda f: lambda x: jax.vmap(f, in_axes=1, out_axes=1)(_rows(x).T)[:, -1],
        _each_row,
    ),
    "vmap of one": (lambda f: lambda x: jax.vmap(f)(x[None])[0], lambda p: p),
    "vmap, unmapped": (
        lambda f: lambda x: jax.vmap(lambda i: f(x) + 0 * i)(jnp.arange(float(ROWS)))[-1],
        lambda p: _each_row(p, add=0),
    ),
    "vmap, axis_size": (
        lambda f: lambda x: jax.vmap(lambda x: f(x), in_axes=None, axis_size=2)(x)[-1],
        lambda p: _each_row(p, of=range(2), add=0),
    ),
    "map": (lambda f: lambda x: jax.lax.map(f, _rows(x))[-1], _each_row),
    "map in batches": (lambda f: lambda x: jax.lax.map(f, _rows(x), batch_size=2)[-1], _each_row),
    "scan": (_scan, _carried),
    "scan, unrolled": (lambda f: _scan(f, unroll=2), _carried),
    "scan, reversed": (lambda f: _scan(f, reverse=True), lambda p: _carried(p, range(ROWS)[::-1])),
    "scan of one": (
        lambda f: lambda x: jax.lax.scan(lambda c, _: (f(c), None), x, length=1)[0],
        lambda p: p,
    ),
    "fori_loop": (
        lambda f: lambda x: jax.lax.fori_loop(0, ROWS, lambda i, c: f(c + i), x),
        _carried,
    ),
    "fori_loop, unmapped": (
        lambda f: lambda x: jax.lax.fori_loop(0, ROWS, lambda i, c: c + 0 * f(x), x),
        lambda p: _aside(_each_row(p, add=0)),
    ),
    "while": (_while, _plain_while),
    "cond": (lambda f: lambda x: jax.lax.cond(_is_odd(x), f, lambda x: x, x), _branch),
    "cond, closed over": (lambda f: lambda x: jax.lax.cond(_is_odd(x), lambda: f(x), lambda: x), _branch),
    "checkpoint": (jax.checkpoint, lambda p: p),
    "checkpoint, saveable": (
        lambda f: jax.checkpoint(f, policy=jax.checkpoint_policies.everything_saveable),
        lambda p: p,
    ),
    "grad": (_gradient, lambda p: p),
    "vjp": (_vjp, lambda p: p),
    "jvp": (_jvp, lambda p: p),
    "linearize": (_linearize, lambda p: p),
    "hessian": (_hessian, _aside),
    "custom_vjp": (lambda f: _custom_vjp(f, runs=True), _own_slope),
    "custom_vjp, called by its rule": (lambda f: _custom_vjp(f, runs=False), _own_slope),
    "custom_jvp": (_custom_jvp, _own_slope),
    "stacked scan": (lambda f: _scan(sowlog.stacked(f)), lambda p: _in_steps(_carried, p)),
    "stacked vmap": (
        lambda f: lambda x: jax.vmap(sowlog.stacked(f))(_rows(x))[-1],
        lambda p: _in_steps(_each_row, p),
    ),
    "scope": (sowlog.scope("scope"), _scoped),
    "collect": (_nested, _plain_nested),
    "shard_map": (_mapped_shards, _plain_shards),
    "shard_map, unchecked": (lambda f: _mapped_shards(f, checked=False), _plain_shards),
    "shard_map, equal": (_equal_shards, lambda p: p),
}
_BACKWARD = {"grad", "vjp", "linearize", "hessian"}
_FORWARD = {"jvp", "linearize", "hessian"}
_CUSTOM_VJP = {"custom_vjp", "custom_vjp, called by its rule"}
_CUSTOM = {*_CUSTOM_VJP, "custom_jvp"}
_DERIVATIVES = {"grad": 1, "vjp": 1, "jvp": 1, "linearize": 1, "hessian": 2, **dict.fromkeys(_CUSTOM, -1)}
_SHARDS = {"shard_map", "shard_map, unchecked", "shard_map, equal"}
_STACKED = {"stacked scan", "stacked vmap"}


def _allowed(place: Place) -> list[str]:
    return [
        name
        for name in TRANSFORMS
        if not (place.reverse and name == "while")
        and not (place.forward and name in _CUSTOM_VJP)
        and not (not place.shards and name in _SHARDS)
        and not (not place.stacked and name in _STACKED)
    ]


def _inside(name: str, place: Place) -> Place:
    return place._replace(
        reverse=place.reverse or name in _BACKWARD,
        forward=place.forward or name in _FORWARD,
        loss=place.loss and name not in _CUSTOM,
        shards=place.shards and name not in _SHARDS,
        stacked=place.stacked and name != "while",
        derivatives=max(0, place.derivatives + _DERIVATIVES.get(name, 0)),
    )


def _meaning(name: str, place: Place) -> Callable[[Plain], Plain]:
    """Return the meaning of a transform in a place.

    A custom derivative is taken by the innermost derivative around it. The ones outside of that differentiate
    its rule: that is the function itself, or has no slope where it stops the gradient.
    """
    if name not in _CUSTOM or not place.derivatives:
        return TRANSFORMS[name][1]
    return _without_slope if name == "custom_vjp, called by its rule" else lambda p: p


def _build(draw: Any, depth: int, place: Place, names: Iterator[str]) -> Program:
    way = draw(st.sampled_from(["transform"] * 6 + ["sequence", "twice", "switch"])) if depth else "leaf"
    if way == "leaf":
        return _leaf(draw, place, names)
    if way in ("sequence", "switch"):
        one = _build(draw, depth - 1, place, names)
        two = _build(draw, draw(st.integers(0, depth - 1)), place, names)
        flags = {"reverse": one.reverse and two.reverse, "forward": one.forward and two.forward}
        if way == "sequence":
            return Program(
                f"({one.text}; {two.text})",
                lambda x: two.run(one.run(x)),
                lambda x, log: two.plain(one.plain(x, log), log),
                **flags,
            )
        return Program(
            f"switch({one.text} | {two.text})",
            lambda x: jax.lax.switch(
                jnp.mod(x[0], 3).astype(int), [one.run, two.run, lambda x: two.run(x)], x
            ),
            lambda x, log: (two.plain if int(x.value[0]) % 3 else one.plain)(x, log),
            **flags,
        )
    if way == "twice":
        one = _build(draw, depth - 1, place._replace(ordered=False), names)
        cached = jax.jit(one.run)
        return dataclasses.replace(
            one,
            text=f"twice jit({one.text})",
            run=lambda x: cached(cached(x)),
            plain=lambda x, log: one.plain(one.plain(x, log), log),
        )
    name = draw(st.sampled_from(_allowed(place)))
    one = _build(draw, depth - 1, _inside(name, place), names)
    return Program(
        f"{name}({one.text})",
        TRANSFORMS[name][0](one.run),
        _meaning(name, place)(one.plain),
        reverse=one.reverse and name != "while",
        forward=one.forward and name not in _CUSTOM_VJP,
    )


@st.composite
def programs(draw: Any, depth: int = 5) -> Program:
    """Draw a program of at most so many nested transforms."""
    names = (f"value{i}" for i in itertools.count())
    return _build(draw, draw(st.integers(1, depth)), Place(), names)
