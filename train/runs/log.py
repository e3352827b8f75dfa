"""The logger and the profiler of a run."""

import contextlib
import warnings
from collections.abc import Generator

import sowlog
from train.config.errors import RunWarning
from train.config.experiment import Config
from train.runs import profiling
from train.runs.folder import RunFolder, SharedFolder, usable
from train.runs.profiling import Profiler


@contextlib.contextmanager
def open_log(
    config: Config, folder: RunFolder | SharedFolder, at: int
) -> Generator[tuple[sowlog.Logger, Profiler]]:
    """Open the logger and the profiler, which write in the process that has the run folder."""
    is_own = isinstance(folder, RunFolder)
    profile = config.profile if is_own else None
    if line := profiling.describe_missed(profile, folder.path, at):
        warnings.warn(line, RunWarning, stacklevel=2)
    resumed = at if is_own and folder.is_continued else None
    with usable(folder.path):
        log = sowlog.Logger(folder.path, writers=None if is_own else [], resume_from=resumed)
    with log, Profiler(profile, folder.path) as profiler:
        yield log, profiler
