"""Values of a summary that are no scalars: histograms, images, texts and tensors."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from sowlog._events.png import decode_image
from sowlog._events.tensors import as_array


@final
@dataclass(frozen=True, eq=False)
class HistogramSummary:
    """A histogram as TensorBoard shows it.

    Attributes:
        lefts: float64 of shape [n], the lower edge of each bucket.
        rights: float64 of shape [n], the upper edge of each bucket.
        counts: float64 of shape [n], the number of elements in each bucket.
        min: the smallest element; None if it is not recorded, as by TensorFlow 2.
        max: the largest element, or None.
        sum: the sum of all elements, or None.
        sum_squares: the sum of their squares, or None.
    """

    lefts: NDArray[np.float64]
    rights: NDArray[np.float64]
    counts: NDArray[np.float64]
    min: float | None = None
    max: float | None = None
    sum: float | None = None
    sum_squares: float | None = None

    @property
    def count(self) -> float:
        """The number of all elements."""
        return float(np.sum(self.counts))

    def __repr__(self) -> str:
        span = f" in [{self.lefts[0]:g}, {self.rights[-1]:g}]" if len(self.counts) else ""
        return f"<Histogram of {self.count:g} elements{span}>"


@final
@dataclass(frozen=True, eq=False)
class ImageSummary:
    """An image, or the images of one tag that TensorFlow 2 writes at once.

    Attributes:
        encoded: the bytes of each image, as PNG, JPEG or GIF.
        width: the width in pixels, as it is recorded.
        height: the height in pixels.
    """

    encoded: tuple[bytes, ...]
    width: int
    height: int

    def pixels(self, index: int = 0) -> NDArray[np.uint8]:
        """Decode an image by Pillow; of an animation the first frame.

        Args:
            index: the index of the image.

        Returns:
            uint8 of shape [height, width, channels]; uint16 of a PNG with 16 bits.

        Raises:
            ModuleNotFoundError: Pillow is not installed.
        """
        return decode_image(self.encoded[index])

    def __repr__(self) -> str:
        count = "" if len(self.encoded) == 1 else f"{len(self.encoded)} x "
        return f"<Image of {count}{self.width} x {self.height} pixels>"


def _histogram(value: Any) -> HistogramSummary:
    if value.WhichOneof("value") == "tensor":
        rows = as_array(value.tensor).astype(np.float64)
        if rows.ndim != 2 or rows.shape[1] != 3:
            raise ValueError(f"a histogram of shape {list(rows.shape)} has no rows of left, right and count")
        return HistogramSummary(rows[:, 0], rows[:, 1], rows[:, 2])
    proto = value.histo
    counts, limits = np.array(proto.bucket), np.array(proto.bucket_limit)
    if len(counts) != len(limits):
        raise ValueError(f"a histogram has {len(counts)} counts and {len(limits)} limits")
    # The outermost limits may be those of a float64, so TensorBoard cuts the empty buckets and puts the
    # extremes there.
    filled = np.flatnonzero(counts > 0)
    inner = slice(filled[0], filled[-1] + 1) if len(filled) else slice(0)
    counts, limits = counts[inner], limits[inner]
    lefts, rights = np.append(proto.min, limits[:-1]), np.append(limits[:-1], proto.max)
    return HistogramSummary(
        lefts[: len(counts)],
        rights[: len(counts)],
        counts,
        min=proto.min,
        max=proto.max,
        sum=proto.sum,
        sum_squares=proto.sum_squares,
    )


def _image(value: Any) -> ImageSummary:
    if value.WhichOneof("value") == "image":
        return ImageSummary((value.image.encoded_image_string,), value.image.width, value.image.height)
    width, height, *encoded = _strings(value.tensor).ravel().tolist()
    return ImageSummary(tuple(encoded), int(width), int(height))


def _text(value: Any) -> str | NDArray[np.object_]:
    strings = _strings(value.tensor)
    decoded = np.empty(strings.shape, object)
    decoded.ravel()[:] = [str(string, "utf-8", "replace") for string in strings.ravel().tolist()]
    return decoded.item() if decoded.size == 1 else decoded


def _strings(tensor: Any) -> NDArray[np.object_]:
    """Return the bytes of a tensor whose plugin shows no numbers.

    Raises:
        ValueError: The tensor has numbers.
    """
    array = as_array(tensor)
    if array.dtype != object:
        raise ValueError(f"a tensor of {array.dtype} has no strings")
    return array


def _tensor(value: Any) -> NDArray[Any]:
    return as_array(value.tensor)


def _of_summary(decode: Callable[[Any], Any], data: bytes) -> Any:
    """Return the value of a serialized Summary.Value.

    Raises:
        ValueError: It cannot be decoded.
    """
    from sowlog._events.parsing import parse_value  # noqa: PLC0415 - for protobuf, as in `Reader`

    return decode(parse_value(data))


DECODERS: dict[str, Callable[[bytes], Any]] = {
    "histograms": functools.partial(_of_summary, _histogram),
    "images": functools.partial(_of_summary, _image),
    "text": functools.partial(_of_summary, _text),
    "pr_curves": functools.partial(_of_summary, _tensor),
    "tensors": functools.partial(_of_summary, _tensor),
}
"""The decoders of serialized values by kind."""
