"""The part of a logger beside metrics: images, texts, tables and figures."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import jax
from numpy.typing import NDArray

from sowlog._events.png import require_encoder
from sowlog._log.calls import Calls
from sowlog._log.item import Item
from sowlog._log.pictures.figures import check_figure, draw
from sowlog._log.pictures.images import check_image
from sowlog._log.tables import check_table
from sowlog._log.texts import Text, check_text
from sowlog.writers._arguments import check_step


class Media(Calls):
    """Queues images, texts, tables and figures."""

    def image(self, step: int, tag: str, image: jax.Array | NDArray[Any]) -> None:
        """Log an image, or a batch of images, of one step.

        The call starts the copy off the device, queues it and returns; the writer thread encodes the image as
        PNG, with Pillow: `pip install 'sowlog[images]'`. The queue holds images and texts of 32 MiB, or
        those of one call; beyond that `on_full` applies.

        Args:
            step: the step, as for `log` and under the same `every`.
            tag: the tag; the tags of a batch are `tag/00`, `tag/01` ...
            image: shape [H, W], [H, W, C] or, as a batch, [N, H, W, C], where C is 1 (grey), 3 (RGB) or
                4 (RGB and opacity). uint8, bool, or floating-point numbers, which are clipped to 0 and 1. A
                device array must not be donated afterwards.

        Raises:
            ModuleNotFoundError: Pillow is not installed.
            ValueError: The image has another shape, no tag, or that of a value of another kind.
            TypeError: The image is not an array, or has another dtype.
            Exception: As for `log`.

        Example:
            >>> import tempfile, jax.numpy as jnp, sowlog
            >>> with sowlog.Logger(tempfile.mkdtemp()) as log:
            ...     log.image(0, "ramp", jnp.linspace(0, 1, 64).reshape(8, 8))
            ...     log.image(0, "samples", jnp.zeros((4, 8, 8, 3)))
        """
        wall_time = time.time()
        require_encoder()
        step = check_step(step)
        pixels = check_image(tag, image)
        if self._admit(step, "an image", pixels.tags):
            self._queue(Item(step, wall_time, picture=pixels))

    def text(self, step: int, tag: str, markdown: str) -> None:
        """Log a text of one step, for TensorBoard's Text tab: a sample, an answer, the configuration.

        The tab shows Markdown as HTML, of which scripts and styles are removed; a block of code, between
        lines of three backticks, keeps its spaces. The tab shows 10 entries of a tag: the last, and a sample
        of the others (`tensorboard --samples_per_plugin text=1000` shows more). The queue holds images and
        texts of 32 MiB; beyond that `on_full` applies.

        Args:
            step: the step, as for `log` and under the same `every`.
            tag: the tag.
            markdown: the text, of up to 1 MiB. TensorBoard converts it at each view, 100 kB of markup in a
                second and 1 MB in half a minute.

        Raises:
            TypeError: The text is not a str.
            ValueError: The text is too long, has no tag, or that of a value of another kind.
            Exception: As for `log`.

        Example:
            >>> import tempfile, sowlog
            >>> with sowlog.Logger(tempfile.mkdtemp()) as log:
            ...     log.text(0, "samples/prompt", "**To be**, or not")
        """
        self._log_text(step, check_text(tag, markdown))

    def table(
        self, step: int, tag: str, table: Mapping[str, Iterable[Any]] | Iterable[Mapping[str, Any]]
    ) -> None:
        """Log a table of one step, for TensorBoard's Text tab.

        The tab shows the cells as they are: floating-point numbers with six digits, None as an empty cell,
        other values by their `str`, and no Markdown in them. The bounds are those of `text`.

        Args:
            step: the step, as for `log` and under the same `every`.
            tag: the tag.
            table: columns by name, as in a dict of lists or a data frame, or rows, each a dict. A name that a
                row lacks is an empty cell.

        Raises:
            TypeError: The table has another form, or an array on a device.
            ValueError: The table has no columns, columns of several lengths, no tag, that of a value of
                another kind, or more than 1 MiB.
            Exception: As for `log`.

        Example:
            >>> import tempfile, sowlog
            >>> with sowlog.Logger(tempfile.mkdtemp()) as log:
            ...     log.table(0, "samples", {"prompt": ["2 + 2", "2 * 3"], "answer": [4, 5]})
            ...     log.table(0, "worst", [{"name": "a.png", "loss": 2.5}, {"name": "b.png"}])
        """
        self._log_text(step, check_table(tag, table))

    def _log_text(self, step: int, text: Text) -> None:
        wall_time = time.time()
        step = check_step(step)
        if self._admit(step, "text", (text.tag,)):
            self._queue(Item(step, wall_time, text=text))

    def figure(self, step: int, tag: str, figure: Any) -> None:
        """Log a figure of Matplotlib as an image of one step.

        The call draws the figure as it is, in some hundredths of a second, so that it may be changed or
        closed afterwards: `plt.close(figure)` frees one that pyplot made. The writer thread encodes the
        pixels as PNG. Matplotlib: `pip install 'sowlog[figures]'`. The bounds are those of `image`.

        Args:
            step: the step, as for `log` and under the same `every`; a figure of another step is not drawn.
            tag: the tag.
            figure: a `matplotlib.figure.Figure`, with any backend.

        Raises:
            ModuleNotFoundError: Matplotlib is not installed.
            TypeError: The figure is none of Matplotlib's.
            ValueError: The figure has no tag, or that of a value of another kind.
            Exception: As for `log`.

        Example:
            >>> import tempfile, sowlog
            >>> from matplotlib.figure import Figure
            >>> figure = Figure(figsize=(4, 3), dpi=100)
            >>> line, = figure.subplots().plot([0, 1, 2], [4.0, 1.0, 0.5])
            >>> with sowlog.Logger(tempfile.mkdtemp()) as log:
            ...     log.figure(0, "fit", figure)
        """
        wall_time = time.time()
        step = check_step(step)
        name = check_figure(tag, figure)
        if self._admit(step, "an image", (name,)):
            self._queue(Item(step, wall_time, picture=draw(name, figure)))
