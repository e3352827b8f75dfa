"""The statistics of one observer: norms, ratios and reducers of updates, by module and over all."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np

from sowlog._reduce import ambient
from sowlog._reduce.basic import mean
from sowlog._reduce.reducer import Reducer
from sowlog._reduce.state import State
from sowlog._sow.collector import merge_axis
from sowlog._sow.parameters import Module, modules_of, norm_of
from sowlog._tree.globs import matches
from sowlog._tree.packing import concatenate
from sowlog._tree.tags import empty_like

NORM = "norm"
RATIO = "ratio"

Layout = tuple[tuple[str, int | None], ...]
"""The modules in their order: the path, and the number of stacked layers or None."""


class Recorded(NamedTuple):
    """The states of one update by statistic.

    A model has hundreds of modules, and each array that a jitted step returns has a cost. So the states of
    all modules are one array of states.

    Attributes:
        over_all: a state of each statistic.
        by_module: an array of states of each statistic, shape [rows]: a row is a module, or a layer of one.
    """

    over_all: dict[str, State]
    by_module: dict[str, State]


@final
@dataclasses.dataclass(frozen=True)
class Statistics:
    """The statistics that one observer records, with the settings of `observe`."""

    name: str
    reducers: dict[str, Reducer]
    depth: int | None
    stacked: tuple[str, ...]
    ratio: bool

    def layout_of(self, params: Any) -> Layout:
        """Return the layout of the updates of parameters.

        Raises:
            ValueError: A glob matches no array, or arrays whose layers differ.
        """
        modules = self._modules(params)
        paths = [path for module in modules.values() for path in module.arrays]
        for glob in self.stacked:
            if paths and not any(matches(glob, path) for path in paths):
                raise ValueError(
                    f"observe({self.name!r}): stacked={glob!r} matches none of the arrays "
                    f"{', '.join(paths[:8])}{' ...' if len(paths) > 8 else ''}."
                )
        return tuple((path, module.layers) for path, module in modules.items()) or (("", None),)

    def empty(self, layout: Layout) -> Recorded:
        """Return the empty states of a layout."""
        return empty_like(jax.eval_shape(lambda: self._recorded(layout, {}, {})))

    def of(self, layout: Layout, updates: Any, params: Any) -> Recorded:
        """Return the states of a tree of updates; those of a module without an update are empty.

        Raises:
            ValueError: The updates have other modules, or the ratio has no parameters.
        """
        modules = self._modules(updates)
        for path, module in modules.items():
            if (path, module.layers) not in layout:
                raise ValueError(
                    f"observe({self.name!r}): the updates have {', '.join(module.arrays)}, and the "
                    "parameters that init was given have not, or of other layers: give both trees of one "
                    "structure."
                )
        parameters = self._parameters(modules, params) if self.ratio and modules else {}
        return ambient.isolated(lambda *trees: self._recorded(layout, *trees), modules, parameters)

    def _modules(self, tree: Any) -> dict[str, Module]:
        try:
            return modules_of(tree, self.depth, self.stacked)
        except ValueError as error:
            error.add_note(f"in observe({self.name!r})")
            raise

    def _parameters(self, modules: dict[str, Module], params: Any) -> dict[str, Module]:
        """Return the parameters that have an update."""
        if params is None:
            raise ValueError(
                f"observe({self.name!r}, ratio=True) compares the updates with the parameters, and update "
                "was called without them: write optimizer.update(grads, state, params)."
            )
        by_path = {path: x for module in self._modules(params).values() for path, x in module.arrays.items()}
        missing = [path for module in modules.values() for path in module.arrays if path not in by_path]
        if missing:
            raise ValueError(
                f"observe({self.name!r}, ratio=True): {missing[0]} is an update of no parameter: give update "
                "trees of one structure."
            )
        return {
            name: dataclasses.replace(module, arrays={path: by_path[path] for path in module.arrays})
            for name, module in modules.items()
        }

    def _recorded(
        self, layout: Layout, modules: dict[str, Module], parameters: dict[str, Module]
    ) -> Recorded:
        columns, has_update = _columns(layout, modules)
        norms = _norms(layout, modules, columns)
        by_module = {NORM: jax.vmap(mean.of)(norms, has_update)}
        over_all = {NORM: mean.of(norm_of(norms), has_update.any())}
        if self.ratio:
            divisors = _norms(layout, parameters, columns)
            by_module[RATIO] = jax.vmap(mean.of)(norms / divisors, has_update & (divisors != 0))
            total = norm_of(divisors)
            over_all[RATIO] = mean.of(norm_of(norms) / total, has_update.any() & (total != 0))
        for name, reducer in self.reducers.items():
            nothing = reducer.of(jnp.zeros((0,)))
            states = _measured(reducer.of, nothing, layout, modules)
            by_module[name] = merge_axis(State.merge, jax.tree.map(lambda x: x[columns], states))
            over_all[name] = merge_axis(State.merge, by_module[name])
        return Recorded(over_all, by_module)


def _columns(layout: Layout, modules: dict[str, Module]) -> tuple[Any, Any]:
    """Return the positions of the arrays of each row among all that are measured, and whether it has any.

    The last position, behind all measurements, is that of the empty one, for rows with fewer arrays.

    Returns:
        Positions of shape [arrays, rows], and bools of shape [rows].
    """
    rows: list[list[int]] = []
    end = 0
    for path, layers in layout:
        size = 1 if layers is None else layers
        count = len(modules[path].arrays) if path in modules else 0
        rows += [[end + size * array + layer for array in range(count)] for layer in range(size)]
        end += size * count
    width = max(1, *map(len, rows))
    filled = [row + [end] * (width - len(row)) for row in rows]
    return np.array(filled, np.int32).T, np.array([bool(row) for row in rows])


def _norms(layout: Layout, modules: dict[str, Module], columns: Any) -> jax.Array:
    """Return the norm of each row."""
    norms = _measured(norm_of, jnp.zeros(()), layout, modules)
    return jax.vmap(norm_of, in_axes=1)(norms[columns])


def _measured(
    measure: Callable[[jax.Array], Any], nothing: Any, layout: Layout, modules: dict[str, Module]
) -> Any:
    """Return the measurements of all arrays, of each layer by itself, along one axis, and nothing behind."""
    measured: list[Any] = []
    for path, layers in layout:
        arrays = modules[path].arrays.values() if path in modules else ()
        measured += [_row(measure(x)) if layers is None else jax.vmap(measure)(x) for x in arrays]
    return jax.tree.map(lambda *arrays: concatenate(list(arrays)), *measured, _row(nothing))


def _row(tree: Any) -> Any:
    return jax.tree.map(lambda x: x[None], tree)
