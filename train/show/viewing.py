"""The command that shows runs in TensorBoard, as it runs when it is pasted in the working folder."""

import shlex
import shutil
import sys
import tempfile
from pathlib import Path


def of_run(folder: Path, *, points: int) -> str:
    """Return the command that shows a run under its own name.

    TensorBoard names a run after its folder below --logdir, and that folder itself ".": the one around is
    given, unless it holds much else, all of which would be searched.

    Args:
        folder: the run folder.
        points: points of its longest series.
    """
    around = folder.parent if folder.name else folder
    is_plain = folder.name and not set(folder.name) & set(",:")
    if is_plain and around.absolute().resolve() in _wide():
        # The parts of a specification are split at commas and colons.
        return _command(f"--logdir_spec {shlex.quote(f'{folder.name}:{folder}')}", points)
    return of_folder(around, points=points)


def of_folder(folder: Path, *, points: int) -> str:
    """Return the command that shows all runs below a folder."""
    return _command(f"--logdir {shlex.quote(str(folder))}", points)


def _command(where: str, points: int) -> str:
    # TensorBoard shows a random 1000 points of a series, unless it is set to keep more (0 shows none).
    keep = f" --samples_per_plugin scalars={points}" if points > 1000 else ""
    return f"{_program()} {where}{keep}"


def _program() -> str:
    """Return TensorBoard's name if a shell finds it, else its path beside this Python."""
    beside = Path(sys.executable).with_name("tensorboard")
    if shutil.which("tensorboard") or not beside.exists():
        return "tensorboard"
    here = Path.cwd()
    return shlex.quote(str(beside.relative_to(here) if beside.is_relative_to(here) else beside))


def _wide() -> set[Path]:
    """Return folders that hold more than runs: the root, the home, that of temporary files."""
    known = {Path("/"), Path(tempfile.gettempdir()).resolve()}
    try:
        return known | {Path.home().resolve()}
    except RuntimeError:  # The user has none.
        return known
