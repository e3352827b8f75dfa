"""Grids of images: one picture of many tiles, drawn on the writer thread."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from sowlog._log.arrays import Array, check_array, held
from sowlog._log.pictures.images import CHANNELS, check_pixels, to_uint8
from sowlog._log.pictures.lettering import CHARACTER, check_texts, shortened, show_number, write
from sowlog._log.texts import check_tag
from sowlog._reduce.values import is_real

# The least size of a tile's longer side, unless a scale is given. In pixels.
TILE = 64
# A picture of RGB of this size is 24 MiB, and takes the writer thread a second.
MAX_PIXELS = 1 << 23
# Grey: a gap shows beside black and beside white images, and a black label is readable on it.
_BACKGROUND = 192
_FORMS = "[N, H, W, C] or, as rows of tiles, [R, N, H, W, C], with 1, 3 or 4 channels C"


class Layout(NamedTuple):
    """The places of tiles in a picture, in pixels.

    Attributes:
        rows: the number of rows of tiles.
        columns: the number of tiles in a row.
        scale: the factor by which each image is enlarged.
        tile: height and width of an enlarged image.
        gap: pixels between two tiles.
        label: height of the label above each tile.
    """

    rows: int
    columns: int
    scale: int
    tile: tuple[int, int]
    gap: int
    label: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the picture."""
        cell = self.label + self.tile[0], self.tile[1]
        height, width = (
            number * (size + self.gap) - self.gap
            for number, size in zip((self.rows, self.columns), cell, strict=True)
        )
        return height, width

    def corner(self, number: int) -> tuple[int, int]:
        """Return the first row and column of a tile's label."""
        row, column = divmod(number, self.columns)
        return row * (self.label + self.tile[0] + self.gap), column * (self.tile[1] + self.gap)


class Grid(NamedTuple):
    """A grid of images, which the device may still compute.

    Attributes:
        tag: the tag.
        images: shape [N, H, W, C] or [R, N, H, W, C], of uint8, bool or a floating-point type.
        labels: a label for each image, as texts or as an array.
        layout: the places of the tiles.
    """

    tag: str
    images: Array
    labels: tuple[str, ...] | Array
    layout: Layout

    @property
    def tags(self) -> tuple[str]:
        """The one tag."""
        return (self.tag,)

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The images, and the labels if they are an array."""
        return (self.images,) if isinstance(self.labels, tuple) else (self.images, self.labels)

    def draw(self) -> dict[str, NDArray[np.uint8]]:
        """Wait for the device and return the picture by its tag."""
        images = to_uint8(np.asarray(self.images))
        images = images.reshape(-1, *images.shape[-3:])
        labels = self.labels if isinstance(self.labels, tuple) else _texts(np.asarray(self.labels))
        layout = self.layout
        canvas = np.full((*layout.shape, images.shape[-1]), _BACKGROUND, np.uint8)
        canvas[..., 3:] = 255  # Opaque, where there is an opacity.
        for number, image in enumerate(images):
            top, left = layout.corner(number)
            if labels:
                label = shortened(labels[number], layout.tile[1] // CHARACTER[1])
                write(canvas, label, top=top, left=left)
            top += layout.label
            canvas[top : top + layout.tile[0], left : left + layout.tile[1]] = image.repeat(
                layout.scale, 0
            ).repeat(layout.scale, 1)
        canvas.flags.writeable = False
        return {self.tag: canvas}


def check_grid(
    tag: object, images: object, *, columns: object, labels: object, gap: object, scale: object
) -> Grid:
    """Return a valid grid; arrays on the host are copied, since the caller may write to them.

    Raises:
        TypeError: The images or the labels are none, or a size is no integer.
        ValueError: The images have another shape, there are more or fewer labels than images, a size is out
            of range, the picture is too large, or it has no tag.
    """
    tag = check_tag("grid", tag, "log.grid(step, 'samples', images)")
    array = check_array(f"the grid {tag}", images)
    check_pixels(f"the grid {tag}", array.dtype)
    _check_shape(tag, array.shape)
    number = math.prod(array.shape[:-3])
    known = _check_labels(tag, labels, number)
    height, width = array.shape[-3:-1]
    factor = -(-TILE // max(height, width))
    if scale is not None:
        factor = _check_size(scale, f"the scale of the grid {tag}", least=1)
    wide = _check_columns(tag, columns, array.shape, number)
    layout = Layout(
        rows=-(-number // wide),
        columns=wide,
        scale=factor,
        tile=(factor * height, factor * width),
        gap=_check_size(gap, f"the gap of the grid {tag}", least=0),
        label=0 if labels is None else CHARACTER[0],
    )
    if math.prod(layout.shape) > MAX_PIXELS:
        high, wide = layout.shape
        scaled = f"a smaller scale than {factor}" if factor > 1 else "smaller ones, images[..., ::2, ::2, :]"
        remedies = [scaled] if number == 1 else ["fewer images, images[:64]", scaled]
        if layout.gap > max(layout.tile):
            remedies.append(f"a smaller gap than {layout.gap}")
        raise ValueError(
            f"the grid {tag} of {number} image{'s' * (number != 1)} would be a picture of {high} x {wide} "
            f"pixels, and one holds {MAX_PIXELS} in all: log {', or '.join(remedies)}."
        )
    return Grid(tag, held(array), known, layout)


def _check_shape(tag: str, shape: tuple[int, ...]) -> None:
    if len(shape) not in {4, 5} or shape[-1] not in CHANNELS:
        hint = ""
        if len(shape) == 3:
            hint = f"; of grey images it is images[..., None], {[*shape, 1]}, and one image is log.image"
        raise ValueError(f"the grid {tag} has shape {list(shape)}: it must be {_FORMS}{hint}.")
    if 0 in shape:
        raise ValueError(f"the grid {tag} has shape {list(shape)}, which has no pixels.")


def _check_columns(tag: str, columns: object, shape: tuple[int, ...], number: int) -> int:
    """Return the number of tiles in a row: by default that of the images' axis, or of about a square."""
    if len(shape) == 5:
        if columns is not None:
            raise ValueError(
                f"the grid {tag} has shape {list(shape)}, which has {shape[1]} columns: leave columns out."
            )
        return shape[1]
    if columns is None:
        return math.ceil(math.sqrt(number))
    return min(number, _check_size(columns, f"the columns of the grid {tag}", least=1))


def _check_size(size: object, name: str, *, least: int) -> int:
    if isinstance(size, bool) or not isinstance(size, int | np.integer):
        raise TypeError(f"{name} is {size!r}, a {type(size).__name__}: give an integer.")
    if size < least:
        raise ValueError(f"{name} is {size}: it must be {least} or more.")
    return int(size)


def _check_labels(tag: str, labels: Any, number: int) -> tuple[str, ...] | Array:
    """Return one label for each image, or none."""
    if labels is None:
        return ()
    name = f"the labels of the grid {tag}"
    if isinstance(labels, jax.Array | np.ndarray):
        array = check_array(f"the array of labels of the grid {tag}", labels)
        if not (is_real(array.dtype) or array.dtype.kind == "U"):
            raise TypeError(f"{name} have dtype {array.dtype}: give texts or real numbers.")
        _check_number(name, array.size, number)
        return held(array)
    texts = check_texts(name, labels)
    _check_number(name, len(texts), number)
    return texts


def _check_number(name: str, labels: int, images: int) -> None:
    if labels != images:
        raise ValueError(f"{name} are {labels}, and its images are {images}: give one label for each image.")


def _texts(labels: NDArray[Any]) -> tuple[str, ...]:
    return tuple(map(show_number, labels.ravel().tolist()))
