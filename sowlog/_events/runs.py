"""The runs under a folder."""

from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, final

from numpy.typing import NDArray

from sowlog._events import frames
from sowlog._events.folders import local_folder
from sowlog._events.html import runs_html
from sowlog._events.json_lines.form import METRICS_NAME
from sowlog._events.reading import Run, read_run
from sowlog._events.trees import run_folders


@final
class Runs(Mapping[str, Run]):
    """The runs under a folder by name, in the order of their names: a read-only mapping.

    Attributes:
        path: the folder.
        skipped: the errors of subfolders that could not be listed, and of runs that could not be read.

    Example:
        >>> import tempfile, sowlog
        >>> logdir = tempfile.mkdtemp()
        >>> for seed in range(2):
        ...     with sowlog.Logger(f"{logdir}/seed_{seed}") as log:
        ...         log(0, {"loss": float(seed)})
        >>> runs = sowlog.read_all(logdir)
        >>> runs
        <2 runs under ...: seed_0, seed_1>
        >>> {name: run.scalars["loss"].values.tolist() for name, run in runs.items()}
        {'seed_0': [0.0], 'seed_1': [1.0]}
    """

    path: Path
    skipped: tuple[OSError, ...]

    def __init__(self, path: Path) -> None:
        self.path = path
        self.skipped = ()
        self._runs: dict[str, Run] = {}
        self.refresh()

    def __getitem__(self, name: str) -> Run:
        return self._runs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)

    def __repr__(self) -> str:
        names = [*list(self._runs)[:3], *["..."] * (len(self) > 3)]
        return f"<{len(self)} run{'s' * (len(self) != 1)} under {self.path}: {', '.join(names)}>"

    def _repr_html_(self) -> str:
        return runs_html(repr(self), {name: run.scalars for name, run in self.items()})

    def refresh(self) -> bool:
        """Read the records written since, and new runs.

        Returns:
            Whether anything is new.

        Raises:
            FileNotFoundError: There is no run any more.
            OSError: There is none, and a folder or a run cannot be read.

        Example:
            >>> import tempfile, sowlog
            >>> logdir = tempfile.mkdtemp()
            >>> sowlog.Logger(f"{logdir}/first").close()
            >>> runs = sowlog.read_all(logdir)
            >>> sowlog.Logger(f"{logdir}/second").close()
            >>> runs.refresh(), list(runs)
            (True, ['first', 'second'])
        """
        skipped: list[OSError] = []
        before, self._runs = self._runs, {}
        is_new = False
        for name, folder in sorted(self._folders(skipped)):
            try:
                known = before.get(name)
                self._runs[name] = known or read_run(folder)
                is_new |= known is None or known.refresh()
            except OSError as error:
                skipped.append(error)
        self.skipped = tuple(skipped)
        if not self._runs:
            for error in skipped:
                if not isinstance(error, FileNotFoundError):
                    raise error
            held = f"and its subfolders hold no event file (*tfevents*) and no {METRICS_NAME}"
            fault = held if self.path.exists() else "does not exist"
            raise FileNotFoundError(f"{self.path} {fault}: pass a folder of runs.")
        return is_new or before.keys() != self._runs.keys()

    def _folders(self, skipped: list[OSError]) -> Iterator[tuple[str, Path]]:
        if self.path.is_file():
            yield self.path.name, self.path
            return
        for folder in run_folders(self.path, on_error=skipped.append):
            yield folder.relative_to(self.path).as_posix(), folder

    def to_numpy(self) -> dict[str, NDArray[Any]]:
        """Return the scalars of all runs as `Run.to_numpy` does, with a first column "run".

        Example:
            >>> import tempfile, sowlog
            >>> logdir = tempfile.mkdtemp()
            >>> with sowlog.Logger(f"{logdir}/first") as log:
            ...     log(7, {"loss": 0.5})
            >>> {name: column.tolist() for name, column in sowlog.read_all(logdir).to_numpy().items()}
            {'run': ['first'], 'tag': ['loss'], 'step': [7], 'wall_time': [...], 'value': [0.5]}
        """
        return frames.as_numpy(("run", "tag"), self._curves())

    def to_pandas(self) -> Any:
        """Return the table of `to_numpy` as a DataFrame of pandas, with runs and tags as categories.

        Raises:
            ModuleNotFoundError: pandas is not installed (`pip install 'sowlog[pandas]'`).

        Example:
            >>> import tempfile, sowlog
            >>> logdir = tempfile.mkdtemp()
            >>> for seed in range(2):
            ...     with sowlog.Logger(f"{logdir}/seed_{seed}") as log:
            ...         log(7, {"loss": float(seed)})
            >>> frame = sowlog.read_all(logdir).to_pandas()
            >>> frame.groupby(["tag", "step"], observed=True)["value"].mean().to_dict()
            {('loss', 7): 0.5}
        """
        return frames.as_pandas(("run", "tag"), self._curves())

    def to_arrow(self) -> Any:
        """Return the table of `to_numpy` as a Table of Arrow, with runs and tags as dictionaries.

        Raises:
            ModuleNotFoundError: pyarrow is not installed (`pip install 'sowlog[arrow]'`).

        Example:
            >>> import tempfile, sowlog
            >>> logdir = tempfile.mkdtemp()
            >>> with sowlog.Logger(f"{logdir}/first") as log:
            ...     log(7, {"loss": 0.5})
            >>> sowlog.read_all(logdir).to_arrow().num_rows
            1
        """
        return frames.as_arrow(("run", "tag"), self._curves())

    def _curves(self) -> dict[tuple[str, ...], frames.Curve]:
        return {key: curve for name, run in self.items() for key, curve in run._curves(name).items()}


def read_all(path: str | PathLike[str]) -> Runs:
    """Read all runs under a folder, as TensorBoard finds them: each subfolder with event files is one.

    A subfolder with `metrics.jsonl` and no event file is one as well. Links to folders are followed, and each
    folder is read once.

    Args:
        path: the folder of runs.

    Returns:
        The runs by name, the path below the folder; "." for the files in the folder itself.

    Raises:
        FileNotFoundError: The folder holds no run.
        OSError: It holds none, and a folder or a run cannot be read.
        ValueError: The path is not on this machine, as in `gs://bucket/runs`.

    Example:
        >>> import tempfile, sowlog
        >>> logdir = tempfile.mkdtemp()
        >>> for rate in (0.1, 0.2):
        ...     with sowlog.Logger(f"{logdir}/rate={rate}") as log:
        ...         log.hparams({"rate": rate})
        ...         log(0, {"loss": rate / 2})
        >>> [(run.config["rate"], run.scalars["loss"].values[-1]) for run in sowlog.read_all(logdir).values()]
        [(0.1, np.float32(0.05)), (0.2, np.float32(0.1))]
    """
    return Runs(local_folder(path))
