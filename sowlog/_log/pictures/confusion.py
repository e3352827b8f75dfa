"""Confusion matrices: counts drawn as a picture, with the share of each row as the colour."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sowlog._log.arrays import Array, check_array, held
from sowlog._log.pictures.lettering import CHARACTER, check_texts, shortened, write
from sowlog._log.pictures.viridis import colours
from sowlog._log.texts import check_tag
from sowlog._reduce.values import is_real

# Beyond it a picture of one pixel for each cell is larger than a screen.
MAX_CLASSES = 1024
# A cell of this size has room for its count, and ten of them fit a card of TensorBoard, which shrinks larger
# pictures. Sizes in pixels.
_COUNTED_CELL = 32
_COUNT_LENGTH = _COUNTED_CELL // CHARACTER[1]
_SIDE = 30 * _COUNTED_CELL
# Cells in which a line of text fits have names beside them and lines between them.
_NAMED_CELL = CHARACTER[0] + 1
_NAME_LENGTH = 16
_SPACE = 4
_WHITE, _BLACK, _GREY = 255, 0, 208
# From this luminance on, of 255, black is the more readable text.
_LIGHT = 128


class Confusion(NamedTuple):
    """A matrix of counts, which the device may still compute.

    Attributes:
        tag: the tag.
        matrix: real numbers of shape [K, K], the true class on the first axis.
        classes: the name of each class.
    """

    tag: str
    matrix: Array
    classes: tuple[str, ...]

    @property
    def tags(self) -> tuple[str]:
        """The one tag."""
        return (self.tag,)

    @property
    def arrays(self) -> tuple[Array]:
        """The matrix."""
        return (self.matrix,)

    def draw(self) -> dict[str, NDArray[np.uint8]]:
        """Wait for the device and return the picture by its tag."""
        counts = np.asarray(self.matrix).astype(np.float64)
        cell = min(_COUNTED_CELL, max(1, _SIDE // len(counts)))
        cells = _cells(counts, cell)
        names = [shortened(name, _NAME_LENGTH) for name in self.classes] if cell >= _NAMED_CELL else []
        canvas = _with_axes(cells, names, cell)
        canvas.flags.writeable = False
        return {self.tag: canvas}


def check_confusion(tag: object, matrix: object, classes: Any) -> Confusion:
    """Return a valid matrix; one on the host is copied, since the caller may write to it.

    Raises:
        TypeError: The matrix is no array of real numbers, or the classes are no list.
        ValueError: The matrix has another shape or too many classes, another number of them is named, or it
            has no tag.
    """
    tag = check_tag("confusion matrix", tag, "log.confusion(step, 'confusion', matrix)")
    name = f"the confusion matrix {tag}"
    array = check_array(name, matrix)
    if not is_real(array.dtype):
        raise TypeError(
            f"{name} has dtype {array.dtype}: give counts, as integers or floating-point numbers."
        )
    shape = array.shape
    if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
        raise ValueError(
            f"{name} has shape {list(shape)}: it must be [K, K], the counts of K true classes by K predicted "
            f"ones."
        )
    if shape[0] > MAX_CLASSES:
        raise ValueError(
            f"{name} has {shape[0]} classes, and a picture shows {MAX_CLASSES}: log a part, "
            f"matrix[:100, :100]."
        )
    names = tuple(map(str, range(shape[0]))) if classes is None else _check_classes(name, classes)
    if len(names) != shape[0]:
        raise ValueError(f"the classes of {name} are {len(names)}, and its rows {shape[0]}: name each once.")
    return Confusion(tag, held(array), names)


def _check_classes(name: str, classes: Any) -> tuple[str, ...]:
    names = classes.tolist() if isinstance(classes, np.ndarray) else classes
    return check_texts(f"the classes of {name}", names)


def shares(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of each count in its row; NaN for a row without counts, and for an invalid count."""
    is_count = np.isfinite(counts) & (counts >= 0)
    valid = np.where(is_count, counts, 0)
    # A row is scaled by its largest count first, so that no sum overflows.
    largest = valid.max(axis=1, keepdims=True)
    scaled = np.divide(valid, largest, out=np.zeros_like(valid), where=largest > 0)
    total = scaled.sum(axis=1, keepdims=True)
    share = np.divide(scaled, total, out=np.full_like(valid, np.nan), where=total > 0)
    return np.where(is_count, share, np.nan)


def paint(share: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the RGB of shares from 0 to 1; grey for NaN."""
    return np.where(np.isnan(share)[..., None], np.uint8(_GREY), colours(np.nan_to_num(share)))


def _cells(counts: NDArray[np.float64], cell: int) -> NDArray[np.uint8]:
    """Return the cells as a picture, with lines and counts where there is room."""
    rgb = paint(shares(counts))
    picture = rgb.repeat(cell, 0).repeat(cell, 1)
    if cell >= _NAMED_CELL:
        picture[cell - 1 :: cell], picture[:, cell - 1 :: cell] = _WHITE, _WHITE
    if cell == _COUNTED_CELL:
        luminance = rgb @ np.array([0.299, 0.587, 0.114])
        for (row, column), count in np.ndenumerate(counts):
            text = _show_count(float(count))
            write(
                picture,
                text,
                top=row * cell + (cell - CHARACTER[0]) // 2,
                left=column * cell + (cell - len(text) * CHARACTER[1]) // 2,
                colour=_BLACK if luminance[row, column] >= _LIGHT else _WHITE,
            )
    return picture


def _show_count(count: float) -> str:
    """Return a count in up to five characters."""
    if count.is_integer() and abs(count) < 1e5:
        return shortened(f"{count:z.0f}", _COUNT_LENGTH)
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if unit <= count < 1e3 * unit:
            scaled = count / unit
            return f"{scaled:.1f}{suffix}" if scaled < 9.95 else f"{scaled:.0f}{suffix}"
    text = f"{count:.3g}" if 0.1 <= count < 999.5 else f"{count:.0e}".replace("e+", "e")
    return shortened(text, _COUNT_LENGTH)


def _with_axes(cells: NDArray[np.uint8], names: list[str], cell: int) -> NDArray[np.uint8]:
    """Return the cells with the names of the classes, true ones on the left and predicted ones above."""
    height, width = CHARACTER
    longest = width * max((len(name) for name in names), default=0)
    is_upright = longest > cell - _SPACE
    title = height + _SPACE
    left = title + (longest + _SPACE if names else 0)
    top = title + ((longest if is_upright else height) + _SPACE if names else 0)
    canvas = np.full((top + len(cells), max(left + len(cells), left + 9 * width), 3), _WHITE, np.uint8)
    canvas[top:, left : left + len(cells)] = cells
    write(canvas, "predicted", top=0, left=left)
    write(canvas, "true", top=top, left=0, upright=True)
    for number, name in enumerate(names):
        size = len(name) * width
        start, middle = number * cell, (cell - height) // 2
        write(canvas, name, top=top + start + middle, left=left - _SPACE - size)
        if is_upright:
            write(canvas, name, top=top - _SPACE - size, left=left + start + middle, upright=True)
        else:
            write(canvas, name, top=title, left=left + start + (cell - size) // 2)
    return canvas
