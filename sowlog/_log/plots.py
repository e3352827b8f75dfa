"""The part of a logger that draws: grids of images, confusion matrices, precision-recall curves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import jax
from numpy.typing import NDArray

from sowlog._events.png import require_encoder
from sowlog._log.calls import Calls
from sowlog._log.item import Item
from sowlog._log.pictures.confusion import check_confusion
from sowlog._log.pictures.curves import check_counts, check_curve
from sowlog._log.pictures.grids import check_grid
from sowlog.writers._arguments import check_step


class Plots(Calls):
    """Queues arrays of which the writer thread draws pictures or computes curves."""

    def grid(
        self,
        step: int,
        tag: str,
        images: jax.Array | NDArray[Any],
        *,
        columns: int | None = None,
        labels: Sequence[str | float | None] | jax.Array | NDArray[Any] | None = None,
        gap: int = 2,
        scale: int | None = None,
    ) -> None:
        """Log many images as one picture of a step, in rows with gaps between them.

        The writer thread waits for the device and draws the picture. Labels are in a font of fixed size, 6
        pixels a character, and are cut to the width of a tile; characters beyond Latin-1 are drawn as "?".
        The bounds are those of `image`. A device array must not be donated afterwards.

        Args:
            step: the step, as for `log` and under the same `every`.
            tag: the tag.
            images: shape [N, H, W, C], with dtypes and channels as for `image`; or [R, N, H, W, C], R rows of
                N images, as of originals over reconstructions. The picture has up to 2^23 pixels, which are
                1800 tiles of the default size.
            columns: the number of images in a row; by default those of a square.
            labels: one text or number above each image, in the order of the rows: a list, or an array on the
                host or the device. None is no label.
            gap: pixels between two images.
            scale: the integer by which images are enlarged, each pixel to a square. By default the least one
                that makes the longer side 64 pixels or more.

        Raises:
            ModuleNotFoundError: Pillow is not installed.
            TypeError: The images are not an array, or have another dtype; or so have the labels.
            ValueError: The images have another shape, or another number than the labels; the picture is too
                large, has no tag, or that of a value of another kind.
            Exception: As for `log`.

        Example:
            >>> import tempfile, jax.numpy as jnp, sowlog
            >>> images, restored = jnp.zeros((8, 8, 8, 1)), jnp.ones((8, 8, 8, 1))
            >>> with sowlog.Logger(tempfile.mkdtemp()) as log:
            ...     log.grid(0, "digits", images, columns=4, labels=jnp.arange(8))
            ...     log.grid(0, "reconstructions", jnp.stack([images, restored]))
        """
        wall_time = time.time()
        require_encoder()
        step = check_step(step)
        grid = check_grid(tag, images, columns=columns, labels=labels, gap=gap, scale=scale)
        if self._admit(step, "an image", grid.tags):
            self._queue(Item(step, wall_time, picture=grid))

    def confusion(
        self,
        step: int,
        tag: str,
        matrix: jax.Array | NDArray[Any],
        *,
        classes: Sequence[str | float] | NDArray[Any] | None = None,
    ) -> None:
        """Log a confusion matrix of one step as a picture.

        The colour of a cell is the share of its count in its row, the examples of one true class, from dark
        (0) to yellow (all). Up to 30 classes the cells show their counts, and up to 80 the classes are named.
        A row without examples is grey, and so is a cell that is negative or not finite, which does not count
        in its row. The writer thread waits for the device and draws; the bounds are those of `image`. A
        device array must not be donated afterwards.

        Args:
            step: the step, as for `log` and under the same `every`.
            tag: the tag.
            matrix: real numbers of shape [K, K], up to 1024 classes: how often examples of the class of the
                row were predicted to be of the class of the column. Of several batches it is the sum.
            classes: the names of the classes, cut to 16 characters of Latin-1; by default 0 to K - 1.

        Raises:
            ModuleNotFoundError: Pillow is not installed.
            TypeError: The matrix is no array of real numbers, or the classes are no list of texts.
            ValueError: The matrix has another shape, or too many classes; another number of classes is
                named; or it has no tag, or that of a value of another kind.
            Exception: As for `log`.

        Example:
            >>> import tempfile, jax, jax.numpy as jnp, sowlog
            >>> labels, predicted = jnp.array([0, 0, 1, 1]), jnp.array([0, 1, 1, 1])
            >>> matrix = jnp.zeros((2, 2), jnp.int32).at[labels, predicted].add(1)
            >>> with sowlog.Logger(tempfile.mkdtemp()) as log:
            ...     log.confusion(0, "eval/confusion", matrix, classes=["cat", "dog"])
        """
        wall_time = time.time()
        require_encoder()
        step = check_step(step)
        confusion = check_confusion(tag, matrix, classes)
        if self._admit(step, "an image", confusion.tags):
            self._queue(Item(step, wall_time, picture=confusion))

    def pr_curve(
        self,
        step: int,
        tag: str,
        labels: jax.Array | NDArray[Any],
        scores: jax.Array | NDArray[Any],
        *,
        weights: jax.Array | NDArray[Any] | None = None,
        thresholds: int = 127,
    ) -> None:
        """Log the precision-recall curve of a binary classifier, for TensorBoard's PR Curves tab.

        The writer thread waits for the device and computes the curve. At a threshold the examples of this
        score or a higher one are predicted to be positive. Of several batches, log all labels and scores in
        one call, or the sum of their counts by `pr_counts`. The queue holds arrays of 32 MiB, or those of one
        call; beyond that `on_full` applies. A device array must not be donated afterwards.

        Args:
            step: the step, as for `log` and under the same `every`.
            tag: the tag.
            labels: bools or integers of any shape; an example is positive if its label is above 0.
            scores: the probabilities of the positive class, floating-point numbers of the shape of the
                labels. They are clipped to 0 and 1, and NaN is 0.
            weights: real numbers of the same shape, such as a mask, by which examples are counted; by
                default each counts once. A weight that is negative or not finite is 0. TensorBoard shows
                counts without their fractions, so weights that are all below 1 are scaled to a largest of 1.
            thresholds: the number of thresholds, 2 to 1024, at equal distances from 0 to 1.

        Raises:
            TypeError: Labels, scores or weights are no arrays, or have another dtype.
            ValueError: Their shapes differ, or they are empty; the number of thresholds is out of range; or
                the curve has no tag, or that of a value of another kind.
            Exception: As for `log`.

        Example:
            >>> import tempfile, jax, jax.numpy as jnp, sowlog
            >>> labels, logits = jnp.array([0, 0, 1, 1]), jnp.array([-2.0, 0.5, 0.25, 3.0])
            >>> with sowlog.Logger(tempfile.mkdtemp()) as log:
            ...     log.pr_curve(0, "eval/pr", labels, jax.nn.sigmoid(logits))
        """
        wall_time = time.time()
        step = check_step(step)
        curve = check_curve(tag, labels, scores, weights, thresholds)
        if self._admit(step, "a PR curve", (curve.tag,)):
            self._queue(Item(step, wall_time, curve=curve))

    def pr_counts(self, step: int, tag: str, counts: jax.Array | NDArray[Any]) -> None:
        """Log the precision-recall curve of counted examples, for TensorBoard's PR Curves tab.

        It is the curve that `pr_curve` would log of all examples, which need not be kept: `sowlog.pr_counts`
        counts those of a batch on the device, and the counts of batches add up.

        Args:
            step: the step, as for `log` and under the same `every`.
            tag: the tag.
            counts: real numbers of shape [2, thresholds], the sum of `sowlog.pr_counts` over batches. A count
                that is negative or not finite is 0; counts that are all below 1 are scaled to a largest of 1.
                A device array must not be donated afterwards.

        Raises:
            TypeError: The counts are no array, or have another dtype.
            ValueError: They have another shape; or the curve has no tag, or that of a value of another kind.
            Exception: As for `log`.

        Example:
            >>> import tempfile, jax, jax.numpy as jnp, sowlog
            >>> evaluate = jax.jit(lambda *batch: sowlog.sum(axis=()).of(sowlog.pr_counts(*batch)))
            >>> one = evaluate(jnp.array([0, 1, 1]), jnp.array([0.25, 0.5, 1.0]))
            >>> both = sowlog.merge(one, evaluate(jnp.array([1, 0, 0]), jnp.array([0.75, 0.5, 0.0])))
            >>> with sowlog.Logger(tempfile.mkdtemp()) as log:
            ...     log.pr_counts(0, "eval/pr", both.compute())
        """
        wall_time = time.time()
        step = check_step(step)
        curve = check_counts(tag, counts)
        if self._admit(step, "a PR curve", (curve.tag,)):
            self._queue(Item(step, wall_time, curve=curve))
