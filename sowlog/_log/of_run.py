"""The part of a logger for values of a run and of no step: hyperparameters and the layout of charts."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sowlog._log.calls import Calls
from sowlog._log.charts import check_layout
from sowlog._log.hparams import check_hparams
from sowlog._log.item import Item


class OfRun(Calls):
    """Queues the values of the run, which a full queue keeps."""

    _has_hparams = False

    def hparams(self, values: Mapping[str, Any], metrics: Sequence[str] = ()) -> None:
        """Log the hyperparameters of this run, for the table of runs in TensorBoard's HParams tab.

        The event file of the run holds them, a full queue neither drops nor refuses them, and the table has a
        row as soon as the run begins. `close` writes the ending of the run: a success, or a failure if an
        exception left the `with` block. After Ctrl-C or `sys.exit` no ending is written, since the run may
        continue. TensorBoard keeps the first hyperparameters and the first ending of a folder, so log those
        of a resumed run again, unchanged.

        Args:
            values: settings by name, in a dict or another mapping, such as a ConfigDict. A nested mapping
                makes dotted names. Lists, None, NaN, infinity, dtypes, paths, functions and other objects
                with a `str` of their own are shown as text.
            metrics: tags of scalars of this run, whose last points the table shows. If any run has a choice,
                TensorBoard takes the columns of one such run, settings and metrics, for all runs: pass the
                same names in each run of a comparison. By default the table has the settings and scalars of
                all runs, the settings that differ first.

        Raises:
            TypeError: A name or a value has an unsupported type.
            ValueError: There are no values, or two have one name.
            RuntimeError: Hyperparameters were logged before, or the logger is closed.
            WriterError: A writer failed at an earlier step. The hyperparameters are queued nevertheless.

        Example:
            >>> import tempfile, sowlog
            >>> with sowlog.Logger(tempfile.mkdtemp()) as log:
            ...     log.hparams({"seed": 0, "optimizer": {"learning_rate": 1e-3}}, metrics=["eval/loss"])
            ...     log(100, {"eval": {"loss": 0.25}})
        """
        hparams = check_hparams(values, metrics)
        self._background.require_open()
        if self._has_hparams:
            raise RuntimeError(
                "log.hparams was called a second time, and TensorBoard shows only the first call: "
                "pass all hyperparameters of a run in one call."
            )
        # `put` may raise an error of an earlier step after it has queued the hyperparameters.
        self._has_hparams = True
        self._background.put(Item(0, time.time(), hparams=hparams), is_kept=True)

    def layout(self, charts: Mapping[str, Mapping[str, Sequence[str | re.Pattern[str]]]]) -> None:
        """Log the charts of this run, for TensorBoard's Custom Scalars tab: several tags in one chart.

        The layout belongs to the run and to no step: a full queue neither drops nor refuses it, and a later
        call replaces it. TensorBoard joins the layouts of all runs by the titles of their categories, and
        equal charts become one. A chart without a point of any run is shown empty.

        Args:
            charts: tags by category and by the title of the chart. A tag may be a glob, in which `*` is any
                text within a part of the tag and `**` any number of parts, or a compiled regular expression
                of the whole tag.

        Raises:
            TypeError: The charts are no dict of dicts of lists of tags.
            ValueError: A category or a chart is empty.
            RuntimeError: The logger is closed.
            WriterError: A writer failed at an earlier step. The layout is queued nevertheless.

        Example:
            >>> import tempfile, sowlog
            >>> with sowlog.Logger(tempfile.mkdtemp()) as log:
            ...     log.layout(
            ...         {
            ...             "loss": {"training and held-out": ["loss", "eval/loss"]},
            ...             "experts": {"load": ["decoder/block_0/load/*"], "entropy": ["**/entropy"]},
            ...         }
            ...     )
            ...     log(0, {"loss": 0.5, "eval": {"loss": 0.625}})
        """
        self._background.put(Item(0, time.time(), charts=check_layout(charts)), is_kept=True)
