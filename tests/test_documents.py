"""The documents are true: the README's examples run, the table of transforms is the tests'."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from sowlog._cli.arguments import make_parser
from tests.support.generated import ARCHITECTURE, part_of
from tests.support.tensorboard_reading import tensorboard_scalars
from tests.support.transform_table import COMMAND, make_table

pytestmark = pytest.mark.usefixtures("light_compilation")

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def test_the_examples_run_in_order_and_log_the_tags_of_the_text(tmp_path, monkeypatch):
    """Every Python block runs as pasted, without other names, and TensorBoard reads the tags of the text."""
    monkeypatch.chdir(tmp_path)
    text = README.read_text()
    namespace: dict[str, object] = {"__name__": "readme"}
    for block in _blocks(text):
        exec(compile(block, "README.md", "exec"), namespace)
    series = tensorboard_scalars(tmp_path / "runs" / "demo")
    named = re.search(r"then shows (.*?), one point per step", text, re.DOTALL)
    assert named
    assert set(series) == set(re.findall(r"`([^`]+)`", named.group(1)))
    assert all(points.steps == list(range(100)) for points in series.values())


def _blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.long
def test_the_task_of_the_readme_trains_on_data_of_ones_own(tmp_path):
    """Model and task in one file, data and a sweep, as a newcomer writes them in a folder of their own."""
    model, *_, task = _blocks(README.read_text())
    (tmp_path / "mine.py").write_text(model.partition("model = ")[0] + task)
    (tmp_path / "mydata.py").write_text(
        "import numpy as np\n"
        "def load(size):\n"
        "    return {'image': np.ones((size, 8, 8, 1), np.float32), 'label': np.arange(size) % 10}\n"
    )
    settings = ["task.name=mine:Mine", "data.name=mydata:load", "data.arguments.size=100"]
    config = str(ROOT / "configs" / "digits.yaml")
    command = [sys.executable, "-m", "train", config, *settings, "data.batch_size=8", "steps=3"]
    command += ["--sweep", "task.weight=1e-2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--workdir", "runs"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "eval/accuracy" in done.stdout
    series = tensorboard_scalars(tmp_path / "runs" / "task.weight=0.01")
    activity = [np.float32(0.01) * value for value in series["losses/activity"].values]
    assert series["losses/activity/weighted"].values == pytest.approx(activity, rel=1e-6)
    assert series["losses/activity"].steps == [0, 1, 2]


def test_the_command_that_draws_the_curves_is_one_of_the_parsers():
    """The configuration of the default experiment names it, with the picture that the README links to."""
    lines = (ROOT / "configs" / "moe_lm.yaml").read_text().splitlines()
    comment = " ".join(line.lstrip("# ").removesuffix("\\") for line in lines if line.startswith("#"))
    command = shlex.split(comment[comment.index("sowlog plot") :])
    options = make_parser().parse_args(command[1:])
    assert f"({options.output})" in README.read_text()
    assert (options.steps[0], len(options.tag)) == (1, 4)


def test_every_extra_that_a_text_names_exists():
    """In the documents, in docstrings, and in the errors of missing packages."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    sowlog, others = (
        "".join(path.read_text() for glob in globs for path in ROOT.glob(glob))
        for globs in (["sowlog/**/*.py"], ["*.md", "tests/guide/*.md", "train/**/*.py"])
    )
    named = set(re.findall(r'\bextra="([a-z]+)"', sowlog))
    for several in re.findall(r"(?:sowlog|'\.)\[([a-z,]+)\]", sowlog + others):
        named |= set(several.split(","))
    assert named >= {"images", "submit", "tensorboard", "wandb"}
    assert named <= set(extras)


def test_the_readme_is_short():
    """The one-minute story fits 150 lines."""
    assert len(README.read_text().splitlines()) <= 150


def test_the_table_of_transforms_is_that_of_the_tests():
    """The table of ARCHITECTURE.md equals that of the tests; tests/support/transform_table.py writes it."""
    assert part_of(ARCHITECTURE.read_text(), COMMAND) == make_table()
