"""The colours of pictures: viridis, perceptually uniform, also for the colour-blind and in print."""

import numpy as np
from numpy.typing import NDArray

# Each 15th of the 256 colours, by Nathaniel Smith and Stefan van der Walt (CC0), as in Matplotlib.
_COLOURS = np.array(
    (
        (68, 1, 84), (72, 23, 105), (71, 42, 122), (67, 61, 132), (61, 78, 138), (53, 94, 141),
        (46, 109, 142), (41, 123, 142), (35, 137, 142), (31, 151, 139), (33, 165, 133), (46, 179, 124),
        (70, 192, 111), (101, 203, 94), (137, 213, 72), (176, 221, 47), (216, 226, 25), (253, 231, 37),
    )
)  # fmt: skip


def colours(share: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the RGB of numbers from 0 to 1, of shape [..., 3]."""
    places = np.linspace(0, 1, len(_COLOURS))
    return np.rint(np.stack([np.interp(share, places, channel) for channel in _COLOURS.T], axis=-1)).astype(
        np.uint8
    )
