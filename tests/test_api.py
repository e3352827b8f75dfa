"""The public names: a contract."""

import doctest
import inspect
import math
import pickle
import typing
from pathlib import Path

import pytest

import sowlog
import sowlog.adapters
import sowlog.alerts
import sowlog.nnx
import sowlog.testing
import sowlog.writers
from sowlog._log.nonfinite import Neighbor, NonfiniteOrigin

MODULES = (sowlog, sowlog.adapters, sowlog.alerts, sowlog.testing, sowlog.writers)
OBJECTS = {
    f"{module.__name__}.{name}": (module, getattr(module, name))
    for module in MODULES
    for name in module.__all__
}
CLASSES = {name: (module, kind) for name, (module, kind) in OBJECTS.items() if inspect.isclass(kind)}
CALLABLES = {name: value for name, (_, value) in OBJECTS.items() if inspect.isroutine(value)}
DOCUMENTED = {
    **{name: value for name, (_, value) in OBJECTS.items() if not inspect.ismodule(value)},
    "sowlog.nnx.Metric": sowlog.nnx.Metric,
    **{
        f"{name}.{method}": getattr(getattr(sowlog, name.removeprefix("sowlog.")), method)
        for name in ("sowlog.Logger", "sowlog.Run", "sowlog.Runs")
        for method, value in inspect.getmembers(getattr(sowlog, name.removeprefix("sowlog.")))
        if inspect.isfunction(value) and not method.startswith("_") and value.__module__.startswith("sowlog")
    },
}


def test_all_lists_the_public_names():
    """__all__ lists all names without an underscore, but for `nnx`, which takes a second to import."""
    reachable = {name for name in vars(sowlog) if not name.startswith("_")} - {"nnx"}
    assert reachable == set(sowlog.__all__)
    assert list(sowlog.__all__) == sorted(sowlog.__all__)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_public_name_has_an_example(name):
    """Each public name shows its use, where help(name) finds it: a reducer's example is its class's."""
    value = DOCUMENTED[name]
    documented = value if inspect.isclass(value) or inspect.isroutine(value) else type(value)
    finder = doctest.DocTestFinder(recurse=False)
    assert any(test.examples for test in finder.find(documented, name)), f"{name} has no example"


def test_star_import_is_clean():
    """`from sowlog import *` brings exactly the public names."""
    namespace: dict[str, object] = {}
    exec("from sowlog import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(sowlog.__all__)


def methods_of(kind):
    """Return the methods written in a class, without those made by dataclass or Protocol."""
    folder = str(Path(sowlog.__file__).parent)
    functions = filter(inspect.isfunction, map(inspect.unwrap, vars(kind).values()))
    return [function for function in functions if function.__code__.co_filename.startswith(folder)]


@pytest.mark.parametrize("name", CLASSES)
def test_public_classes_show_where_users_import_them_from(name):
    """An error is a sowlog.LostMetricError, and classes and methods are pickled by their public names."""
    _, kind = CLASSES[name]
    assert f"{kind.__module__}.{kind.__qualname__}" == name
    assert pickle.loads(pickle.dumps(kind)) is kind
    for method in methods_of(kind):
        assert f"{method.__module__}.{method.__qualname__}" == f"{name}.{method.__name__}"
        assert f"def {method.__name__}(" in inspect.getsource(method)


# The arguments of errors that have more than a message.
ORIGIN = NonfiniteOrigin(
    3, "loss", math.inf, None, "", (), "", (Neighbor("loss", 1.0, 2.0, math.inf),), (), ()
)
ARGUMENTS = {
    "sowlog.AlertError": (
        "no",
        sowlog.alerts.Alert(sowlog.alerts.Range("loss", high=1), "loss", 3, 2.0, "above"),
    ),
    "sowlog.CorruptEventFile": (Path("events"), 40, 2, "is cut"),
    "sowlog.NonfiniteError": (ORIGIN,),
}
RAISED = [name for name, (_, kind) in CLASSES.items() if issubclass(kind, Exception)]


@pytest.mark.parametrize("name", RAISED)
def test_public_errors_are_pickled_with_all_they_say(name):
    """As a process pool hands them back, and a run with its damage."""
    error = CLASSES[name][1](*ARGUMENTS.get(name, ("a message",)))
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_functions_that_public_classes_borrow_stay_with_their_module():
    """The __init__ that typing adds to each Protocol is not renamed."""
    assert vars(sowlog.writers.Writer)["__init__"].__module__ == "typing"


@pytest.mark.parametrize("name", CALLABLES)
def test_public_functions_are_pickled_and_show_their_source(name):
    """Functions keep the module that they are written in."""
    function = CALLABLES[name]
    assert pickle.loads(pickle.dumps(function)) is function
    assert f"def {function.__name__}(" in inspect.getsource(function)


@pytest.mark.parametrize("name", CLASSES)
def test_the_examples_of_public_classes_are_collected_as_doctests(name):
    """As pytest collects them, from the module that a class shows: those of its methods as well."""
    module, kind = CLASSES[name]
    collected = {test.name for test in doctest.DocTestFinder(exclude_empty=True).find(module)}
    for member in (kind, *methods_of(kind)):
        if ">>>" in (member.__doc__ or ""):
            assert f"{module.__name__}.{member.__qualname__}" in collected


@pytest.mark.parametrize("name", CLASSES)
def test_the_types_of_public_classes_can_be_read(name):
    """As programs do that fill dataclasses; names are looked up in the module that a class shows."""
    _, kind = CLASSES[name]
    assert set(typing.get_type_hints(kind)) >= set(vars(kind).get("__annotations__", {}))
