"""The tabs of TensorBoard on a run, in a headless Chromium.

`make screenshot` renews the picture in the README, of 120 steps of the default experiment.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from selenium import webdriver
from selenium.webdriver.support.wait import WebDriverWait

import sowlog
from tests.support.tensorboard_reading import tensorboard_images
from tests.train.running import TINY_MOE
from train import __main__ as program

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
SCREENSHOT = os.environ.get("SOWLOG_SCREENSHOT")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium"),
    pytest.mark.skipif(DRIVER is None, reason="there is no chromedriver (Debian: chromium-driver)"),
    pytest.mark.usefixtures("light_compilation"),
]
# Width and height of each picture that is loaded.
PICTURES = """
const images = node => [node.shadowRoot, ...node.childNodes].filter(Boolean).flatMap(
    child => child.nodeName == "IMG" ? [child] : images(child));
return images(document.body).map(image => [image.naturalWidth, image.naturalHeight]);
"""
# The tabs are made of components whose text is in shadow roots.
TEXT = """
const text = node => [node.shadowRoot, ...node.childNodes].filter(Boolean).map(
    child => child.nodeType == Node.TEXT_NODE ? child.data : text(child)).join(" ");
return text(document.body).replace(/\\s+/g, " ");
"""


@contextlib.contextmanager
def tensorboard(logdir: Path) -> Iterator[str]:
    """Serve a folder of runs on loopback, at the yielded address."""
    options = ["--logdir", logdir.name, "--port", "0", "--host", "127.0.0.1"]
    with subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", *options],
        cwd=logdir.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            said = iter(server.stderr or ())
            yield next(found.group() for line in said if (found := re.search(r"http://[\d.:]+", line)))
        finally:
            server.terminate()


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Run a browser without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,900"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run of the default experiment, and one of a logger with all that it logs."""
    folder = tmp_path_factory.mktemp("served") / "runs"
    settings = ["steps=120", "eval.every=20"] if SCREENSHOT else TINY_MOE
    assert program.main(["configs/moe_lm.yaml", *settings, "--workdir", str(folder / "default")]) == 0
    if not SCREENSHOT:
        with sowlog.Logger(folder / "logged") as log:
            log(0, {"weights": sowlog.histogram.of(jnp.linspace(-1.0, 1.0, 100)), "answer": 41.5})
            log.image(0, "ramp", jnp.linspace(0, 1, 64).reshape(8, 8))
            log.table(0, "words", {"word": ["zebra"], "count": [12]})
            log.grid(0, "drawn/tiles", jnp.zeros((2, 8, 8, 1)), labels=["left", "right"])
            log.confusion(0, "drawn/mistakes", jnp.eye(3), classes=["cat", "dog", "cow"])
            labels, scores = jnp.array([0, 0, 1, 1]), jnp.array([0.125, 0.5, 0.375, 0.875])
            for step in (3, 17):
                log.pr_curve(step, "finder", labels, scores)
                log.pr_counts(step, "counted", sowlog.pr_counts(labels, scores))
    return folder


@pytest.fixture(scope="module")
def shown(runs: Path) -> Iterator[Callable[..., str]]:
    """Yield the function that opens a tab, waits for texts and for the end of one, and returns its text.

    It waits for a text as often as it is given, and for pictures of a width and a height.
    """
    with tensorboard(runs) as address, chromium() as driver:

        def open_tab(
            tab: str, *texts: str, without: str = "\0", pictures: Collection[tuple[int, int]] = ()
        ) -> str:
            driver.get("about:blank")
            driver.get(f"{address}/?darkMode=false#{tab}")

            def has_all(_: Any) -> Any:
                page = driver.execute_script(TEXT)
                has_texts = all(page.count(text) >= texts.count(text) for text in texts)
                loaded = set(map(tuple, driver.execute_script(PICTURES))) if pictures else set()
                is_shown = has_texts and without not in page and loaded.issuperset(pictures)
                return page if is_shown else None

            try:
                return WebDriverWait(driver, 60).until(has_all)
            except Exception as error:
                error.add_note(f"wanted {texts}, and {tab} shows: {driver.execute_script(TEXT)}")
                raise
            finally:
                if SCREENSHOT and tab == "custom_scalars":
                    driver.save_screenshot(SCREENSHOT)

        yield open_tab


def last(runs: Path, tag: str) -> str:
    """Return the last value of a tag with the digits that the tab shows."""
    return f"{sowlog.read(runs / 'default').scalars[tag].values[-1]:.5g}"


@pytest.mark.skipif(bool(SCREENSHOT), reason="only the picture is renewed")
def test_time_series_show_the_last_values(runs: Path, shown: Callable[..., str]) -> None:
    """Of a scalar beside its run and step; a histogram and an image have cards."""
    page = shown("timeseries", "bits_per_byte", last(runs, "bits_per_byte"), "answer", "41.5")
    assert re.search(rf"default [\d.]+ {re.escape(last(runs, 'bits_per_byte'))} 6 ", page), page
    assert "weights" in page
    assert "ramp" in page


def test_charts_hold_training_and_held_out_data(shown: Callable[..., str]) -> None:
    """Without a click: the loss above the fold, and each chart with all its tags."""
    page = shown(
        "custom_scalars", "training and held-out", "raw and weighted", "Matches (2)", without="Matches (0)"
    )
    assert page.index("training and held-out") < page.index("losses")


@pytest.mark.skipif(bool(SCREENSHOT), reason="only the picture is renewed")
def test_images_have_grids_and_confusion_matrices(runs: Path, shown: Callable[..., str]) -> None:
    """Each as one picture of the size that was drawn."""
    drawn = {tag: pixels.shape[1::-1] for (tag, _), pixels in tensorboard_images(runs / "logged").items()}
    assert drawn["drawn/tiles"] == (130, 75)
    shown("images", pictures=[drawn["drawn/tiles"], drawn["drawn/mistakes"]])


@pytest.mark.skipif(bool(SCREENSHOT), reason="only the picture is renewed")
def test_pr_curves_are_drawn_at_their_last_step(shown: Callable[..., str]) -> None:
    """Of labels and scores, and of counts."""
    shown("pr_curves", "finder", "counted", *["logged is at step 17"] * 2)


@pytest.mark.skipif(bool(SCREENSHOT), reason="only the picture is renewed")
def test_text_has_the_configuration_and_tables(shown: Callable[..., str]) -> None:
    """As they were written, with the versions."""
    page = shown("text", "name: moe_lm", "zebra")
    assert f"jax {__import__('jax').__version__}" in page
    assert "expert_width: 8" in page


@pytest.mark.skipif(bool(SCREENSHOT), reason="only the picture is renewed")
def test_hparams_have_the_settings_of_the_run(shown: Callable[..., str]) -> None:
    """A row for the run, with its settings."""
    page = shown("hparams", "task.experts", "default")
    assert "optimizer.learning_rate" in page
