"""Images, encoded as PNG and decoded by Pillow, an optional dependency."""

from __future__ import annotations

import importlib
import importlib.util
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sowlog._extras import import_extra


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """Return a uint8 image [H, W, C] as lossless PNG."""
    from PIL import Image  # noqa: PLC0415 - optional, as most runs log no images

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "png")
    return buffer.getvalue()


def decode_image(encoded: bytes) -> NDArray[Any]:
    """Return the pixels of an image [H, W, C], of an animation those of the first frame.

    Raises:
        ModuleNotFoundError: Pillow is not installed.
        ValueError: The bytes are no image that Pillow knows.
    """
    require_encoder()
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - optional, as most runs log no images

    try:
        with Image.open(io.BytesIO(encoded)) as image:
            # Indices of a palette, and bits, are no pixels.
            plain = image.convert({"P": "RGBA", "1": "L"}[image.mode]) if image.mode in ("P", "1") else image
            pixels = np.asarray(plain)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"an image of {len(encoded)} bytes cannot be decoded: {error}.") from error
    return pixels[..., None] if pixels.ndim == 2 else pixels


def has_encoder() -> bool:
    """Return whether images can be encoded."""
    return importlib.util.find_spec("PIL") is not None


def require_encoder() -> None:
    """Raise if images cannot be encoded.

    Raises:
        ModuleNotFoundError: Pillow is not installed.
    """
    import_extra("PIL.Image", "images are encoded and decoded by Pillow", extra="images", package="pillow")
