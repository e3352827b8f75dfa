"""Records of several steps, filled at once: the bytes are those of protobuf."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sowlog._events import protos
from sowlog._events.template import RecordTemplate
from sowlog.writers import TensorBoard
from sowlog.writers._rows import ScalarRows
from tests.events.test_template import by_protobuf, floats, steps, tags, times


@st.composite
def batches(draw):
    """Draw batches of records of one set of tags, with steps in any order."""
    names = tuple(draw(tags))
    drawn = []
    for _ in range(draw(st.integers(1, 3))):
        count = draw(st.integers(1, 5))
        rows = draw(st.lists(st.lists(floats, min_size=len(names), max_size=len(names)), min_size=count))
        values = np.array(rows, np.float32)
        drawn.append(ScalarRows([draw(steps) for _ in rows], [draw(times) for _ in rows], names, values))
    return drawn


def rows_of(first, count, names, values=None):
    """Return rows of steps that go up by one."""
    if values is None:
        values = np.random.default_rng(abs(first)).standard_normal((count, len(names))).astype(np.float32)
    return ScalarRows(range(first, first + count), [1.7e9 + i for i in range(count)], names, values)


def written(folder, drawn):
    """Return the bytes of batches behind the opening of the file."""
    writer = TensorBoard(folder)
    opening = writer.path.stat().st_size
    for rows in drawn:
        writer.write_all(rows)
    writer.close()
    return writer.path.read_bytes()[opening:]


@given(drawn=batches())
@example(drawn=[rows_of(126, 4, ("a", "b")), rows_of(130, 2, ("a", "b"))])
@example(drawn=[rows_of(0, 2, ("a",)), rows_of(-2, 2, ("a",))])
def test_batches_are_what_protobuf_would_have_written(drawn, tmp_path_factory):
    """For any tags, values, steps and times: heads of one size or of several, and batches that grow."""
    folder = tmp_path_factory.mktemp("run")
    assert written(folder, drawn) == by_protobuf(folder / "expected", itertools.chain(*drawn))


LAYERS = tuple(f"{name}/{layer:02d}" for name in ("blocks/mlp/rms", "blocks/entropy") for layer in range(24))


@pytest.mark.parametrize("names", [LAYERS, ("loss", *LAYERS), tuple("x" * n for n in range(1, 40))])
def test_values_are_placed_by_runs_of_equal_sizes_or_one_by_one(names, tmp_path):
    """Tags of layers have places at equal distances; tags of all lengths do not."""
    drawn = [rows_of(first, count, names) for first, count in ((100, 3), (2000, 2), (2002, 7), (2009, 2))]
    assert written(tmp_path, drawn) == by_protobuf(tmp_path / "expected", itertools.chain(*drawn))


@pytest.mark.parametrize(
    "steps", [[127, 128], [16_383, 16_384], [2**62, 2**63 - 1], [1, 2], [-1, -2], [0, 0]]
)
def test_rows_are_the_records_one_by_one(steps):
    """Of steps at which the size of a varint changes, and of zeros."""
    pieces = [protos.scalar_summary(tag) for tag in LAYERS]
    values = np.arange(2 * len(LAYERS), dtype=np.float32).reshape(2, -1)
    for clock in ([1.7e9, 1.8e9], [0.0, 1.7e9], [-0.0, 5e-324]):
        one, many = RecordTemplate(pieces), RecordTemplate(pieces)
        expected = b"".join(bytes(one.fill(*each)) for each in zip(steps, clock, values, strict=True))
        assert bytes(many.fill_rows(steps, clock, values)) == expected


def test_rows_are_records():
    """Any writer may take them as a sequence of records, whose values are read-only."""
    rows = rows_of(3, 4, ("a", "b"))
    assert [record.step for record in rows] == [3, 4, 5, 6]
    assert len(rows) == 4
    assert [record.step for record in rows[1:]] == [4, 5, 6]
    assert rows[-1].tags is rows.tags
    assert rows[0].values.tolist() == rows.values[0].tolist()
    with pytest.raises(ValueError, match="read-only"):
        rows[0].values[0] = 1.0
