"""Event files read by TensorBoard itself: the reader that is not ours."""

import warnings
from pathlib import Path
from typing import NamedTuple

with warnings.catch_warnings():
    # TensorBoard imports pkg_resources, which announces its own end; nothing of ours.
    warnings.simplefilter("ignore")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


class Series(NamedTuple):
    """One tag as TensorBoard shows it."""

    steps: list[int]
    values: list[float]
    wall_times: list[float]


def tensorboard_scalars(path: Path) -> dict[str, Series]:
    """Return every scalar series of a run folder, unsampled."""
    reader = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0})
    reader.Reload()
    return {tag: _series(reader.Scalars(tag)) for tag in reader.Tags()["scalars"]}


def _series(events) -> Series:
    return Series([e.step for e in events], [e.value for e in events], [e.wall_time for e in events])
