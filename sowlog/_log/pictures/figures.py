"""Figures: drawn by Matplotlib, an optional dependency, on the training thread."""

from __future__ import annotations

from typing import Any

import numpy as np

from sowlog._extras import import_extra
from sowlog._log.pictures.images import Pixels
from sowlog._log.texts import check_tag


def check_figure(tag: object, figure: Any) -> str:
    """Return the tag of a valid figure.

    Raises:
        ModuleNotFoundError: Matplotlib is not installed.
        TypeError: The figure is none of Matplotlib's.
        ValueError: The figure has no tag.
    """
    tag = check_tag("figure", tag, "log.figure(step, 'fit', figure)")
    if not isinstance(figure, _matplotlib("figure").Figure):
        raise TypeError(
            f"the figure {tag} has type {type(figure).__name__}: give a Figure of Matplotlib, of axes "
            f"axes.figure; log an array of pixels by log.image."
        )
    return tag


def draw(tag: str, figure: Any) -> Pixels:
    """Return a figure as pixels, drawn as it is now; it keeps its canvas and its window."""
    shown = figure.canvas
    try:
        # A canvas sets itself as that of its figure. Its pixels are its own, so they are not copied.
        canvas = _matplotlib("backends.backend_agg").FigureCanvasAgg(figure)
        canvas.draw()
        return Pixels(tag, np.asarray(canvas.buffer_rgba()))
    finally:
        figure.set_canvas(shown)


def _matplotlib(name: str) -> Any:
    """Import a module of Matplotlib where it is first used, which takes a second."""
    return import_extra(f"matplotlib.{name}", "log.figure draws with Matplotlib", extra="figures")
