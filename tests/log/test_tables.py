import enum
import html
import re

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import sowlog
from sowlog.testing import MemoryWriter
from tests.support.tensorboard_reading import tensorboard_texts


class Split(enum.Enum):
    """A value with a `str` of its own."""

    TEST = "test"

    def __str__(self):
        return self.value


def shown(tmp_path, table):
    """Return the cells of a logged table as TensorBoard shows them, the header first."""
    with sowlog.Logger(tmp_path) as log:
        log.table(3, "table", table)
    page = tensorboard_texts(tmp_path)["table", 3]
    assert page.startswith("<table>")
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    return [[html.unescape(cell) for cell in re.findall(r"<t[dh]>(.*?)</t[dh]>", row)] for row in rows]


@pytest.mark.parametrize(
    "table",
    [
        {"name": ["a", "b"], "loss": [0.5, 1 / 3], "step": np.array([10, 2])},
        {"name": ("a", "b"), "loss": np.array([0.5, 1 / 3]), "step": [10, np.int64(2)]},
        [{"name": "a", "loss": 0.5, "step": 10}, {"name": "b", "loss": 1 / 3, "step": 2}],
        (
            {"name": name, "loss": loss, "step": step}
            for name, loss, step in [("a", 0.5, 10), ("b", 1 / 3, 2)]
        ),
        pd.DataFrame({"name": ["a", "b"], "loss": [0.5, 1 / 3], "step": [10, 2]}),
    ],
)
def test_columns_and_rows_are_shown(tmp_path, table):
    """In the order given, floating-point numbers with six digits."""
    assert shown(tmp_path, table) == [["name", "loss", "step"], ["a", "0.5", "10"], ["b", "0.333333", "2"]]


def test_rows_may_lack_names(tmp_path):
    """Columns come in the order of their first row, and a missing cell is empty."""
    rows = [{"a": 1}, {"b": None, "a": True}, {"c": Split.TEST}]
    assert shown(tmp_path, rows) == [["a", "b", "c"], ["1", "", ""], ["True", "", ""], ["", "", "test"]]


@pytest.mark.parametrize(
    "cell",
    [
        "a|b",
        "**bold** and *slanted*",
        "snake_case_name __init__",
        "`code` and `` more",
        "[link](https://example.org) ![image](x.png)",
        "<b>tag</b> & &amp; <script>",
        "back\\slash \\* \\| end\\",
        "- no list",
        "# no title",
        "Ω {braces} ~tilde~ $x^2$",
        "https://example.org/a_b_c",
    ],
)
def test_a_cell_is_shown_unchanged(tmp_path, cell):
    """Neither Markdown nor HTML, in a cell or a header."""
    assert shown(tmp_path, {cell: [cell, "x"], "other": [cell, cell]}) == [
        [cell, "other"],
        [cell, cell],
        ["x", cell],
    ]


def test_the_lines_of_a_cell_stay_in_it(tmp_path):
    """As breaks of HTML."""
    assert shown(tmp_path, {"text": ["a\nb\r\nc"]}) == [["text"], ["a<br>b<br>c"]]


def test_a_table_without_rows_shows_its_header(tmp_path):
    """A list of the worst examples may be empty."""
    assert shown(tmp_path, {"a": [], "b": []})[0] == ["a", "b"]


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        ({}, ValueError, "the table samples has no columns"),
        ([], ValueError, "the table samples has no columns"),
        ([{}], ValueError, "the table samples has no columns"),
        (None, TypeError, "the table samples has type NoneType: give a dict of columns or a list of rows"),
        ("text", TypeError, "the table samples has type str"),
        ([1, 2], TypeError, r"row 0 of the table samples has type int: give a dict for each row"),
        ([{"a": 1}, [1]], TypeError, "row 1 of the table samples has type list"),
        ({"a": "text"}, TypeError, "the column a of the table samples has type str: give a list"),
        ({"a": 1}, TypeError, "the column a of the table samples has type int"),
        ({"a": [1], "b": [1, 2]}, ValueError, "columns of several lengths: a has 1, b has 2"),
        ({"a": jnp.zeros(2)}, TypeError, r"has a jax\.Array.*jax\.device_get\(table\)"),
        ([{"a": jnp.zeros(())}], TypeError, r"has a jax\.Array"),
        ({"a": ["x" * 1_000_000] * 2}, ValueError, "samples has 20000.. bytes, and an entry holds 1048576"),
    ],
)
def test_an_invalid_table_is_refused(table, error, message):
    """At the call."""
    memory = MemoryWriter()
    with sowlog.Logger("unused", writers=[memory]) as log, pytest.raises(error, match=message):
        log.table(0, "samples", table)
    assert memory.records == []


def test_a_table_is_a_text_with_a_tag():
    """One tag holds tables and other texts, and no metric; `every` holds."""
    memory = MemoryWriter()
    with sowlog.Logger("unused", writers=[memory], every=2) as log:
        with pytest.raises(ValueError, match=r"the table has the tag '': give it a name, log\.table\("):
            log.table(0, "", {"a": [1]})
        log(0, {"loss": 1.0})
        with pytest.raises(ValueError, match="loss is logged as text and was a metric before"):
            log.table(0, "loss", {"a": [1]})
        log.text(0, "samples", "none yet")
        for step in (1, 2):
            log.table(step, "samples", {"a": [step]})
    assert [dict(record.texts) for record in memory.records if record.texts] == [
        {"samples": "none yet"},
        {"samples": "| a |\n| --- |\n| 2 |"},
    ]


def test_a_later_change_of_the_table_changes_nothing(tmp_path):
    """The call reads the table."""
    column = np.array([1, 2])
    memory = MemoryWriter()
    with sowlog.Logger("unused", writers=[memory]) as log:
        log.table(0, "t", {"a": column})
        column[:] = 9
    assert memory.records[0].texts["t"].endswith("| 1 |\n| 2 |")
