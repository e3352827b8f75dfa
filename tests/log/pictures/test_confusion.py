import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from sowlog._log.pictures.confusion import _show_count, shares
from sowlog._log.pictures.viridis import colours
from tests.log.drawing import drawn
from tests.support.tensorboard_reading import tensorboard_images

GREY = (208,) * 3
NONE, ALL = (68, 1, 84), (253, 231, 37)
COUNTS = np.array([[3, 1], [0, 4]])


def corners(picture, classes, cell):
    """Return the colour in the first pixel of each cell, which lie at the lower right."""
    cells = picture[-classes * cell :, -classes * cell :]
    return [[tuple(pixel) for pixel in row[::cell].tolist()] for row in cells[::cell]]


@pytest.mark.parametrize("place", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.float32, jnp.bfloat16])
def test_the_colour_is_the_share_of_the_row(tmp_path, place, dtype):
    """As TensorBoard reads it, from the host or the device."""
    with sowlog.Logger(tmp_path) as log:
        log.confusion(3, "matrix", place(COUNTS.astype(dtype)))
    ((where, pixels),) = tensorboard_images(tmp_path).items()
    assert where == ("matrix", 3)
    three, one = (tuple(colours(np.array([share]))[0].tolist()) for share in (0.75, 0.25))
    assert corners(pixels, 2, 32) == [[three, one], [NONE, ALL]]
    np.testing.assert_array_equal(pixels, drawn("confusion", COUNTS))


def test_shares_are_those_of_float64():
    """Of rows of any size, also beyond float64's sums; a row without examples has none."""
    counts = np.array([[1.0, 3, 0], [0, 0, 0], [1e308, 1e308, 1e308]])
    np.testing.assert_allclose(shares(counts), [[0.25, 0.75, 0], [np.nan] * 3, [1 / 3] * 3])


def test_what_is_no_count_is_grey_and_counts_nowhere():
    """NaN, an infinity and a negative number."""
    for odd in (np.nan, np.inf, -np.inf, -2.0):
        np.testing.assert_array_equal(shares(np.array([[odd, 1], [0, 1]])), [[np.nan, 1], [0, 1]])
        assert corners(drawn("confusion", np.array([[odd, 1], [0, 0]])), 2, 32) == [[GREY, ALL], [GREY, GREY]]


@pytest.mark.parametrize(
    ("classes", "cell"), [(2, 32), (30, 32), (31, 30), (80, 12), (81, 11), (960, 1), (1024, 1)]
)
def test_a_picture_of_many_classes_stays_as_large_as_a_screen(classes, cell):
    """Each cell is a square, of one pixel in the end."""
    picture = drawn("confusion", np.eye(classes, dtype=np.int32))
    side = classes * cell
    assert picture[-side:, -side:].shape == (side, side, 3)
    assert max(picture.shape) <= max(side, 54) + 70
    assert {row[number] for number, row in enumerate(corners(picture, classes, cell))} == {
        ALL
    } or classes == 1


def test_counts_and_names_are_drawn():
    """Each count in its cell alone, each name in the row or column of its class."""
    picture, changed = drawn("confusion", COUNTS), drawn("confusion", np.array([[30, 10], [0, 40]]))
    differs = (picture[-64:, -64:] != changed[-64:, -64:]).any(-1)
    assert [differs[top : top + 32, left : left + 32].any() for top in (0, 32) for left in (0, 32)] == [
        True,
        True,
        False,
        True,
    ]
    named, other = (
        drawn("confusion", COUNTS, classes=["cat", "dog"]),
        drawn("confusion", COUNTS, classes=["cat", "cow"]),
    )
    rows, columns = np.nonzero((named != other).any(-1))
    assert ((rows >= named.shape[0] - 32) | (columns >= named.shape[1] - 32)).all()
    np.testing.assert_array_equal(drawn("confusion", COUNTS, classes=np.array([0, 1])), picture)
    np.testing.assert_array_equal(drawn("confusion", COUNTS, classes=["0", "1"]), picture)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (99_999, "99999"),
        (123_456, "123k"),
        (999_999, "1000k"),
        (1_234_567, "1.2M"),
        (9_990_000, "10M"),
        (5e11, "500G"),
        (1e300, "1e300"),
        (0.1234, "0.123"),
        (12.5, "12.5"),
        (123.25, "123"),
        (1234.5, "1.2k"),
        (0.0123, "1e-02"),
        (-1234.0, "-1234"),
        (-0.0, "0"),
        (999.75, "1e03"),
        (-12345.0, "-12.."),
        (np.nan, "nan"),
        (-np.inf, "-inf"),
    ],
)
def test_a_long_count_stays_in_its_cell(count, text):
    """It is rounded to the room that there is."""
    assert _show_count(float(count)) == text
    other = 1 if np.isfinite(count) and count > 0 else -1
    lone, empty = (drawn("confusion", np.array([[1, 0], [0, one]])) for one in (count, other))
    np.testing.assert_array_equal(lone[:-32], empty[:-32])
    if count:
        np.testing.assert_array_equal(lone[:, :-32], empty[:, :-32])


@pytest.mark.parametrize(
    ("matrix", "options", "error", "message"),
    [
        (np.zeros((2, 3)), {}, ValueError, r"shape \[2, 3\]: it must be \[K, K\]"),
        (np.zeros(4), {}, ValueError, r"shape \[4\]: it must be"),
        (np.zeros((0, 0)), {}, ValueError, r"shape \[0, 0\]: it must be"),
        (np.zeros((1025, 1025), bool), {}, ValueError, "has 1025 classes, and a picture shows 1024"),
        (np.zeros((2, 2), complex), {}, TypeError, "dtype complex128: give counts"),
        (np.zeros((2, 2), object), {}, TypeError, "dtype object: give counts"),
        ([[1, 0], [0, 1]], {}, TypeError, "has type list"),
        (COUNTS, {"classes": ["cat"]}, ValueError, "are 1, and its rows 2: name each once"),
        (COUNTS, {"classes": "ab"}, TypeError, "have type str: give a list"),
        (COUNTS, {"classes": jnp.arange(2)}, TypeError, "have type ArrayImpl: give a list"),
    ],
)
def test_an_invalid_matrix_is_refused(matrix, options, error, message):
    """On the training thread, at the call."""
    with sowlog.Logger("unused", writers=[]) as log, pytest.raises(error, match=f"matrix digits .*{message}"):
        log.confusion(0, "digits", matrix, **options)
