import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from sowlog._events.framing import CorruptEventFile, event_files, read_payloads
from sowlog._events.parsing import scalar_points
from tests.faults.kill_loggers import QUEUE_SIZE
from tests.support.tensorboard_reading import (
    data_server,
    data_server_series,
    tbparse_steps,
    tensorboard_scalars,
)
from tests.support.waiting import wait_until_equal

# Reading the runs takes long, so a test run has fewer than the hundred of the benchmark run.
KILLS = int(os.environ.get("SOWLOG_KILLS", "25"))


class Killed(NamedTuple):
    """A killed run: its folder, its returned calls, and the steps on disk."""

    folder: Path
    returned: int
    steps: list[int]


def whole_steps(folder):
    """Return the steps of the whole records of a run, after which at most one torn record follows."""
    (path,) = event_files(folder)
    steps = []
    with contextlib.suppress(CorruptEventFile):
        for payload in read_payloads(path):
            steps.extend(sorted({point.step for point in scalar_points(payload)}))
    return steps


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Return killed runs, with the number of returned `log` calls in each."""
    folder = tmp_path_factory.mktemp("killed")
    program = Path(__file__).with_name("kill_loggers.py")
    command = [sys.executable, str(program), str(folder), str(KILLS), "0"]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    folders = [folder / f"{run:03d}" for run in range(KILLS)]
    returned = map(int, output.split())
    return [Killed(run, calls, whole_steps(run)) for run, calls in zip(folders, returned, strict=True)]


def test_a_killed_run_loses_at_most_what_was_queued(killed):
    """Of the returned calls, only the queue and the record being written may be lost."""
    for run in killed:
        assert run.steps == list(range(len(run.steps)))
        assert run.returned - len(run.steps) <= QUEUE_SIZE + 1


def test_tensorboard_reads_killed_runs_to_the_last_whole_record(killed):
    """The Python reader has the points of every whole record, and no others."""
    for run in killed:
        series = tensorboard_scalars(run.folder)
        assert bool(series) == bool(run.steps)
        for tag in sorted(series)[:: max(1, len(series) - 1)]:
            assert series[tag].steps == series[tag].values == run.steps


def test_the_data_server_reads_killed_runs_to_the_last_whole_record(killed):
    """The Rust server has the same points."""
    expected = {run.folder.name: run.steps for run in killed if run.steps}
    with data_server(killed[0].folder.parent) as server:

        def shown():
            return {run: series.steps for run, series in data_server_series(server, "step").items()}

        wait_until_equal(shown, expected)


def test_tbparse_reads_killed_runs_to_the_last_whole_record(killed):
    """The data frames have the same points."""
    expected = {run.folder.name: run.steps for run in killed if run.steps}
    assert tbparse_steps(killed[0].folder.parent, "step") == expected


def test_most_kills_hit_a_logger_at_work(killed):
    """The kills are spread over the life of a run."""
    assert sum(bool(run.steps) for run in killed) > KILLS / 2
