"""The interface of clu's metric writers, over a logger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import jax
import numpy as np
from numpy.typing import NDArray

from sowlog._log.logger import Logger
from sowlog._reduce.distributions import histogram
from sowlog.writers._warnings import LossWarning, warn_user

Array = jax.Array | NDArray[Any]


@final
class MetricWriter:
    """The methods of clu's `MetricWriter` over a logger: a program that writes by clu changes one line.

    The line `writer = metric_writers.create_default_writer(logdir)` becomes
    `writer = sowlog.adapters.MetricWriter(sowlog.Logger(logdir))`. Device arrays are not read on the training
    thread, so no asynchronous writer is needed around it. A logger has no audio, videos or summaries of
    TensorFlow, so the first call of `write_audios`, `write_videos` and `write_summaries` issues a
    LossWarning, as a writer of clu does that lacks a kind.

    Args:
        logger: the logger, which `close` closes.

    Attributes:
        logger: the same logger, for all that clu's interface lacks.

    Example:
        >>> import tempfile, numpy as np, sowlog
        >>> logdir = tempfile.mkdtemp()
        >>> writer = sowlog.adapters.MetricWriter(sowlog.Logger(logdir))
        >>> writer.write_hparams({"learning_rate": 0.1})
        >>> writer.write_scalars(7, {"train/loss": 0.5})
        >>> writer.write_histograms(7, {"weights": np.ones(10)})
        >>> writer.close()
        >>> sowlog.read(logdir).scalars["train/loss"].values
        array([0.5], dtype=float32)
    """

    def __init__(self, logger: Logger) -> None:
        self.logger = logger
        self._warned = set[str]()

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Log numbers, or arrays with one element, by tag.

        Raises:
            ValueError: An array has several elements.
            Exception: As for `Logger`.
        """
        for tag, value in scalars.items():
            if np.size(value) != 1:
                raise ValueError(
                    f"the scalar {tag} has shape {np.shape(value)}: write one number, such as its mean, or "
                    "use write_histograms."
                )
        self.logger(step, {tag: _without_axes(value) for tag, value in scalars.items()})

    def write_images(self, step: int, images: Mapping[str, Array]) -> None:
        """Log images by tag, as `Logger.image` does: shape [H, W, C], or [N, H, W, C] for N images.

        The tags of N images are `tag/00`, `tag/01` ...; a batch of one image keeps its tag.
        """
        for tag, image in images.items():
            self.logger.image(step, tag, image[0] if np.ndim(image) == 4 and len(image) == 1 else image)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Log texts in Markdown by tag, as `Logger.text` does."""
        for tag, text in texts.items():
            self.logger.text(step, tag, text)

    def write_histograms(
        self, step: int, arrays: Mapping[str, Array], num_buckets: Mapping[str, int] | None = None
    ) -> None:
        """Log the histograms of arrays by tag, counted on the device.

        Args:
            step: the step.
            arrays: arrays of real numbers by tag.
            num_buckets: unused, since `sowlog.histogram` has buckets of a fixed relative width.
        """
        del num_buckets
        self.logger(step, {tag: histogram.of(array) for tag, array in arrays.items()})

    def write_videos(self, step: int, videos: Mapping[str, Array]) -> None:
        """Warn once that videos are not written: a logger has none."""
        self._warn("write_videos", "videos", step, videos)

    def write_audios(self, step: int, audios: Mapping[str, Array], *, sample_rate: int) -> None:
        """Warn once that audio is not written: a logger has none."""
        del sample_rate
        self._warn("write_audios", "audio", step, audios)

    def write_summaries(
        self, step: int, values: Mapping[str, Array], metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Warn once that summaries of TensorFlow are not written: a logger has none."""
        del metadata
        self._warn("write_summaries", "summaries of TensorFlow", step, values)

    def _warn(self, method: str, kind: str, step: int, values: Mapping[str, Any]) -> None:
        if method in self._warned:
            return
        self._warned.add(method)
        warn_user(
            LossWarning(
                f"{method} of step {step}: a logger has no {kind}, so {', '.join(values)} and all later ones "
                f"are not written. Write them by a writer of clu beside this one: "
                f"metric_writers.MultiWriter([this, metric_writers.SummaryWriter(logdir)])."
            )
        )

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Log the hyperparameters, as `Logger.hparams` does."""
        self.logger.hparams(hparams)

    def flush(self) -> None:
        """Wait until all that was written is on disk, as `Logger.flush` does."""
        self.logger.flush()

    def close(self) -> None:
        """Write all that is left and close the logger, as `Logger.close` does."""
        self.logger.close()


def _without_axes(value: Any) -> Any:
    return value.reshape(()) if np.ndim(value) and hasattr(value, "reshape") else value
