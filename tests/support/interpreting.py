"""Evaluate a jaxpr in NumPy, operation by operation: hundreds of random programs need no compilation.

Inside of a shard_map each value is a list with an element for each device. An operation that is not in the
table below is run by JAX.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_Values = list[Any]


def evaluate(closed: Any, *args: Any) -> _Values:
    """Return the results of a closed jaxpr."""
    with np.errstate(all="ignore"):
        return [np.asarray(result) for result in _Evaluation().run(closed, [np.asarray(arg) for arg in args])]


class _Evaluation:
    """The evaluation on one device."""

    def run(self, jaxpr: Any, args: Sequence[Any]) -> _Values:
        consts, jaxpr = getattr(jaxpr, "consts", ()), getattr(jaxpr, "jaxpr", jaxpr)
        values: dict[Any, Any] = {}

        def read(atom: Any) -> Any:
            return self.constant(atom.val) if hasattr(atom, "val") else values[atom]

        values.update(zip(jaxpr.constvars, map(self.constant, consts), strict=True))
        values.update(zip(jaxpr.invars, args, strict=True))
        for equation in jaxpr.eqns:
            results = self.bind(equation, [read(atom) for atom in equation.invars])
            values.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def constant(self, value: Any) -> Any:
        return np.asarray(value)

    def bind(self, equation: Any, args: _Values) -> _Values:
        name, params = equation.primitive.name, equation.params
        if name in _CALLS:
            return self.run(next(params[key] for key in _CALLS[name] if key in params), args)
        if name in _CONTROL:
            return _CONTROL[name](self, args, params)
        if name in _SIMPLE:
            return [_SIMPLE[name](*args, **params)]
        results = equation.primitive.bind(*args, **params)
        return (
            list(map(np.asarray, results)) if equation.primitive.multiple_results else [np.asarray(results)]
        )


class _Sharded(_Evaluation):
    """The evaluation of the body of a shard_map, on all devices in step."""

    def __init__(self, size: int):
        self._size = size

    def constant(self, value: Any) -> Any:
        return [np.asarray(value)] * self._size

    def bind(self, equation: Any, args: _Values) -> _Values:
        name = equation.primitive.name
        if name in _CALLS:
            return super().bind(equation, args)
        if name in _COLLECTIVES:
            return [[_COLLECTIVES[name](np.stack(arg))] * self._size for arg in args]
        if name == "axis_index":
            return [[np.int32(index) for index in range(self._size)]]
        if name in ("pvary", "reshard"):
            return list(args)
        one = _Evaluation()
        on_each = [one.bind(equation, [arg[index] for arg in args]) for index in range(self._size)]
        return [list(of_result) for of_result in zip(*on_each, strict=True)]


_COLLECTIVES = {
    "psum": lambda x: x.sum(0, dtype=x.dtype),
    "psum_invariant": lambda x: x.sum(0, dtype=x.dtype),
    "pmax": lambda x: x.max(0),
    "pmin": lambda x: x.min(0),
}
_CALLS = {
    "jit": ["jaxpr"],
    "pjit": ["jaxpr"],
    "closed_call": ["call_jaxpr"],
    "core_call": ["call_jaxpr"],
    "checkpoint": ["jaxpr"],
    "remat2": ["jaxpr"],
    "custom_jvp_call": ["call_jaxpr"],
    "custom_vjp_call": ["call_jaxpr", "fun_jaxpr"],
    "custom_vjp_call_jaxpr": ["call_jaxpr", "fun_jaxpr"],
}


def _scan(self: _Evaluation, args: _Values, params: Any) -> _Values:
    if "ft_in" in params:
        num_consts, num_carry = (len(list(part)) for part in params["ft_in"].unpack()[:2])
    else:
        num_consts, num_carry = params["num_consts"], params["num_carry"]
    consts, carry = args[:num_consts], args[num_consts : num_consts + num_carry]
    arrays, stacked = args[num_consts + num_carry :], {}
    steps = range(params["length"])
    for step in reversed(steps) if params["reverse"] else steps:
        results = self.run(params["jaxpr"], [*consts, *carry, *(array[step] for array in arrays)])
        carry, stacked[step] = results[:num_carry], results[num_carry:]
    return [
        *carry,
        *(np.stack(of_array) for of_array in zip(*(stacked[step] for step in steps), strict=True)),
    ]


def _while(self: _Evaluation, args: _Values, params: Any) -> _Values:
    of_condition = args[: params["cond_nconsts"]]
    of_body = args[len(of_condition) : len(of_condition) + params["body_nconsts"]]
    carry = args[len(of_condition) + len(of_body) :]
    while np.any(goes_on := self.run(params["cond_jaxpr"], [*of_condition, *carry])[0]):
        results = self.run(params["body_jaxpr"], [*of_body, *carry])
        # Under vmap the condition may be mapped: an element that is done keeps its carry.
        carry = [
            np.where(goes_on.reshape(goes_on.shape + (1,) * (new.ndim - goes_on.ndim)), new, old)
            for new, old in zip(results, carry, strict=True)
        ]
    return carry


def _cond(self: _Evaluation, args: _Values, params: Any) -> _Values:
    branches = params["branches"]
    return self.run(branches[int(np.clip(int(args[0]), 0, len(branches) - 1))], args[1:])


def _shard_map(_: _Evaluation, args: _Values, params: Any) -> _Values:
    """Split the operands along the mapped axis of a mesh with one axis, and join the results."""
    size = math.prod(params["mesh"].shape.values())

    def axis_of(spec: Any) -> int | None:
        return next((axis for axis, name in enumerate(spec) if name is not None), None)

    sharded = [
        [arg] * size if axis is None else np.split(arg, size, axis)
        for arg, axis in zip(args, map(axis_of, params["in_specs"]), strict=True)
    ]
    results = _Sharded(size).run(params["jaxpr"], sharded)
    return [
        result[0] if axis is None else np.concatenate(result, axis)
        for result, axis in zip(results, map(axis_of, params["out_specs"]), strict=True)
    ]


_CONTROL: dict[str, Callable[[_Evaluation, _Values, Any], _Values]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "shard_map": _shard_map,
}


def _broadcast(x: Any, *, shape: Any, broadcast_dimensions: Any, **_: Any) -> Any:
    aligned = [1] * len(shape)
    for dimension, size in zip(broadcast_dimensions, x.shape, strict=True):
        aligned[dimension] = size
    return np.broadcast_to(x.reshape(aligned), shape)


def _select(which: Any, *cases: Any, **_: Any) -> Any:
    if len(cases) == 2:
        return np.where(which, cases[1], cases[0])
    return np.choose(which, cases)


def _iota(*, dtype: Any, shape: Any, dimension: int, **_: Any) -> Any:
    ranks = [-1 if axis == dimension else 1 for axis in range(len(shape))]
    return np.broadcast_to(np.arange(shape[dimension], dtype=dtype).reshape(ranks), shape)


def _slice(x: Any, *, start_indices: Any, limit_indices: Any, strides: Any, **_: Any) -> Any:
    strides = strides or [1] * x.ndim
    return x[tuple(map(slice, start_indices, limit_indices, strides))]


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function without the parameters of the operation."""
    return lambda *args, **_: np.asarray(function(*args))


