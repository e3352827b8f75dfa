"""The colours of pictures."""

import matplotlib
import numpy as np

from sowlog._log.pictures import tiles
from sowlog._log.pictures.viridis import colours


def test_the_colours_are_matplotlibs_viridis():
    """Within 5 of 255 between the colours of the table."""
    steps = np.linspace(0, 1, 256)
    expected = 255 * np.array(matplotlib.colormaps["viridis"].colors)
    np.testing.assert_allclose(colours(steps), expected, atol=5.5)
    np.testing.assert_array_equal(colours(steps)[::15], np.rint(expected)[::15])


def test_no_value_has_the_colour_of_what_is_not_finite_or_absent():
    """Of a heat map."""
    found = {tuple(colour) for colour in colours(np.linspace(0, 1, 1001)).tolist()}
    assert not found & {tiles.NONFINITE, tiles.ABSENT}
