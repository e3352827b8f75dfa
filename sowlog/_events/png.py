"""PNG images, encoded by Pillow, an optional dependency."""

from __future__ import annotations

import importlib
import importlib.util
import io

import numpy as np
from numpy.typing import NDArray

_INSTALL = "pip install 'sowlog[images]'"


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """Return a uint8 image [H, W, C] as lossless PNG."""
    from PIL import Image  # noqa: PLC0415 - optional, as most runs log no images

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "png")
    return buffer.getvalue()


def has_encoder() -> bool:
    """Return whether images can be encoded."""
    return importlib.util.find_spec("PIL") is not None


def require_encoder() -> None:
    """Raise if images cannot be encoded.

    Raises:
        ModuleNotFoundError: Pillow is not installed.
    """
    try:
        importlib.import_module("PIL.Image")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"images are encoded as PNG by Pillow, which is not installed: {_INSTALL} (or pip install "
            f"pillow).",
            name=error.name,
        ) from error
