"""The logger and the profiler of a run."""

import contextlib
import warnings
from collections.abc import Callable, Generator, Sequence

import sowlog
from sowlog.writers import Writer
from train.config.errors import RunWarning
from train.config.experiment import Config
from train.runs import profiling
from train.runs import writers as run_writers
from train.runs.folder import RunFolder, SharedFolder, usable
from train.runs.profiling import Profiler


@contextlib.contextmanager
def open_log(
    config: Config, folder: RunFolder | SharedFolder, at: int, *, shown: Callable[[], Sequence[Writer]]
) -> Generator[tuple[sowlog.Logger, Profiler]]:
    """Open the logger and the profiler, which write in the process that has the run folder.

    Args:
        config: the experiment.
        folder: the run folder.
        at: the step at which the run begins.
        shown: returns the writers that show the run.
    """
    is_own = isinstance(folder, RunFolder)
    profile = config.profile if is_own else None
    if line := profiling.describe_missed(profile, folder.path, at):
        warnings.warn(line, RunWarning, stacklevel=2)
    resumed = at if is_own and folder.is_continued else None
    with usable(folder.path):
        writers = [*run_writers.build(config.writers, folder.path, resumed), *shown()] if is_own else []
        log = sowlog.Logger(
            folder.path,
            writers=writers,
            fold=config.fold if is_own else (),
            heat_map_every=config.heat_map_every,
            tag_budget=config.tag_budget if is_own else None,
        )
    with log, Profiler(profile, folder.path) as profiler:
        yield log, profiler
