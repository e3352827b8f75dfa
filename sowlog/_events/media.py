"""Histograms, images, texts and tensors of a run, which stay in the files until they are used."""

import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, final, overload

import numpy as np
from numpy.typing import NDArray

from sowlog._events.framing import read_range
from sowlog._events.points import ParsedEvent

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@final
class Places(NamedTuple):
    """The places of serialized values in the files of a run.

    Attributes:
        files: the files.
        numbers: int64, shape [n]: the index of the file of each value.
        starts: int64, shape [n]: the first byte of each value.
        sizes: int64, shape [n]: its number of bytes.
        checksums: uint32, shape [n]: the CRC32 of these bytes.
    """

    files: tuple[Path, ...]
    numbers: NDArray[np.int64]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    checksums: NDArray[np.uint32]

    def take(self, rows: "slice | NDArray[np.intp]") -> "Places":
        """Return the chosen places."""
        return Places(
            self.files, self.numbers[rows], self.starts[rows], self.sizes[rows], self.checksums[rows]
        )


@final
class Values(Sequence[T_co]):
    """The values of a tag, each read from its file and decoded where it is used.

    Args:
        tag: the tag.
        decode: decodes the bytes of a value, or raises ValueError.
        places: the places of the values.
    """

    def __init__(self, tag: str, decode: Callable[[bytes], T_co], places: Places) -> None:
        self._tag = tag
        self._decode = decode
        self._places = places

    def __len__(self) -> int:
        return len(self._places.starts)

    @overload
    def __getitem__(self, index: int) -> T_co: ...
    @overload
    def __getitem__(self, index: slice) -> "Values[T_co]": ...
    def __getitem__(self, index: int | slice) -> "T_co | Values[T_co]":
        if isinstance(index, slice):
            return Values(self._tag, self._decode, self._places.take(index))
        number, start, size, checksum = (int(column[index]) for column in self._places[1:])
        return self._read(self._places.files[number], start, size, checksum)

    def _read(self, path: Path, start: int, size: int, checksum: int) -> T_co:
        try:
            data = read_range(path, start, size)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror}, and the values of {self._tag} are read from it where they are used: read "
                f"the run again",
                str(path),
            ) from error
        if len(data) != size or zlib.crc32(data) != checksum:
            raise ValueError(f"{path} has changed since {self._tag} was found in it: read the run again.")
        try:
            return self._decode(data)
        except ValueError as error:
            raise ValueError(
                f"a value of {self._tag}, at byte {start} of {path}, cannot be decoded: {error}."
            ) from error

    def __repr__(self) -> str:
        return f"<{len(self)} values of {self._tag}>"


@final
class Media(Generic[T]):
    """The points of a tag that are no scalars, in the order of writing.

    Attributes:
        steps: int64, shape [n].
        wall_times: float64, shape [n], seconds since the epoch.
        values: a sequence of n values, each decoded where it is used.
    """

    steps: NDArray[np.int64]
    wall_times: NDArray[np.float64]
    values: Sequence[T]

    def __init__(
        self, steps: NDArray[np.int64], wall_times: NDArray[np.float64], values: Sequence[T]
    ) -> None:
        self.steps = steps
        self.wall_times = wall_times
        self.values = values

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[tuple[int, T]]:
        """Yield each step with its value."""
        return zip(self.steps.tolist(), self.values, strict=True)

    def __repr__(self) -> str:
        return f"<{self.values!r} at {len(self)} steps>"


@final
class MediaPoints:
    """The points of a tag as they are found."""

    def __init__(self) -> None:
        self._positions, self._steps = array("q"), array("q")
        self._wall_times, self._checksums = array("d"), array("I")
        self._numbers, self._starts, self._sizes = array("q"), array("q"), array("q")

    def add(self, event: ParsedEvent, position: int, *, number: int, start: int, data: bytes) -> None:
        """Add a point.

        Args:
            event: the event that has it.
            position: the position of the event.
            number: the index of the file.
            start: the first byte of the serialized value in the file.
            data: the serialized value.
        """
        self._positions.append(position)
        self._steps.append(event.step)
        self._wall_times.append(event.wall_time)
        self._numbers.append(number)
        self._starts.append(start)
        self._sizes.append(len(data))
        self._checksums.append(zlib.crc32(data))

    def positions(self) -> NDArray[np.int64]:
        """Return the positions of the events."""
        return np.array(self._positions, np.int64)

    def steps(self) -> NDArray[np.int64]:
        """Return the steps."""
        return np.array(self._steps, np.int64)

    def media(
        self,
        tag: str,
        decode: Callable[[bytes], Any],
        files: tuple[Path, ...],
        rows: NDArray[np.intp],
    ) -> Media[Any]:
        """Return chosen points in the order of `rows`.

        Args:
            tag: the tag.
            decode: decodes the bytes of a value.
            files: the files of the run.
            rows: the indices of the points.
        """
        columns = (self._numbers, self._starts, self._sizes)
        numbers, starts, sizes = (np.array(column, np.int64) for column in columns)
        places = Places(files, numbers, starts, sizes, np.array(self._checksums, np.uint32)).take(rows)
        return Media(self.steps()[rows], np.array(self._wall_times)[rows], Values(tag, decode, places))
