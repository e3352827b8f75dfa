"""Weights & Biases: scalars, histograms, images, texts and hyperparameters, online or to be synced later."""

from __future__ import annotations

import html
import importlib
import netrc
import os
from collections.abc import Iterator
from os import PathLike
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np

from sowlog._extras import require_extra
from sowlog.writers._arguments import check_name, check_path, check_resume
from sowlog.writers._json_text import filled_buckets
from sowlog.writers.protocol import StalledError
from sowlog.writers.record import Record

_STEP = "global_step"
# A histogram of W&B holds no more bins.
_BINS = 512


class Wandb:
    """Writes to a run of Weights & Biases.

    Each record is a row with its own step, `global_step`, which is the horizontal axis of all charts. W&B's
    own step counter drops a row whose step is lower than that of the last row; this axis keeps all rows.
    Histograms, images and texts are W&B's media; hyperparameters are its config, and the ending is the state
    of the run. Precision-recall curves and layouts of charts are not written.

    A resumed run is a fork: a new run in the same group, with `resumed_from` in its config. It has the steps
    from there on, and the earlier runs stay unchanged.

    W&B takes some milliseconds of CPU for a record of 1000 scalars, so use `Every`; `Spooled` keeps that off
    the thread of the other writers. The first record creates the run. W&B's own process, which the
    constructor starts, keeps the rows in a file and uploads them. The writer needs W&B's client,
    `pip install 'sowlog[wandb]'`.

    Args:
        project: the project.
        run: the name of the run, and of the group of those that continue it.
        folder: the folder of W&B's files, in which it makes a folder `wandb`.
        mode: "online", or "offline" for an upload by `wandb sync` later.
        entity: the user or team; by default that of the login.
        resume_from: the first step that will be written when a run continues.

    Raises:
        ModuleNotFoundError: W&B's client is not installed.
        RuntimeError: The mode is "online", and W&B has no login on this machine.
        TypeError: `resume_from` is not an integer, or a name is not a str.
        ValueError: The mode is unknown, a name is empty, or `folder` is not on this machine.

    Example:
        >>> import tempfile, sowlog
        >>> from sowlog.writers import Every, Spooled, TensorBoard, Wandb
        >>> logdir = tempfile.mkdtemp()
        >>> wandb = Wandb("digits", run="first", folder=logdir, mode="offline")
        >>> writers = [TensorBoard(logdir), Every(10, Spooled(wandb, f"{logdir}/wandb.spool"))]
        >>> with sowlog.Logger(logdir, writers=writers) as log:
        ...     log
        <Logger to TensorBoard, Every, open>
    """

    def __init__(
        self,
        project: str,
        *,
        run: str,
        folder: str | PathLike[str],
        mode: Literal["online", "offline"] = "online",
        entity: str | None = None,
        resume_from: int | None = None,
    ) -> None:
        names: dict[str, Any] = {"project": project, "run": run}
        for name, value in names.items():
            check_name("Wandb", name, value)
        if mode not in ("online", "offline"):
            raise ValueError(f"mode of Wandb is {mode!r}; choose one of online, offline.")
        resumed = check_resume(resume_from)
        require_extra("wandb", "writers.Wandb needs W&B's client", extra="wandb")
        if mode == "online" and not _has_login():
            raise RuntimeError(
                "W&B has no login on this machine, and would ask for one: run `wandb login`, set "
                "WANDB_API_KEY, or write Wandb(..., mode='offline') and run `wandb sync` later."
            )
        # W&B's process may have started in another working folder, and this one may leave its own.
        self._folder = check_path(folder)
        self._options: dict[str, Any] = {
            "project": project,
            "entity": entity,
            "name": run if resumed is None else f"{run} from {resumed}",
            "group": run,
            "config": {} if resumed is None else {"resumed_from": resumed},
            "dir": str(self._folder),
            "mode": mode,
        }
        self._run: Any = None
        self._exit_code = 0
        # Exit hooks run in reverse order: the one that ends W&B's process is registered before that of the
        # logger, which writes the queued records of a program that does not close it.
        _wandb().setup(_wandb().Settings(silent=True))

    def write(self, record: Record) -> None:
        """Write a record as a row.

        Raises:
            StalledError: The server does not answer, so that the run is not made yet.
        """
        run = self._run = self._run or self._begin()
        if record.hparams is not None:
            run.config.update(dict(record.hparams.values), allow_val_change=True)
        if record.ending is not None:
            self._exit_code = int(record.ending == "failure")
        row: dict[str, Any] = dict(zip(map(str, record.tags), record.values.tolist(), strict=True))
        row.update(_media(record))
        if row:
            run.log({**row, _STEP: record.step, "_timestamp": record.wall_time})

    def flush(self) -> None:
        """Return once W&B's own process has all rows, which a kill of this one does not lose."""
        if self._run is not None:
            # A question that is answered in the order of the rows.
            self._run.summary.get(_STEP)

    def close(self) -> None:
        """Finish the run; online, once all is uploaded."""
        if self._run is not None:
            self._run.finish(exit_code=self._exit_code)

    def _begin(self) -> Any:
        wandb = _wandb()
        # W&B writes elsewhere, with a warning, if there is no such folder.
        self._folder.mkdir(parents=True, exist_ok=True)
        # The streams and the run of a program that uses W&B itself stay as they are.
        settings = wandb.Settings(silent=True, console="off")
        try:
            run = wandb.init(**self._options, reinit="create_new", settings=settings)
        except wandb.errors.CommError as error:
            raise StalledError(f"W&B does not answer: {error}") from error
        run.define_metric(_STEP, hidden=True)
        run.define_metric("*", step_metric=_STEP)
        return run


def _media(record: Record) -> Iterator[tuple[str, Any]]:
    """Yield the values of a record that are no scalars, as media of W&B."""
    for tag, value in record.histograms.items():
        edges, counts = filled_buckets(value)
        if len(counts):
            starts = np.arange(0, len(counts), -(-len(counts) // _BINS))
            merged = np.add.reduceat(counts, starts), np.append(edges[starts], edges[-1])
            yield tag, _wandb().Histogram(np_histogram=merged)
    for tag, image in record.images.items():
        yield tag, _wandb().Image(image[..., 0] if image.shape[-1] == 1 else image)
    for tag, text in record.texts.items():
        yield tag, _wandb().Html(f"<pre>{html.escape(text)}</pre>", inject=False)


def _has_login() -> bool:
    """Return whether W&B would find a login without a question."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _wandb() -> Any:
    """Import W&B for a writer alone, since that takes a second."""
    return importlib.import_module("wandb")
