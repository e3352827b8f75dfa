"""States and packed buffers under flax.serialization (msgpack) and jax.export.

A state's reducer and a packed buffer's tags are static, so their arrays do not contain them. They are written
beside the arrays, so that no number is restored under the tag of another.
"""

import dataclasses
import importlib
import json
from collections.abc import Callable, Iterable
from typing import Any

import flax.serialization
import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from sowlog._reduce import basic, compensated, distributions, moments
from sowlog._reduce.bins import Counts
from sowlog._reduce.distributions import HistogramValue
from sowlog._reduce.notes import NO_NOTE, Note
from sowlog._reduce.reducer import Reducer, static
from sowlog._reduce.squares import Squares
from sowlog._reduce.state import State, strong
from sowlog._reduce.values import Weighted
from sowlog._tree import losses
from sowlog._tree.layout import HistogramSlot, Layout, Packed, intern
from sowlog._tree.tags import _key_name

_MODULES = (basic, moments, distributions, losses)
# Exported reducers are named by class alone, so that a file outlives a move between the rooms.
_BUILT_IN = {
    type(value).__name__: type(value)
    for module in _MODULES
    for value in vars(module).values()
    if isinstance(value, Reducer)
}


def register() -> None:
    """Register the types of results with flax.serialization and jax.export."""
    flax.serialization.register_serialization_state(State, _state_to_dict, _state_of_dict)
    flax.serialization.register_serialization_state(Packed, _packed_to_dict, _packed_of_dict)
    _register_export(State, _statics_to_json, _statics_of_json)
    _register_export(
        Packed, lambda layouts: [_layout_to_json(*layouts)], lambda texts: [_layout_of_json(*texts)]
    )
    _register_export(HistogramValue)
    _register_export(Weighted)
    for kind in (compensated.Pair, Squares, Counts):
        jax.export.register_namedtuple_serialization(
            kind, serialized_name=f"sowlog.{kind.__name__.strip('_')}"
        )


def _register_export(
    kind: Any, to_json: Callable[..., Iterable[Any]] = tuple, of_json: Callable[..., Iterable[Any]] = tuple
) -> None:
    """Register a dataclass; its static fields are written as JSON."""

    def serialize(statics: Any) -> bytes:
        return json.dumps(list(to_json(statics))).encode()

    def deserialize(text: bytes) -> tuple[Any, ...]:
        return tuple(of_json(json.loads(bytes(text))))

    jax.export.register_pytree_node_serialization(
        kind,
        serialized_name=f"sowlog.{kind.__name__}",
        serialize_auxdata=serialize,
        deserialize_auxdata=deserialize,
    )


def _statics_to_json(statics: tuple[Reducer, Note]) -> list[Any]:
    # A note is about the source of the program, and a file without it is read by older versions, too.
    return [_reducer_to_json(statics[0])]


def _statics_of_json(texts: list[Any]) -> tuple[Reducer, Note]:
    return _reducer_of_json(texts[0]), NO_NOTE


def _state_to_dict(state: State) -> dict[str, Any]:
    """Return a state as nested dicts of arrays; the reducer is in a key, since all leaves must be arrays."""
    return {"seen": state.seen, _parts_key(state): dict(_named_parts(state))}


def _state_of_dict(target: State, values: dict[str, Any]) -> State:
    """Return the state that was written.

    Raises:
        ValueError: The target has another reducer.
    """
    names = [name for name, _ in _named_parts(target)]
    parts = values.get(_parts_key(target))
    if parts is None or set(parts) != set(names) or "seen" not in values:
        raise ValueError(
            f"cannot restore a state of {target.reducer} from {', '.join(sorted(values)) or 'nothing'}: "
            "another reducer wrote it, or another version of it. Restore into a tree with the reducers of "
            "the writing program, such as sowlog.empty_like of its step's."
        )
    arrays = [strong(jnp.asarray(parts[name])) for name in names]
    structure = jax.tree.structure(target.parts)
    return dataclasses.replace(target, parts=structure.unflatten(arrays), seen=jnp.asarray(values["seen"]))


def _parts_key(state: State) -> str:
    return f"parts of {state.reducer}"


def _named_parts(state: State) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_flatten_with_path(state.parts)[0]
    return [(".".join(_key_name(key) for key in path) or "value", leaf) for path, leaf in leaves]


def _packed_to_dict(packed: Packed) -> dict[str, Any]:
    text = json.dumps(_layout_to_json(packed.layout)).encode()
    return {"buffer": packed.buffer, "layout": np.frombuffer(text, np.uint8)}


def _packed_of_dict(target: Packed, values: dict[str, Any]) -> Packed:
    """Return the packed buffer that was written, with its own tags, not the target's."""
    del target
    text = np.asarray(values["layout"], np.uint8).tobytes()
    return Packed(jnp.asarray(values["buffer"]), _layout_of_json(json.loads(text)))


def _layout_to_json(layout: Layout) -> Any:
    return {
        "scalars": list(layout.scalars),
        "histograms": [[slot.tag, slot.sub_bins] for slot in layout.histograms],
    }


def _layout_of_json(text: Any) -> Layout:
    histograms = tuple(HistogramSlot(tag, sub_bins) for tag, sub_bins in text["histograms"])
    return intern(tuple(text["scalars"]), histograms)


def _reducer_to_json(reducer: Reducer) -> Any:
    """Return a reducer as its class and settings.

    Raises:
        ValueError: The class cannot be imported, or a setting cannot be written as JSON.
    """
    kind = type(reducer)
    name = kind.__name__ if _BUILT_IN.get(kind.__name__) is kind else f"{kind.__module__}:{kind.__qualname__}"
    settings = {field.name: getattr(reducer, field.name) for field in dataclasses.fields(reducer)}
    try:
        json.dumps(settings)
        found = _class_named(name)
    except (TypeError, AttributeError, ImportError) as error:
        raise ValueError(
            f"a state of {reducer} cannot be exported, as its reducer cannot be serialized ({error}). Write "
            "it as a subclass of sowlog.Reducer at the top level of a module, with numbers and strings as "
            "its settings, or return sowlog.pack(tree) from the function that is exported."
        ) from error
    assert found is kind
    return {"class": name, "settings": settings}


def _reducer_of_json(text: Any) -> Reducer:
    kind = _class_named(text["class"])
    return kind(**{name: static(value) for name, value in text["settings"].items()})


def _class_named(name: str) -> Any:
    if ":" not in name:
        return _BUILT_IN[name]
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found
