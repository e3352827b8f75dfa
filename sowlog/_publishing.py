"""The names of public classes: those by which users import them."""

import inspect
from collections.abc import Iterable
from types import ModuleType


def publish(module: ModuleType, names: Iterable[str]) -> None:
    """Set the module of public classes, and of their methods, to the one that users import them from.

    Errors, reprs and pickles then outlive a move between rooms. Methods follow their class, in whose module
    doctest looks for them. Functions keep their own module, as JAX's do.

    Args:
        module: the module that users import from.
        names: its public names.
    """
    for kind in filter(inspect.isclass, map(vars(module).get, names)):
        private = kind.__module__
        for member in (kind, *map(inspect.unwrap, vars(kind).values())):
            if (member is kind or inspect.isfunction(member)) and member.__module__ == private:
                member.__module__ = module.__name__
