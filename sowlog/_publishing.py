"""The names of public classes: those by which users import them."""

import inspect
from types import ModuleType


def publish(module: ModuleType) -> None:
    """Set the module of public classes, and of their methods, to the one that users import them from.

    Errors, reprs and pickles then outlive a move between rooms. Methods follow their class, in whose module
    doctest looks for them. Functions keep their own module, as JAX's do.
    """
    for kind in filter(inspect.isclass, map(vars(module).get, vars(module)["__all__"])):
        private = kind.__module__
        for member in (kind, *map(inspect.unwrap, vars(kind).values())):
            if (member is kind or inspect.isfunction(member)) and member.__module__ == private:
                member.__module__ = module.__name__
