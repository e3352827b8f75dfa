"""Functions and classes of a user's own module, named in a configuration as module:name."""

import difflib
import functools
import importlib
import json
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast, get_args

from pydantic import AfterValidator, BaseModel, Field, ValidatorFunctionWrapHandler

from train.config.base import Better, Options, disagree

_METHODS = ("init", "forward", "advance")
_ATTRIBUTES = ("losses", "results", *_METHODS)


def check_reference(name: str, form: str) -> str:
    """Return a name of the form module:function or module:Class, or raise an error of pydantic's."""
    module, _, inner = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), inner)):
        raise disagree("", f'must be of the form {form}, got "{name}"')
    return name


def find(reference: str, kind: str) -> Any:
    """Return the object that "module:name" names, imported from the working folder or Python's path.

    Args:
        reference: the name.
        kind: "function" or "class", for the error.

    Raises:
        LookupError: There is no such module, or it has no such name.
    """
    module_name, _, name = reference.partition(":")
    # As `python -m` has it; the command of an installed package has not.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise LookupError(
            f"there is no module {error.name}; it is looked for in the working folder {Path.cwd()} and on "
            "PYTHONPATH"
        ) from None
    found = getattr(module, name, None)
    if not (isinstance(found, type) if kind == "class" else callable(found)):
        near = difflib.get_close_matches(name, vars(module), 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise LookupError(f"the module {module_name} has no {kind} {name}{meant}")
    return found


class OwnTask(Options):
    """Your own task: a class with the form of `train.tasks.Task`, imported and built with its options.

    These are the fields of its nested class `Options`, a pydantic model.
    """

    form: ClassVar[str] = "module:Class"
    builds: ClassVar[Any] = None
    needs: ClassVar[tuple[str, ...]] = ()
    better: ClassVar[Better] = "lower"
    name: Annotated[str, AfterValidator(functools.partial(check_reference, form="module:Class"))] = Field(
        description="module:Class, found as `import module` finds it from the working folder."
    )


def read_own_task(value: object, read: ValidatorFunctionWrapHandler) -> OwnTask:
    """Return the options of a user's task, checked by the fields of its own class."""
    if not isinstance(value, Mapping):
        return read(value)
    section = cast(Mapping[str, object], value)
    # The form of the name, before anything is imported by it.
    name = OwnTask.model_validate({"name": section["name"]}).name
    model = options_of(name)
    try:
        # As JSON, where pydantic's strict mode takes a list for a tuple, and text for a path or an enum.
        text = json.dumps(section)
    except TypeError:  # A date, which is to be in quotes.
        return model.model_validate(section)
    return model.model_validate_json(text)


def options_of(name: str) -> type[OwnTask]:
    """Return the class of the options of a user's task.

    Args:
        name: module:Class.

    Raises:
        PydanticCustomError: There is no such class, or it has not the form of a task.
    """
    try:
        task = find(name, "class")
    except LookupError as error:
        raise disagree("name", str(error)) from None
    except ValueError as error:  # Of the user's module: pydantic would take it for an error in the settings.
        raise ImportError(f"{name} cannot be imported: {error}.") from error
    if problem := _problem(task):
        raise disagree("name", f"{name} {problem}")
    return _derive(task)


def _problem(task: type) -> str:
    """Return the fault of a task's class, in words that follow its name; empty if there is none."""
    missing = [attribute for attribute in _ATTRIBUTES if not hasattr(task, attribute)]
    options = getattr(task, "Options", None)
    if missing:
        return f"has no {', '.join(missing)}. Write: class {task.__name__}(train.tasks.Task)"
    if getattr(task, "better", "lower") not in get_args(Better):
        return f'has better = {getattr(task, "better", None)!r}. Write: better = "lower" or "higher"'
    if options is not None and not (isinstance(options, type) and issubclass(options, BaseModel)):
        return "has Options that are no pydantic model. Write: class Options(pydantic.BaseModel)"
    if options is not None and "name" in options.model_fields:
        return "has an option `name`, which is the task's own: choose another"
    return ""


@functools.cache
def _derive(task: Any) -> type[OwnTask]:
    options: Any = getattr(task, "Options", None)

    def fill(namespace: dict[str, Any]) -> None:
        namespace["__module__"] = task.__module__
        namespace["__doc__"] = getattr(options, "__doc__", None) or task.__doc__
        namespace["builds"] = task
        namespace["needs"] = tuple(getattr(task, "needs", ()))
        namespace["better"] = getattr(task, "better", "lower")

    bases = (OwnTask,) if options is None else (options, OwnTask)
    # A model with a configuration of its own may be laxer, but for unknown keys.
    own: dict[str, Any] = {**OwnTask.model_config, **getattr(options, "model_config", {})}
    settings = own | {"extra": "forbid", "frozen": True}
    return types.new_class(f"{task.__name__}Options", bases, settings, fill)
