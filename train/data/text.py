"""Text as bytes: a file, a folder of them, or the Python standard library's source."""

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from train.config import paths
from train.config.data import TextData
from train.data import examples
from train.data.examples import DataError, HostBatch


class Text:
    """Bytes of text: `tokens` uint8 [B, length + 1], the last byte of a sequence only predicted."""

    def __init__(self, options: TextData):
        self._options = options
        text = np.frombuffer(_read_text(options), np.uint8)
        split = len(text) - len(text) // 10
        self._train, self._held_out = text[:split], text[split:]
        needed = options.length + 1
        if len(self._held_out) < needed:
            raise DataError(
                f"{_source(options)} has {len(text)} bytes, of which the last tenth is held out: sequences "
                f"of {options.length} bytes need at least {10 * needed}; lower data.length or give more text."
            )

    def batch(self, seed: int, step: int) -> HostBatch:
        """Draw windows of the first nine tenths, each at any place."""
        last = len(self._train) - self._options.length
        starts = examples.generator(seed, step).integers(0, last, self._options.batch_size)
        return {"tokens": self._windows(self._train, starts)}

    def digest(self) -> str:
        """Return the digest of the text."""
        return hashlib.sha256(self._train.tobytes() + self._held_out.tobytes()).hexdigest()

    def held_out(self) -> HostBatch:
        """Return `eval_batches` batches of windows that lie evenly over the last tenth, none of them twice.

        Of a text that has fewer windows, as many as it has.
        """
        return self._cut_held_out()[0]

    def remainder(self) -> HostBatch:
        """Return the windows of such a text that fill no batch."""
        return self._cut_held_out()[1]

    def _cut_held_out(self) -> tuple[HostBatch, HostBatch]:
        places = len(self._held_out) - self._options.length
        count = min(self._options.eval_batches * self._options.batch_size, places)
        starts = np.linspace(0, places - 1, count).astype(np.int64)
        windows: HostBatch = {"tokens": self._windows(self._held_out, starts)}
        return examples.cut_held_out(windows, self._options.batch_size)

    def _windows(self, text: NDArray[np.uint8], starts: NDArray[np.int64]) -> NDArray[np.uint8]:
        return text[starts[:, None] + np.arange(self._options.length + 1)]


def _source(options: TextData) -> str:
    return "the Python standard library" if options.path is None else f"data.path={options.path}"


def _read_text(options: TextData) -> bytes:
    """Read the files' bytes, one after the other, up to the limit."""
    text = bytearray()
    try:
        for file in _text_files(options):
            with file.open("rb") as opened:
                content = opened.read(options.max_bytes - len(text))
            # A zero byte is the mark of a file that is no text.
            text += b"" if b"\0" in content else content
            if len(text) >= options.max_bytes:
                break
    except OSError as error:
        raise DataError(f"{_source(options)} cannot be read: {error}.") from error
    return bytes(text)


def _text_files(options: TextData) -> Iterator[Path]:
    """List the files to read, in an order that depends on their names alone."""
    if options.path is None:
        return _in_order(Path(sysconfig.get_path("stdlib")), ".py", without=_NOT_LIBRARY)
    path = paths.local(options.path, "data.path")
    if not path.exists():
        raise DataError(f"{_source(options)}: no such file or folder (the working folder is {Path.cwd()}).")
    return _in_order(path) if path.is_dir() else iter([path])


def _in_order(folder: Path, suffix: str = "", *, without: frozenset[str] = frozenset()) -> Iterator[Path]:
    """List a folder's files, none hidden, by the hash of their names, so that any part is a fair sample."""
    names: list[Path] = []
    # Excluded folders are not entered: a walk over all installed packages would cost a second.
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in without and not _is_hidden(name)]
        within = Path(parent).relative_to(folder)
        names += [within / name for name in files if name.endswith(suffix) and not _is_hidden(name)]
    return (
        folder / name
        for name in sorted(names, key=lambda name: hashlib.sha1(bytes(name)).digest())
        if (folder / name).is_file()
    )


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


_NOT_LIBRARY = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data"}
)
"""Folders of the standard library without source of its own: installed packages, tests (which not every
machine has), and tables that a program wrote.
"""
