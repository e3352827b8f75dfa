"""Images: checked by shape and dtype on the training thread, converted to uint8 on the writer thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from sowlog._log.arrays import Array, check_array, held
from sowlog._log.texts import check_tag
from sowlog._tree.tags import index_tags

CHANNELS = (1, 3, 4)
_FORMS = "[H, W], [H, W, C] or, as a batch, [N, H, W, C], with 1, 3 or 4 channels C"


class Picture(Protocol):
    """Images that the writer thread draws of arrays, which the device may still compute."""

    @property
    def tags(self) -> Sequence[str]:
        """The tag of each image."""
        ...

    @property
    def arrays(self) -> Sequence[Array]:
        """The arrays that the images are drawn of."""
        ...

    def draw(self) -> dict[str, NDArray[np.uint8]]:
        """Wait for the device and return the images by tag, as read-only uint8 arrays [H, W, C]."""
        ...


class Pixels(NamedTuple):
    """An image or a batch of images: one array, which the device may still compute.

    Attributes:
        tag: the tag of the image, or the prefix of the tags of a batch.
        array: shape [H, W], [H, W, C] or [N, H, W, C], of uint8, bool or a floating-point type.
    """

    tag: str
    array: Array

    @property
    def tags(self) -> Sequence[str]:
        """The tag of an image, or one for each image of a batch."""
        return index_tags(self.tag, self.array.shape[:1]) if self.array.ndim == 4 else (self.tag,)

    @property
    def arrays(self) -> tuple[Array]:
        """The one array."""
        return (self.array,)

    def draw(self) -> dict[str, NDArray[np.uint8]]:
        """Wait for the device and return the images by tag, as read-only uint8 arrays [H, W, C]."""
        array = to_uint8(np.asarray(self.array))
        if array.ndim == 2:
            array = array[..., None]
        array.flags.writeable = False
        return dict(zip(self.tags, [array] if array.ndim == 3 else array, strict=True))


def check_image(tag: object, image: object) -> Pixels:
    """Return a valid image; an array on the host is copied, since the caller may write to it.

    Raises:
        TypeError: The image is not an array, or has another dtype.
        ValueError: The image has another shape, no pixels, or no tag.
    """
    tag = check_tag("image", tag, "log.image(step, 'samples', image)")
    array = check_array(f"the image {tag}", image)
    check_pixels(f"the image {tag}", array.dtype)
    _check_shape(tag, array.shape)
    return Pixels(tag, held(array))


def check_pixels(name: str, dtype: Any) -> None:
    """Raise if pixels have another dtype than uint8, bool or a floating-point type.

    Args:
        name: the images in the error, as "the image samples".
        dtype: the dtype.

    Raises:
        TypeError: They have.
    """
    if not (dtype in (np.uint8, np.bool_) or jnp.issubdtype(dtype, jnp.floating)):
        raise TypeError(
            f"{name} has dtype {dtype}: pixels are uint8 from 0 to 255, "
            f"image.astype(np.uint8), or floating-point numbers from 0 to 1."
        )


def _check_shape(tag: str, shape: tuple[int, ...]) -> None:
    if not 2 <= len(shape) <= 4 or (len(shape) > 2 and shape[-1] not in CHANNELS):
        grey = f"; a batch of grey images is image[..., None], {[*shape, 1]}" if len(shape) == 3 else ""
        raise ValueError(f"the image {tag} has shape {list(shape)}: it must be {_FORMS}{grey}.")
    if 0 in shape:
        raise ValueError(f"the image {tag} has shape {list(shape)}, which has no pixels.")


def to_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Return pixels as a new array of uint8."""
    if array.dtype == np.uint8:
        return array.copy()
    # Decoders overshoot a little, so values beyond 0 and 1 become black and white; NaN becomes black.
    unit = np.clip(np.nan_to_num(array.astype(np.float32), nan=0.0), 0, 1)
    return np.rint(255 * unit).astype(np.uint8)
