"""Tables on terminals of all widths."""

import io
import re

import pytest

from sowlog._cli.tables import TextTable, cells, write

CURVE = "▁▄▅▆▅▃▄▅█▃▂▅▇▆▁▄▅▆▅▃▄▅█▃"
TAG = "decoder/block_000/attention/entropy"
OPTIONAL = ["points", "mean", "curve"]
ROWS = [(TAG, "300", "0.003333", "0.02094", CURVE, ""), ("loss", "7", "1e-30", "nan", CURVE, "1 NaN")]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def drawn(monkeypatch, columns):
    """Return the lines of the table on a terminal."""
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = Terminal()
    table = TextTable(["tag", ">points", ">last", ">mean", "curve", "health"], ROWS, optional=OPTIONAL)
    write(stream, [table])
    # Heads are bold, with or without colours.
    return re.sub("\x1b\\[[0-9;]*m", "", stream.getvalue()).splitlines()


def test_a_wide_terminal_has_each_text_in_one_line(monkeypatch):
    """And all columns."""
    lines = drawn(monkeypatch, 200)
    assert "left out" not in lines[-1]
    for row in ROWS:
        assert any(all(text in line for text in row) for line in lines)


@pytest.mark.parametrize(
    ("columns", "left_out"),
    [(88, []), (87, OPTIONAL[:1]), (79, OPTIONAL[:1]), (78, OPTIONAL[:2]), (56, OPTIONAL), (42, OPTIONAL)],
)
def test_a_narrow_terminal_leaves_columns_out(monkeypatch, columns, left_out):
    """Numbers and curves that are there are whole, tags are folded, and a line names the other columns."""
    *lines, last = drawn(monkeypatch, columns)
    if left_out:
        assert last == f"left out, as the terminal has {columns} columns: {', '.join(left_out)}"
    else:
        assert "left out" not in last
    assert max(map(cells, lines)) <= columns
    text = "\n".join(lines)
    for place, head in enumerate(("points", "last", "mean", "curve"), start=1):
        for row in ROWS:
            assert (row[place] in text) == (head not in left_out), head
    assert TAG not in text
    assert TAG[:15] in text


def test_a_tag_with_the_name_of_a_column_is_kept(monkeypatch):
    """The table of several runs has the columns of tags behind its own."""
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    heads = ["run", ">points", ">last step", ">points", "health"]
    write(
        stream, [TextTable(heads, [("a" * 30, "300", "299", "0.25", "")], optional=["points", "last step"])]
    )
    assert "0.25" in stream.getvalue()
    assert "299" not in stream.getvalue()
    assert "left out, as the terminal has 40 columns: points, last step\n" in stream.getvalue()


def test_a_terminal_without_a_size_has_80_columns(monkeypatch):
    """A program that runs another one in a terminal of its own may set no size."""
    assert drawn(monkeypatch, 0) == drawn(monkeypatch, 80)


def test_the_narrowest_terminal_folds_numbers_as_well(monkeypatch):
    """No line is longer than the terminal, and no digit is cut."""
    *lines, _ = drawn(monkeypatch, 20)
    assert max(map(cells, lines)) <= 20
    column = "".join(line[8:14].strip() for line in lines)
    assert "0.003333" in column
