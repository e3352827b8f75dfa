import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from sowlog.testing import MemoryWriter
from tests.log.drawing import drawn
from tests.support.tensorboard_reading import tensorboard_images

GREY = 192
FOUR = np.arange(4 * 8 * 8, dtype=np.uint8).reshape(4, 8, 8, 1)


@pytest.mark.parametrize("place", [np.asarray, jnp.asarray])
def test_each_pixel_is_a_square_with_gaps_between_tiles(tmp_path, place):
    """One image under one tag, as TensorBoard reads it."""
    images = np.array([[[1, 2]], [[3, 4]], [[5, 6]]], np.uint8)[..., None]
    with sowlog.Logger(tmp_path) as log:
        log.grid(4, "grid", place(images), columns=2, gap=1, scale=2)
    ((where, pixels),) = tensorboard_images(tmp_path).items()
    assert where == ("grid", 4)
    gap = GREY
    np.testing.assert_array_equal(
        pixels,
        [
            [1, 1, 2, 2, gap, 3, 3, 4, 4],
            [1, 1, 2, 2, gap, 3, 3, 4, 4],
            [gap] * 9,
            [5, 5, 6, 6, gap, gap, gap, gap, gap],
            [5, 5, 6, 6, gap, gap, gap, gap, gap],
        ],
    )


@pytest.mark.parametrize(
    ("shape", "options", "size"),
    [
        ((4, 8, 8, 1), {}, (2 * 64 + 2, 2 * 64 + 2)),
        ((5, 8, 8, 3), {}, (2 * 64 + 2, 3 * 64 + 4)),
        ((5, 8, 8, 3), {"columns": 9, "gap": 0}, (64, 5 * 64)),
        ((2, 5, 8, 8, 4), {"gap": 1}, (2 * 64 + 1, 5 * 64 + 4)),
        ((2, 20, 30, 1), {"gap": 0}, (60, 180)),
        ((1, 100, 10, 1), {}, (100, 10)),
        ((4, 8, 8, 1), {"labels": range(4)}, (2 * (64 + 11) + 2, 2 * 64 + 2)),
    ],
)
def test_a_tile_is_large_enough_to_be_seen(shape, options, size):
    """Its longer side has 64 pixels or more, by an integer factor."""
    assert drawn("grid", np.zeros(shape), **options).shape == (*size, shape[-1])


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.bool_, np.float32, jnp.bfloat16])
def test_tiles_have_the_pixels_that_log_image_has(channels, dtype):
    """In each dtype; NaN is black."""
    images = jnp.linspace(-0.5, 1.5, 2 * 3 * 2 * channels).reshape(2, 3, 2, channels).astype(dtype)
    if jnp.issubdtype(images.dtype, jnp.floating):
        images = images.at[0, 0, 0, 0].set(jnp.nan)
    memory = MemoryWriter()
    with sowlog.Logger("unused", writers=[memory]) as log:
        log.image(0, "image", images)
    expected = np.concatenate([*memory.records[0].images.values()], axis=1)
    np.testing.assert_array_equal(drawn("grid", images, columns=2, gap=0, scale=1), expected)


@pytest.mark.parametrize(
    ("labels", "texts"),
    [
        (["a", "b", "c", "d"], "abcd"),
        ([1, None, 0.5, np.float32(0.25)], ["1", "", "0.5", "0.25"]),
        (jnp.arange(4), "0123"),
        (np.arange(4).reshape(2, 2), "0123"),
        (jnp.array([0.5, 1, jnp.nan, 3], jnp.bfloat16), ["0.5", "1", "nan", "3"]),
        (np.array(["x", "y", "z", ""]), ["x", "y", "z", ""]),
        (["long enough to be cut", "x\ny", "\u65e5", "d"], ["long eno..", "x y", "?", "d"]),
    ],
)
def test_a_label_stands_above_its_tile(labels, texts):
    """As a text or a number, on the host or the device; the tiles are those without labels."""
    grid = drawn("grid", FOUR, labels=labels, gap=0)
    assert grid.shape == (2 * (11 + 64), 128, 1)
    tiles = drawn("grid", FOUR, gap=0)
    np.testing.assert_array_equal(grid[11:75], tiles[:64])
    np.testing.assert_array_equal(grid[86:], tiles[64:])
    np.testing.assert_array_equal(grid, drawn("grid", FOUR, labels=list(texts), gap=0))
    strips = [grid[top : top + 11, left : left + 64] for top in (0, 75) for left in (0, 64)]
    assert set(np.unique(strips)) <= {0, GREY}
    assert [bool((strip == 0).any()) for strip in strips] == [bool(text.strip()) for text in texts]


