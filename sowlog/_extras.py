"""Packages of extras: imported where they are first used, or an error with the line that installs them."""

import importlib
import importlib.util
from typing import Any


def import_extra(module: str, need: str, *, extra: str, package: str = "", otherwise: str = "") -> Any:
    """Import a module of an optional package, which may take a second.

    Args:
        module: its whole name, as "matplotlib.figure".
        need: the first clause of the message, with the package at its end, as "log.figure draws with
            Matplotlib".
        extra: the extra of sowlog that installs it.
        package: its name for pip; by default the first part of the module's.
        otherwise: a clause on the way without it.

    Raises:
        ModuleNotFoundError: The package, or one that it imports, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise _missing(module, need, extra, package, otherwise, error.name) from error


def require_extra(module: str, need: str, *, extra: str) -> None:
    """Raise if an optional package is not installed, without its import; the arguments are as above.

    Raises:
        ModuleNotFoundError: The package is not installed.
    """
    if importlib.util.find_spec(module) is None:
        raise _missing(module, need, extra, "", "", module)


def _missing(
    module: str, need: str, extra: str, package: str, otherwise: str, absent: str | None
) -> ModuleNotFoundError:
    package = package or module.partition(".")[0]
    end = f"; {otherwise}." if otherwise else "."
    install = f"pip install 'sowlog[{extra}]' (or pip install {package})"
    return ModuleNotFoundError(f"{need}, which is not installed: {install}{end}", name=absent)
