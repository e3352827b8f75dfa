"""Short texts in pictures, in the bitmap font of Pillow: the same pixels on each machine."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

CHARACTER = (11, 6)
"""Height and width of a character in pixels."""


def write(
    canvas: NDArray[np.uint8], text: str, *, top: int, left: int, colour: Any = 0, upright: bool = False
) -> None:
    """Draw a text into a picture; the part beyond the edges is left out.

    Args:
        canvas: the picture [H, W, C].
        text: the text.
        top: the first row of the text.
        left: the first column of the text.
        colour: a value for all channels, or one for each; an opacity stays that of the picture.
        upright: turn the text, to be read from below.
    """
    mask = np.rot90(_mask(text)) if upright else _mask(text)
    area = canvas[
        top : top + mask.shape[0], left : left + mask.shape[1], : canvas.shape[2] - _opacity(canvas)
    ]
    area[mask[: area.shape[0], : area.shape[1]]] = colour


def _opacity(canvas: NDArray[np.uint8]) -> int:
    return int(canvas.shape[2] == 4)


def shortened(text: str, characters: int) -> str:
    """Return a text in one line that is cut to a number of characters, with two dots for the rest."""
    line = " ".join(text.split())
    return line if len(line) <= characters else f"{line[: max(0, characters - 2)]}.."[:characters]


def show_number(value: Any) -> str:
    """Return a number, or a text as it is; None is no text."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def check_texts(name: str, labels: object) -> tuple[str, ...]:
    """Return a list of texts and numbers as texts.

    Args:
        name: the labels in an error, as "the classes of the confusion matrix digits".
        labels: the argument.

    Raises:
        TypeError: The argument is no list, or holds something else.
    """
    if isinstance(labels, str | bytes) or not isinstance(labels, Sequence):
        raise TypeError(f"{name} have type {type(labels).__name__}: give a list of texts or numbers.")
    listed = list(cast(Sequence[Any], labels))
    for label in listed:
        if not (label is None or isinstance(label, str | bool | int | float | np.generic)):
            raise TypeError(
                f"{name} hold {label!r}, a {type(label).__name__}: give texts or numbers, of arrays on a "
                f"device one array, jnp.stack(labels)."
            )
    return tuple(map(show_number, listed))


@functools.lru_cache(maxsize=1024)
def _mask(text: str) -> NDArray[np.bool_]:
    """Return the pixels of a text [11, 6 * length]; the font has Latin-1 alone, and "?" for the others."""
    from PIL import Image, ImageDraw  # noqa: PLC0415 - optional, as most runs log no images

    latin = text.encode("latin-1", "replace").decode("latin-1")
    height, width = CHARACTER
    image = Image.new("1", (max(1, width * len(latin)), height))
    ImageDraw.Draw(image).text((0, 0), latin, fill=1, font=_font())
    mask = np.asarray(image)
    mask.flags.writeable = False
    return mask


@functools.cache
def _font() -> Any:
    from PIL import ImageFont  # noqa: PLC0415 - optional, as most runs log no images

    return ImageFont.load_default_imagefont()