def test_a_label_keeps_colour_and_opacity():
    """Black and opaque on opaque grey."""
    strip = drawn("grid", np.zeros((1, 8, 8, 4)), labels=["#"])[:11]
    assert {tuple(pixel) for pixel in strip.reshape(-1, 4).tolist()} == {(0, 0, 0, 255), (GREY,) * 3 + (255,)}


@pytest.mark.parametrize(
    ("images", "options", "error", "message"),
    [
        (np.zeros((2, 3)), {}, ValueError, r"shape \[2, 3\]: it must be \[N, H, W, C\]"),
        (np.zeros((4, 8, 8)), {}, ValueError, r"images\[..., None\], \[4, 8, 8, 1\].*log.image"),
        (np.zeros((4, 8, 8, 2)), {}, ValueError, r"with 1, 3 or 4 channels"),
        (np.zeros((0, 8, 8, 1)), {}, ValueError, "which has no pixels"),
        (np.zeros((2, 0, 8, 8, 1)), {}, ValueError, "which has no pixels"),
        (np.zeros((4, 8, 8, 1), np.int32), {}, TypeError, "dtype int32"),
        ([[0.0]], {}, TypeError, "has type list"),
        (FOUR, {"labels": ["a"]}, ValueError, "labels of the grid digits are 1, and its images are 4"),
        (FOUR, {"labels": []}, ValueError, "are 0, and its images are 4"),
        (FOUR, {"labels": jnp.arange(5)}, ValueError, "are 5, and its images are 4"),
        (FOUR, {"labels": "abcd"}, TypeError, "have type str: give a list"),
        (FOUR, {"labels": [b"a"] * 4}, TypeError, "hold b'a', a bytes"),
        (FOUR, {"labels": [jnp.int32(1)] * 4}, TypeError, r"one array, jnp.stack\(labels\)"),
        (FOUR, {"labels": np.zeros(4, complex)}, TypeError, "have dtype complex128"),
        (FOUR, {"labels": np.array([None] * 4)}, TypeError, "have dtype object"),
        (FOUR, {"columns": 0}, ValueError, "columns of the grid digits is 0: it must be 1 or more"),
        (FOUR, {"columns": 2.0}, TypeError, "columns of the grid digits is 2.0, a float"),
        (FOUR[None], {"columns": 2}, ValueError, "has 4 columns: leave columns out"),
        (FOUR, {"gap": -1}, ValueError, "gap of the grid digits is -1: it must be 0 or more"),
        (FOUR, {"scale": 0}, ValueError, "scale of the grid digits is 0"),
        (FOUR, {"scale": True}, TypeError, "scale of the grid digits is True, a bool"),
        (FOUR, {"scale": 10_000}, ValueError, "a smaller scale than 10000"),
        (np.zeros((4000, 8, 8, 1)), {}, ValueError, r"4000 images .* 4156 x 4222 pixels.*images\[:64\]"),
        (
            np.zeros((1, 3000, 3000, 1), bool),
            {},
            ValueError,
            r"1 image would be .* in all: log smaller ones, images\[..., ::2, ::2, :\]\.",
        ),
    ],
)
def test_an_invalid_grid_is_refused(images, options, error, message):
    """On the training thread, at the call."""
    with sowlog.Logger("unused", writers=[]) as log, pytest.raises(error, match=message):
        log.grid(0, "digits", images, **options)
