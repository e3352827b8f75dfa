"""The documents are true: the README's examples run, the table of transforms is the tests'."""

import re
from pathlib import Path

from tests.tensorboard_reading import tensorboard_scalars
from tests.transform_table import ARCHITECTURE, make_table, table_in

README = Path(__file__).parents[1] / "README.md"


def test_the_examples_run_in_order_and_log_what_the_text_says(tmp_path, monkeypatch):
    """Every Python block runs, one after the other, and TensorBoard reads the tags that the text names."""
    monkeypatch.chdir(tmp_path)
    text = README.read_text()
    namespace: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "README.md", "exec"), namespace)
    series = tensorboard_scalars(tmp_path / "runs" / "demo")
    named = re.search(r"then shows (.*?), one point per step", text, re.DOTALL)
    assert named
    assert set(series) == set(re.findall(r"`([^`]+)`", named.group(1)))
    assert all(points.steps == list(range(100)) for points in series.values())


def test_the_readme_is_short():
    """The one-minute story fits 150 lines."""
    assert len(README.read_text().splitlines()) <= 150


def test_the_table_of_transforms_is_that_of_the_tests():
    """What ARCHITECTURE.md says is what the tests prove; `python -m tests.transform_table` writes it."""
    assert table_in(ARCHITECTURE.read_text()) == make_table()
