"""The cost of sows in a deep model while JAX traces it, and of sows that are not collected."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator
from typing import Any

import jax
import jax.numpy as jnp

import sowlog
from sowlog._sow import internals
from tests.benchmarks.measure import Line, Size, cost_of, cost_of_trace, interleave, paired_ratio, spread_of

_WIDTH, _SOWS = 16, 8
# A tenth of a second is disturbed more than a second, so it is measured more often.
_SHORT = 5
_WITHOUT = "the same without sows"


def measure_sowing(size: Size) -> list[Line]:
    """Measure CPU seconds of a trace with sows and without, of calls, and of traces that sow nothing."""
    layers = 24 if size.rounds > 1 else 2
    return [
        _of_traces(size, layers),
        _of_calls(size, layers),
        _of_rules(size, layers),
    ]


def _of_traces(size: Size, layers: int) -> Line:
    """Trace and lower a gradient with the sown values collected and packed."""
    x = jnp.ones((4, _WIDTH))
    kernels = jnp.ones((layers, _SOWS, _WIDTH, _WIDTH))

    def step(kernels: Any, *, sows: bool) -> Any:
        def loss(kernels: Any) -> Any:
            if not sows:
                return _model(kernels, x, sows=False).sum(), {}
            y, updates = sowlog.collect(functools.partial(_model, sows=True))(kernels, x)
            return y.sum(), updates["metrics"]

        gradient, metrics = jax.grad(loss, has_aux=True)(kernels)
        return kernels - gradient, sowlog.pack(metrics) if sows else None

    def trace(*, sows: bool) -> float:
        return cost_of_trace(lambda: jax.jit(functools.partial(step, sows=sows)).lower(kernels)).cpu

    figures = interleave(
        {"sown": lambda: trace(sows=True), "bare": lambda: trace(sows=False)}, min(size.rounds, 7)
    )
    return _line(f"trace and lower, {layers} layers, {layers * _SOWS} sows", figures, 1.15)


def _of_calls(size: Size, layers: int) -> Line:
    """Call a jitted function whose sows are not collected."""
    x, kernels = jnp.ones((4, _WIDTH)), jnp.ones((layers, _SOWS, _WIDTH, _WIDTH))
    functions = {name: jax.jit(functools.partial(_model, sows=name == "sown")) for name in ("sown", "bare")}

    def calls(function: Callable[..., Any]) -> float:
        def run() -> None:
            jax.block_until_ready([function(kernels, x) for _ in range(size.records)])

        return cost_of(run).wall

    figures = interleave(
        {name: functools.partial(calls, function) for name, function in functions.items()},
        _SHORT * size.rounds,
    )
    return _line(f"{size.records} calls of a jitted function, not collected", figures, 1.01)


def _of_rules(size: Size, layers: int) -> Line:
    """Trace scans, branches and jits with and without the rules of sowlog, which then only look."""

    def model(x: Any) -> Any:
        for _ in range(layers):
            x = jax.lax.scan(lambda x, _: (jax.jit(jnp.tanh)(x), None), x, length=2)[0]
            x = jax.lax.cond(x[0] > 0, lambda x: x + 1, jax.checkpoint(lambda x: x), x)
        return x

    def trace() -> float:
        return cost_of_trace(lambda: jax.jit(model).trace(jnp.ones(4))).cpu

    def bare() -> float:
        with _without_rules():
            return trace()

    figures = interleave({"sown": trace, "bare": bare}, _SHORT * size.rounds)
    return _line(f"trace of {4 * layers} transforms that sow nothing", figures, 1.01)


def _model(kernels: Any, x: Any, *, sows: bool) -> Any:
    for layer, of_layer in enumerate(kernels):
        with sowlog.scope(f"layer_{layer}"):
            for index, kernel in enumerate(of_layer):
                if sows:
                    sowlog.sow(f"activation_{index}", x)
                x = x + jax.nn.gelu(x @ kernel)
    return x


@contextlib.contextmanager
def _without_rules() -> Generator[None]:
    """Take the rules off the primitives of JAX, which sowlog has put on the objects."""
    primitives = (internals.JIT, internals.SCAN, internals.COND, internals.CHECKPOINT)
    rules = [primitive.__dict__.pop("bind") for primitive in primitives]
    try:
        yield
    finally:
        for primitive, rule in zip(primitives, rules, strict=True):
            primitive.bind = rule


def _line(case: str, figures: dict[str, list[float]], target: float) -> Line:
    ratio = paired_ratio(figures["sown"], figures["bare"])
    return Line(case, spread_of(figures["sown"]), "s", ratio, _WITHOUT, target)
