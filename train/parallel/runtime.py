"""The setup of JAX and orbax: a compilation cache, and each error once."""

import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import jax


def set_up() -> None:
    """Set up the compilation cache, and keep doubled tracebacks off the terminal."""
    # Orbax logs the errors that it raises there.
    logging.getLogger("absl").addFilter(_has_no_traceback)
    settings: Any = jax.config  # Does not declare its settings.
    if settings.jax_compilation_cache_dir is None and (folder := _cache_folder()) is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _has_no_traceback(record: logging.LogRecord) -> bool:
    """Return whether a record is more than the traceback of an error that orbax also raises."""
    return record.exc_info is None


def _cache_folder() -> Path | None:
    """Return a folder of the user's to keep compiled programs in; None if there is none to write in."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = (Path(base) if base else Path.home() / ".cache") / "sowlog" / "jax"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):  # RuntimeError: the user has no home.
        return None
