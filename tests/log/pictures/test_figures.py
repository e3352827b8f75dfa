import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

import sowlog
from sowlog.testing import MemoryWriter
from tests.support.odd_writers import GatedWriter
from tests.support.tensorboard_reading import tensorboard_images


def filled(colour, *, size=(2, 1), dpi=10):
    """Return a figure of one colour."""
    return Figure(figsize=size, dpi=dpi, facecolor=colour)


def test_tensorboard_shows_the_pixels(tmp_path):
    """Of the figure's own size and colour."""
    with sowlog.Logger(tmp_path) as log:
        log.figure(3, "fit", filled("red"))
    ((place, pixels),) = tensorboard_images(tmp_path).items()
    assert place == ("fit", 3)
    assert pixels.shape == (10, 20, 4)
    np.testing.assert_array_equal(pixels, np.broadcast_to([255, 0, 0, 255], pixels.shape))


def test_a_later_change_of_the_figure_changes_nothing():
    """The call draws, and the writer may still hang."""
    gate = GatedWriter()
    figure = filled("red")
    with sowlog.Logger("unused", writers=[gate]) as log:
        for step, colour in enumerate(("red", "lime")):
            figure.set_facecolor(colour)
            log.figure(step, "fit", figure)
        figure.set_facecolor("blue")
        assert gate.records == []
        gate.open.set()
    assert [record.images["fit"][0, 0].tolist() for record in gate.records] == [
        [255, 0, 0, 255],
        [0, 255, 0, 255],
    ]


def test_a_figure_keeps_its_canvas():
    """A window of pyplot's or a notebook's stays that of the figure, also if drawing fails."""
    figure = filled("red")
    canvas = figure.canvas
    with sowlog.Logger("unused", writers=[]) as log:
        log.figure(0, "fit", figure)
        assert figure.canvas is canvas
        figure.text(0, 0, "$\\broken{$")
        with pytest.raises(ValueError, match="broken"):
            log.figure(1, "fit", figure)
    assert figure.canvas is canvas


def test_every_holds_for_figures():
    """A figure of another step is checked and not drawn."""
    memory, drawn = MemoryWriter(), []
    figure = filled("red")
    figure.text(0, 0, "").draw = drawn.append
    with sowlog.Logger("unused", writers=[memory], every=2) as log:
        for step in range(4):
            log.figure(step, "fit", figure)
        with pytest.raises(TypeError, match="the figure fit has type int"):
            log.figure(1, "fit", 1)
    assert [record.step for record in memory.records] == [0, 2]
    assert len(drawn) == 2


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        (np.zeros((2, 2)), r"the figure fit has type ndarray.*log\.image"),
        (
            filled("red").subplots(),
            r"the figure fit has type Axes: give a Figure of Matplotlib, of axes axes\.figure",
        ),
        (filled("red").subfigures(), "the figure fit has type SubFigure"),
        (None, "the figure fit has type NoneType"),
    ],
)
def test_an_invalid_figure_is_refused(figure, message):
    """At the call."""
    with sowlog.Logger("unused", writers=[]) as log, pytest.raises(TypeError, match=message):
        log.figure(0, "fit", figure)


def test_a_figure_needs_a_tag_of_images():
    """A figure is an image, and no metric."""
    with sowlog.Logger("unused", writers=[]) as log:
        with pytest.raises(ValueError, match=r"the figure has the tag '': give it a name, log\.figure\("):
            log.figure(0, "", filled("red"))
        log.figure(0, "fit", filled("red"))
        log.image(1, "fit", np.zeros((2, 2)))
        with pytest.raises(ValueError, match="fit is logged as a metric and was an image before"):
            log(2, {"fit": 1.0})


def test_without_matplotlib_the_first_figure_names_the_package(monkeypatch):
    """The rest of the logger works without Matplotlib."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with sowlog.Logger("unused", writers=[]) as log:
        log(0, {"x": 1.0})
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'sowlog\[figures\]'"):
            log.figure(0, "fit", object())
