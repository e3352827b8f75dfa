"""sowlog: the metrics layer of JAX training.

A function sows a value where it is computed, a reducer accumulates it on the device, and the logger writes it
to TensorBoard at every step:

    sowlog.sow(self, "entropy", entropy)                        # in a Flax module; elsewhere without self
    y, updates = sowlog.collect(model.apply)(variables, x)      # around apply or any function, inside jit
    metrics = sowlog.pack(updates["metrics"])                   # one buffer
    log(step, metrics)                                          # returns at once
"""

import importlib as _importlib
import sys as _sys
from typing import TYPE_CHECKING as _TYPE_CHECKING

from sowlog._publishing import publish as _publish

if _TYPE_CHECKING:
    from sowlog import nnx as nnx
    from sowlog._public import *
    from sowlog._public import __all__ as __all__

_MODULES = ("adapters", "alerts", "nnx", "testing", "writers")
# The names that need no JAX, and their files.
_READING = {
    "CorruptEventFile": "framing",
    "Run": "reading",
    "Runs": "runs",
    "read": "reading",
    "read_all": "runs",
}


# The hooks of `%load_ext sowlog` and `%unload_ext sowlog`, which are no names for programs.
_IPYTHON = ("load_ipython_extension", "unload_ipython_extension")


def _load() -> None:
    """Import all public names but `nnx`, which takes a second to import."""
    public = _importlib.import_module("sowlog._public")
    names = public.__all__
    globals().update({name: getattr(public, name) for name in names}, __all__=names)
    _publish(_sys.modules[__name__], names)


if not _TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import a public name where it is first used: a program that only reads runs needs no JAX."""
        if name in _MODULES:
            return _importlib.import_module(f"sowlog.{name}")
        if name in _READING:
            for each, file in _READING.items():
                globals()[each] = getattr(_importlib.import_module(f"sowlog._events.{file}"), each)
            _publish(_sys.modules[__name__], _READING)
        elif name in _IPYTHON:
            return getattr(_importlib.import_module("sowlog._tree.notebook"), name)
        elif name == "__version__":
            return _importlib.import_module("importlib.metadata").version("sowlog")
        elif "__all__" not in globals() and (name == "__all__" or not name.startswith("_")):
            _load()
        if name in globals():
            return globals()[name]
        raise AttributeError(f"module 'sowlog' has no attribute {name!r}")


def __dir__() -> list[str]:
    if "__all__" not in globals():
        _load()
    return sorted({*globals(), "nnx"})


# A name that is first used inside of a traced function would be imported there. So all are imported at once,
# unless the program has no JAX yet.
if "jax" in _sys.modules:
    _load()
