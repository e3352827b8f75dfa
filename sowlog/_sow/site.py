"""The place of a sow: the arguments of its two forms, its label, and its name in errors."""

import contextlib
from collections.abc import Generator
from typing import Any

from flax import linen as nn

from sowlog._reduce.notes import Note, Source
from sowlog._reduce.reducer import Reducer
from sowlog._sow import foreign, linen, scopes
from sowlog._sow.callers import place_of_caller
from sowlog._sow.collector import is_collecting
from sowlog._sow.labels import Label
from sowlog._sow.paths import scope_path, whole_path


def arguments_of(
    args: tuple[Any, ...], kwargs: dict[str, Any], names: tuple[str, ...], defaults: dict[str, Any]
) -> list[Any]:
    """Return module, name and the rest of the arguments of both forms; the module is None in the second."""
    without_module = bool(args) and isinstance(args[0], str)
    parameters = ("name", *names) if without_module else ("module", "name", *names)
    if len(args) > len(parameters):
        raise TypeError(f"sow takes {', '.join(parameters)}, got {len(args)} positional arguments.")
    given = dict(zip(parameters, args, strict=False))
    doubled = given.keys() & kwargs.keys() or kwargs.keys() - set(parameters)
    if doubled:
        raise TypeError(
            f"sow has no argument {', '.join(sorted(doubled))} here: it takes {', '.join(parameters)}."
        )
    given = {**defaults, **given, **kwargs}
    missing = [parameter for parameter in parameters if parameter not in given]
    if missing:
        raise TypeError(
            f"sow takes {', '.join(parameters)}, and {', '.join(missing)} is missing. In a module write "
            'sowlog.sow(self, "name", value); elsewhere sowlog.sow("name", value).'
        )
    return [given.get("module"), *(given[parameter] for parameter in ("name", *names))]


def is_collected(module: Any, collection: str) -> bool:
    """Return whether a sow in a module of linen or nnx, or in none, is collected."""
    if module is None:
        return is_collecting()
    if isinstance(module, nn.Module):
        return linen.is_collected(module, collection)
    return foreign.loaded_nnx().is_collected(module)


def label_of(module: Any, collection: str, name: str, doc: str) -> Label:
    """Return the label of a sow, with a note.

    Raises:
        TypeError: The description is no str.
        ValueError: The name has an empty part.
    """
    if not isinstance(doc, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # a user's argument
        raise TypeError(f"doc of {name} is {doc!r}, a {type(doc).__name__}: give a text.")
    *path, last = scopes.parts_of(name, "metric")
    if module is None:
        label = Label(collection, (*scope_path(), *path), last)
    elif isinstance(module, nn.Module):
        label = linen.label_of(module, collection, name)
    else:
        label = foreign.loaded_nnx().label_of(module, collection, name)
    return label._replace(note=Note(Source(doc, place_of_caller())))


@contextlib.contextmanager
def noting_place(module: Any, name: str) -> Generator[None]:
    """Add the place of a sow to its errors."""
    try:
        yield
    except (TypeError, ValueError) as error:
        error.add_note(f"while sowing {place_of(module, name)}")
        raise


def check_module(module: Any, name: Any, line: str) -> None:
    """Raise if something else than a module sows; the error has the line to write."""
    if module is None or isinstance(module, nn.Module):
        return
    nnx = foreign.loaded_nnx()
    if nnx is not None and nnx.is_module(module):
        return
    library = foreign.library_of(module)
    if library:
        raise TypeError(
            f"{name} is sown in {foreign.described(module, library)}, which sows by name: write "
            f'sowlog.sow("{name}", value), and for a path `with sowlog.scope("layer"):` around the call, or '
            '`@sowlog.scope("layer")` on the method.'
        )
    raise TypeError(
        f"only a module of Flax, linen or nnx, can sow under its path, got {type(module).__name__}. In a "
        f"module write: {line}; elsewhere leave it out: {line.replace('self, ', '')}."
    )


def check_reducer(module: Any, name: str, reducer: Any) -> None:
    """Raise if a reducer is none."""
    if not isinstance(reducer, Reducer):
        raise TypeError(
            f"{place_of(module, name)}: {reducer!r} is no sowlog reducer. Use sowlog.mean, sowlog.max ..., "
            "build one with sowlog.Reducer.build, or use Flax's own module.sow(..., init_fn=, reduce_fn=)."
        )


def place_of(module: Any, name: str) -> str:
    """Return the place of a sow in errors."""
    if module is None:
        return "/".join((*whole_path(), str(name)))
    if isinstance(module, nn.Module):
        return f"{'/'.join((*module.path, name))} (in {type(module).__name__})"
    return foreign.loaded_nnx().described(module, name)
