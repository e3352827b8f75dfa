"""Heat maps of families: the colours of tiles, and the joining of columns."""

import numpy as np
import pytest

from sowlog._log.pictures import tiles
from sowlog._log.pictures.heat_maps import COLUMNS, ROWS, HeatMaps
from sowlog._log.pictures.viridis import colours
from sowlog.writers import Record

FIRST, LAST = (68, 1, 84), (253, 231, 37)


def place(maps, rows=3, tag="x/layers"):
    """Return the arguments of `add` for one map of some rows."""
    number, own = maps.place(tag, range(rows))
    return np.array([number]), own[None]


def add(maps, placed, *columns, step=0):
    """Add columns, in which None is absent; return the pictures of the last by tag."""
    record = None
    for offset, column in enumerate(columns):
        present = np.array([[value is not None for value in column]])
        values = np.array([[value if value is not None else np.nan for value in column]], np.float32)
        record = maps.add(Record(step + offset, 1.5 * offset), *placed, values, present)
    return record.images if record else {}


def tiles_of(picture, rows, columns):
    """Return the colour of each tile, checked to fill its tile."""
    height, width = (max(4, min(16, 256 // rows)), max(2, min(16, 512 // columns)))
    left = next(x for x in range(picture.shape[1]) if tuple(picture[6, x]) not in {(255,) * 3, (60,) * 3})
    area = picture[6 : 6 + rows * height, left : left + columns * width]
    grid = area.reshape(rows, height, columns, width, 3)
    assert (grid == grid[:, :1, :, :1]).all()
    return [[tuple(grid[row, 0, column, 0].tolist()) for column in range(columns)] for row in range(rows)]


def middle(share):
    return tuple(colours(np.array(share)).tolist())


def test_the_colours_of_tiles_are_those_of_their_values():
    """Row 0 is at the top; NaN and both infinities are red, and absence is grey."""
    maps = HeatMaps(every=3)
    columns = [(0.0, 15.0, 3.0), (np.nan, 6.0, None), (np.inf, -np.inf, 12.0)]
    picture = add(maps, place(maps), *columns)["x/layers"]
    assert picture.dtype == np.uint8
    assert not picture.flags.writeable
    bad, none = tiles.NONFINITE, tiles.ABSENT
    assert tiles_of(picture, 3, 3) == [
        [FIRST, bad, bad],
        [LAST, middle(6 / 15), bad],
        [middle(3 / 15), none, middle(12 / 15)],
    ]


@pytest.mark.parametrize("column", [(2.0, 2.0, 2.0), (np.nan, np.inf, None)])
def test_maps_without_a_range_are_drawn(column):
    """Equal values have the middle colour."""
    maps = HeatMaps(every=1)
    picture = add(maps, place(maps), column)["x/layers"]
    found = {colour for row in tiles_of(picture, 3, 1) for colour in row}
    assert found == ({middle(0.5)} if column[0] == 2 else {tiles.NONFINITE, tiles.ABSENT})


def test_pictures_come_at_the_cadence_and_at_the_end():
    """The last one has the step and the time of the last values, and is left out if there are none since."""
    maps = HeatMaps(every=2)
    placed = place(maps)
    assert not add(maps, placed, (1, 2, 3))
    assert add(maps, placed, (1, 2, 3), step=1)
    assert not list(maps.last_pictures())
    assert not add(maps, placed, (None, 5, None), step=7)
    assert not add(maps, placed, (None, None, None), step=9)
    (record,) = maps.last_pictures()
    assert (record.step, record.tags, list(record.images)) == (7, (), ["x/layers"])
    assert not list(maps.last_pictures())


def test_columns_are_joined_in_pairs_when_all_are_filled():
    """Each is the mean of the values that are present; a NaN stays one; memory is bounded."""
    maps, rng = HeatMaps(every=10**9), np.random.default_rng(0)
    placed, number = place(maps, 4), 5 * COLUMNS // 2 + 3
    values = rng.normal(size=(number, 4)).astype(np.float32)
    values[1000:1002, 1] = np.nan
    is_absent = rng.random((number, 4)) < 0.3
    is_absent[12:16, 2], is_absent[:, 3] = True, False
    rows = [
        [None if gone else value for value, gone in zip(*row, strict=True)]
        for row in zip(values, is_absent, strict=True)
    ]
    add(maps, placed, *rows)
    widths = 4
    columns = -(-number // widths)
    means, absent = maps.means(0)
    assert means.shape == (4, columns)
    assert absent[2, 3]
    for column in range(columns):
        part = slice(widths * column, widths * (column + 1))
        for row in range(4):
            present = values[part, row][~is_absent[part, row]].astype(np.float64)
            assert absent[row, column] == (present.size == 0)
            if present.size:
                np.testing.assert_allclose(means[row, column], present.mean(), rtol=1e-12)
    assert maps._sums.shape == (COLUMNS, 4)


def test_the_range_leaves_out_the_outermost_values():
    """A spike of one step does not make all others dark."""
    maps = HeatMaps(every=100)
    columns = [(float(step % 16), 0.0, 0.0) for step in range(100)]
    columns[50] = (1e9, 0.0, 0.0)
    picture = add(maps, place(maps), *columns)["x/layers"]
    assert len(set(tiles_of(picture, 3, 100)[0])) > 10


def test_rows_of_records_with_other_layers_are_added():
    """Maps of several layouts are one: a layer that comes late has a row in its place."""
    maps = HeatMaps(every=2)
    number, rows = maps.place("x/layers", (0, 2))
    add(maps, (np.array([number]), rows[None]), (0, 15))
    again, rows = maps.place("x/layers", (1, 2))
    assert again == number
    pictures = add(maps, (np.array([number]), rows[None]), (3, 6), step=1)
    none = tiles.ABSENT
    assert tiles_of(pictures["x/layers"], 3, 2) == [
        [FIRST, none],
        [none, middle(3 / 15)],
        [LAST, middle(6 / 15)],
    ]


def test_a_row_of_many_layers_is_of_several():
    """The mean of their values that are present: a picture of 10 000 layers would have 40 000 pixels."""
    maps, layers, rng = HeatMaps(every=10**9), 2 * ROWS + 3, np.random.default_rng(0)
    values = rng.normal(size=(layers, 2)).astype(np.float32)
    values[30, 0] = np.nan
    column = [None if index in (0, 1, 2, 7) else value for index, value in enumerate(values[:, 0])]
    add(maps, place(maps, layers), column, values[:, 1])
    means, absent = maps.means(0)
    assert means.shape == (-(-layers // 3), 2)
    assert np.argwhere(absent).tolist() == [[0, 0]]
    assert np.argwhere(np.isnan(means)).tolist() == [[10, 0]]
    wide = values.astype(np.float64)
    np.testing.assert_allclose(means[2, 0], (wide[6, 0] + wide[8, 0]) / 2)
    np.testing.assert_allclose(means[:, 1], [wide[row : row + 3, 1].mean() for row in range(0, layers, 3)])
    (record,) = maps.last_pictures()
    assert record.images["x/layers"].shape[0] < 4 * ROWS
