"""The recipes of the guide run as they stand, and log the tags of their text."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from tests.support.tensorboard_reading import tensorboard_scalars
from tests.support.wandb_reading import runs_of

pytestmark = pytest.mark.usefixtures("light_compilation")

GUIDE = Path(__file__).parent
RECIPES = [path.stem for path in sorted(GUIDE.glob("[a-z]*.md"))]


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch, tmp_path):
    """Run a recipe in an empty folder, without a login of this machine."""
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def run(recipe: str) -> str:
    """Run the one program of a recipe in an empty namespace, and return the recipe's text."""
    text = (GUIDE / f"{recipe}.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(program, f"{recipe}.md", "exec"), {"__name__": "recipe"})
    return text


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_logs_the_tags_of_its_last_line(recipe, tmp_path):
    """TensorBoard reads exactly the tags that the text names, each with a point at every step."""
    text = run(recipe)
    series = tensorboard_scalars(tmp_path / "runs" / recipe)
    assert set(series) == set(re.findall(r"`([^`]+)`", text.rpartition("\nTags: ")[2]))
    last = max(points.steps[-1] for points in series.values())
    assert all(points.steps == list(range(last + 1)) for points in series.values())


def test_the_recipe_of_wandb_writes_every_tenth_step_there(tmp_path):
    """Its offline run has the steps of its cadence, and TensorBoard's the others as well."""
    run("wandb_and_tensorboard")
    # W&B's process writes the end of the file when it ends.
    sys.modules["wandb"].teardown()
    (offline,) = runs_of(tmp_path / "runs" / "wandb_and_tensorboard")
    assert [row["global_step"] for row in offline["rows"]] == [0, 10]


@pytest.mark.parametrize("recipe", ["own_reducer", "resume"])
def test_a_recipe_that_reads_its_run_runs_again(recipe):
    """As a cell of a notebook does: the steps of the first run are superseded."""
    run(recipe)
    run(recipe)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_in_a_file_of_its_name_hides_no_package(recipe):
    """A program named wandb.py would import itself."""
    assert importlib.util.find_spec(recipe) is None


def test_the_guide_lists_its_recipes():
    """Its table links to each file, and says no other number of them."""
    text = (GUIDE / "README.md").read_text()
    assert sorted(re.findall(r"\((\w+)\.md\)", text)) == RECIPES
    assert text.splitlines()[2].startswith("Eleven recipes.")
    assert len(RECIPES) == 11