_UFUNCS = {
    "add": np.add,
    "add_any": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "neg": np.negative,
    "max": np.maximum,
    "min": np.minimum,
    "abs": np.absolute,
    "sign": np.sign,
    "square": np.square,
    "sqrt": np.sqrt,
    "rem": np.fmod,
    "floor": np.floor,
    "ceil": np.ceil,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
    "shift_right_arithmetic": np.right_shift,
    "eq": np.equal,
    "ne": np.not_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lt": np.less,
    "le": np.less_equal,
    "is_finite": np.isfinite,
}
_SIMPLE: dict[str, Callable[..., Any]] = {
    **{name: _plain(function) for name, function in _UFUNCS.items()},
    "div": _plain(lambda x, y: x / y if x.dtype.kind == "f" else np.trunc(x / y).astype(x.dtype)),
    "stop_gradient": _plain(lambda x: x),
    "pvary": _plain(lambda x: x),
    "copy": _plain(lambda x: x),
    "optimization_barrier": _plain(lambda x: x),
    "select_n": _select,
    "broadcast_in_dim": _broadcast,
    "convert_element_type": lambda x, *, new_dtype, **_: x.astype(new_dtype),
    "bitcast_convert_type": lambda x, *, new_dtype, **_: x.view(new_dtype),
    "integer_pow": lambda x, *, y, **_: (x**y).astype(x.dtype),
    "clamp": _plain(lambda low, x, high: np.clip(x, low, high)),
    "iota": _iota,
    "slice": _slice,
    "squeeze": lambda x, *, dimensions, **_: np.squeeze(x, tuple(dimensions)),
    "reshape": lambda x, *, new_sizes, **_: x.reshape(new_sizes),
    "transpose": lambda x, *, permutation, **_: np.transpose(x, permutation),
    "concatenate": lambda *xs, dimension, **_: np.concatenate(xs, dimension),
    "stack": lambda *xs, axis, **_: np.stack(xs, axis),
    "reduce_sum": lambda x, *, axes, **_: np.asarray(np.sum(x, axis=tuple(axes), dtype=x.dtype)),
    "reduce_max": lambda x, *, axes, **_: np.asarray(np.max(x, axis=tuple(axes))),
    "reduce_min": lambda x, *, axes, **_: np.asarray(np.min(x, axis=tuple(axes))),
    "reduce_and": lambda x, *, axes, **_: np.asarray(np.all(x, axis=tuple(axes))),
    "reduce_or": lambda x, *, axes, **_: np.asarray(np.any(x, axis=tuple(axes))),
}
