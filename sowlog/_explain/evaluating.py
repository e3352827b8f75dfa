"""The evaluation of a jaxpr equation by equation, which records where NaN and infinity come from.

A finite value has no trail, so the flow is recorded of non-finite values alone. Nothing leaves an
iteration of a loop but its results: a long loop is compiled, and only an iteration whose results are not
finite is evaluated by equations.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.extend.core import Literal, jaxpr_as_fun

from sowlog._explain import arrays, origins
from sowlog._explain.evaluated import WHOLE, Place, Value, captured, element, rows_of, stacked
from sowlog._explain.origins import EQUATION, Event, Trail
from sowlog._explain.report import NonfiniteReport
from sowlog._explain.source_lines import line_of, module_of, phase_of
from sowlog._explain.spaces import Sharded, Whole
from sowlog._sow import internals

_COMPILED_FROM = 17
"""The number of iterations from which the body of a scan is compiled."""

_ENTERED = 64
"""Iterations of one loop that are evaluated by equations although they may only pass on NaN or infinity."""

_CALLS = {"closed_call", "core_call", "custom_vmap_call"}


class Evaluation:
    """One evaluation of a function."""

    def __init__(self) -> None:
        self._order = 0
        self._steps: dict[Any, Callable[..., Any]] = {}

    def run(self, jaxpr: Any, values: Sequence[Value], place: Place | None = None) -> list[Value]:
        """Evaluate a jaxpr, closed or not."""
        place = Place() if place is None else place
        inner = getattr(jaxpr, "jaxpr", jaxpr)
        variables: dict[Any, Value] = dict(zip(inner.invars, values, strict=True))
        for variable, const in zip(inner.constvars, getattr(jaxpr, "consts", ()), strict=True):
            variables[variable] = captured(const, place)
        last = _last_uses(inner)
        for number, equation in enumerate(inner.eqns):
            operands = [_read(atom, variables, place) for atom in equation.invars]
            variables |= zip(equation.outvars, self._evaluate(equation, operands, place), strict=True)
            del operands
            for variable in last.get(number, ()):
                del variables[variable]
        return [_read(atom, variables, place) for atom in inner.outvars]

    def _evaluate(self, equation: Any, operands: list[Value], place: Place) -> list[Value]:
        rule = _RULES.get(equation.primitive) or (_call if equation.primitive.name in _CALLS else None)
        results = None if rule is None else rule(self, equation, operands, place)
        return self._bind(equation, operands, place) if results is None else results

    def _bind(self, equation: Any, operands: list[Value], place: Place) -> list[Value]:
        results = place.space.bind(equation, [operand.array for operand in operands])
        return self._results(equation, operands, results, place, (equation.invars, equation.outvars))

    def _results(
        self,
        equation: Any,
        operands: Sequence[Value],
        results: Sequence[Any],
        place: Place,
        atoms: tuple[Sequence[Any], Sequence[Any]],
    ) -> list[Value]:
        """Return the values of an equation's results, with an event for those that are not finite.

        Args:
            equation: the equation.
            operands: its operands.
            results: the arrays of its results.
            place: the place of the equation.
            atoms: the variables of operands and results, which know the axes that shards vary over.
        """
        ins, outs = atoms
        self._order += 1
        kinds = arrays.kinds(results)
        constant = all(operand.is_constant for operand in operands)
        if not any(kinds):
            return [Value(result, None, constant) for result in results]
        trails = tuple(operand.trail for operand in operands if operand.trail is not None)
        report = _report_place(equation, place)
        made = origins.makes(frozenset[str]().union(*kinds), trails, is_constant=constant)
        if made is not None:
            number = next(number for number, of in enumerate(kinds) if made in of)
            rows = rows_of(outs[number], results[number], place)
            pairs = zip(ins, operands, strict=True)
            numbers = [rows_of(a, x.array, place) for a, x in pairs if arrays.has_numbers(x.array)]
            report = dataclasses.replace(report, kind=made, **arrays.describe(made, numbers, rows))
        event = Event(self._order, report, trails, constant)
        return [
            Value(result, Trail(of, event) if of else None, constant)
            for result, of in zip(results, kinds, strict=True)
        ]

    def _compiled(self, jaxpr: Any, space: Whole) -> Callable[..., list[Any]]:
        """Return a closed jaxpr as a jitted function."""
        if (jaxpr, space) not in self._steps:
            self._steps[jaxpr, space] = space.compiled(jaxpr_as_fun(jaxpr), jaxpr)
        return self._steps[jaxpr, space]

    def call(self, equation: Any, operands: list[Value], place: Place) -> list[Value]:
        """Evaluate the function of a jit, a checkpoint or a custom derivative."""
        params = equation.params
        jaxpr = next(params[name] for name in ("jaxpr", "call_jaxpr", "call") if name in params)
        return self.run(jaxpr, operands, place.inside(equation))

    def scan(self, equation: Any, operands: list[Value], place: Place) -> list[Value] | None:
        """Evaluate the iterations of a scan."""
        params = equation.params
        length = params["length"]
        if not length:
            return None
        consts, carry, xs = internals.split_scan(operands, params)
        step = self._loop(equation, params["jaxpr"], place, length)
        order = range(length)[::-1] if params["reverse"] else range(length)
        ys: list[list[Value]] = [[]] * length
        for index in order:
            results = step(index, [*consts, *carry, *(element(x, index, place) for x in xs)])
            carry, ys[index] = results[: len(carry)], results[len(carry) :]
        return [*carry, *(stacked(of_all, place) for of_all in zip(*ys, strict=True))]

    def loop(self, equation: Any, operands: list[Value], place: Place) -> list[Value] | None:
        """Evaluate the iterations of a while loop, unless their number may differ between shards."""
        params = equation.params
        condition = operands[: params["cond_nconsts"]]
        consts = operands[len(condition) : len(condition) + params["body_nconsts"]]
        carry = operands[len(condition) + len(consts) :]
        (goes_on,) = params["cond_jaxpr"].out_avals
        if place.space.axes_of(goes_on):
            return None
        test = self._compiled(params["cond_jaxpr"], place.space)
        step = self._loop(equation, params["body_jaxpr"], place, None)
        index = 0
        while place.space.rows_of(test(*(value.array for value in [*condition, *carry]))[0]).all():
            carry = step(index, [*consts, *carry])
            index += 1
        return carry

    def _loop(
        self, equation: Any, body: Any, place: Place, length: int | None
    ) -> Callable[[int, list[Value]], list[Value]]:
        """Return the function of one iteration of a loop, by its index and inputs."""
        is_long = length is None or length >= _COMPILED_FROM
        compiled = self._compiled(body, place.space) if is_long and not body.effects else None
        entered = 0

        def step(index: int, inputs: list[Value]) -> list[Value]:
            nonlocal entered
            around = place.inside(equation, index=index, length=length)
            if compiled is not None:
                results = compiled(*(value.array for value in inputs))
                known = frozenset[str]().union(*(value.trail.kinds for value in inputs if value.trail))
                found = frozenset[str]().union(*arrays.kinds(results))
                if not found:
                    constant = all(value.is_constant for value in inputs)
                    return [Value(result, None, constant) for result in results]
                if found <= known and entered >= _ENTERED:
                    atoms = body.jaxpr.invars, body.jaxpr.outvars
                    return self._results(equation, inputs, results, around, atoms)
                entered += 1
            return self.run(body, inputs, around)

        return step

    def branch(self, equation: Any, operands: list[Value], place: Place) -> list[Value] | None:
        """Evaluate the branch of a cond that is taken; shards that take different ones are not entered."""
        branches = equation.params["branches"]
        indices = np.unique(place.space.rows_of(operands[0].array))
        if indices.size != 1:
            return None
        index = int(np.clip(int(indices[0]), 0, len(branches) - 1))
        inside = place.inside(equation, index=index, length=len(branches))
        results = self.run(branches[index], operands[1:], inside)
        if operands[0].is_constant:
            return results
        pairs = zip(equation.outvars, results, strict=True)
        return [self._chosen(equation, operands[0], result, place, variable) for variable, result in pairs]

    def _chosen(self, equation: Any, predicate: Value, result: Value, place: Place, variable: Any) -> Value:
        """Return the result of a branch; a constant that is not finite is there by the choice."""
        if result.trail is None or not result.is_constant:
            return result._replace(is_constant=False)
        atoms = [equation.invars[0], variable], [variable]
        return self._results(equation, [predicate, result], [result.array], place, atoms)[0]

    def shards(self, equation: Any, operands: list[Value], place: Place) -> list[Value] | None:
        """Evaluate a shard_map; one inside of another is not entered."""
        if place.space is not WHOLE:
            return None
        space = Sharded(equation)
        inside = dataclasses.replace(place.inside(equation), space=space)
        with equation.ctx.manager:
            arguments = space.entered([operand.array for operand in operands])
            pairs = zip(operands, arguments, strict=True)
            values = [operand._replace(array=array) for operand, array in pairs]
            results = self.run(equation.params["jaxpr"], values, inside)
            left = space.left([result.array for result in results])
        return [result._replace(array=array) for result, array in zip(results, left, strict=True)]


_RULES: dict[Any, Callable[[Evaluation, Any, list[Value], Place], list[Value] | None]] = {
    internals.JIT: Evaluation.call,
    internals.CHECKPOINT: Evaluation.call,
    internals.CUSTOM_JVP: Evaluation.call,
    internals.CUSTOM_VJP: Evaluation.call,
    internals.SCAN: Evaluation.scan,
    internals.WHILE: Evaluation.loop,
    internals.COND: Evaluation.branch,
    internals.SHARD_MAP: Evaluation.shards,
}
_call = Evaluation.call


def _report_place(equation: Any, place: Place) -> NonfiniteReport:
    names = (*place.names, str(equation.source_info.name_stack))
    return NonfiniteReport(
        origin=EQUATION,
        name=equation.primitive.name,
        source=line_of(equation) or place.line,
        module=module_of(names),
        phase=phase_of(names),
        within=place.within,
    )


def _read(atom: Any, variables: dict[Any, Value], place: Place) -> Value:
    return captured(atom.val, place) if isinstance(atom, Literal) else variables[atom]


@functools.lru_cache(maxsize=256)
def _last_uses(jaxpr: Any) -> dict[int, list[Any]]:
    """Return the variables of a jaxpr by the equation after which they are no longer needed."""
    last: dict[Any, int] = {}
    for number, equation in enumerate(jaxpr.eqns):
        last |= dict.fromkeys(equation.outvars, number)
        last |= {atom: number for atom in equation.invars if not isinstance(atom, Literal)}
    for atom in jaxpr.outvars:
        if not isinstance(atom, Literal):
            last.pop(atom, None)
    uses: dict[int, list[Any]] = {}
    for variable, number in last.items():
        uses.setdefault(number, []).append(variable)
    return uses
