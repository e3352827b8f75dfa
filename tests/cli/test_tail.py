"""`sowlog tail`."""

import json
import math
import os
import signal
import subprocess
import sys
from argparse import Namespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sowlog
from sowlog._cli.tail import _Seen
from sowlog._events.framing import frame
from tests.cli.writing import write_run
from tests.support import event_shapes as shapes
from tests.support.event_shapes import event


def append(path, *events):
    """Append events to a file, each whole."""
    with path.open("ab") as file:
        for one in events:
            file.write(frame(one.SerializeToString()))


@given(
    series=st.dictionaries(st.sampled_from("abc"), st.lists(st.integers(-5, 9), min_size=1), min_size=1),
    most=st.integers(0, 4),
)
def test_the_last_steps_are_those_of_all_tags(series, most, tmp_path_factory):
    """Without a line for each of the others, of steps that go back and repeat."""
    folder = tmp_path_factory.mktemp("run")
    events = [event(step, shapes.plain(tag, step)) for tag, steps in series.items() for step in steps]
    shapes.write_file(folder, [shapes.VERSION, *events])
    run = sowlog.read(folder)
    all_steps = list(_Seen(Namespace(tag=None)).new_steps(run))
    seen = _Seen(Namespace(tag=None))
    assert list(seen.new_steps(run, most=most)) == all_steps[len(all_steps) - min(most, len(all_steps)) :]
    assert list(seen.new_steps(run)) == []


@pytest.fixture
def following():
    """Return a function that starts `tail -f` on a run, and ends it after the test."""
    started = []

    def start(path, *arguments):
        command = [sys.executable, "-m", "sowlog", "tail", "-f", "--interval", "0.01", *arguments, str(path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_last_steps_are_lines(tmp_path, sowlog_command):
    """In the order of the steps, with all scalars of each."""
    write_run(tmp_path, loss=[float(step) for step in range(20)], norm={19: math.nan, 3: 1.0})
    status, output, _ = sowlog_command("tail", "-n", 2, tmp_path)
    assert (status, output) == (0, "step 18  loss 18\nstep 19  loss 19  norm nan\n")
    _, output, _ = sowlog_command("tail", tmp_path)
    assert len(output.splitlines()) == 10
    _, output, _ = sowlog_command("tail", "-n", 0, tmp_path)
    assert output == ""
    _, output, _ = sowlog_command("tail", "--tag", "norm", "--json", tmp_path)
    assert [json.loads(line) for line in output.splitlines()] == [
        {"step": 3, "time": 3.5, "scalars": {"norm": 1.0}},
        {"step": 19, "time": 19.5, "scalars": {"norm": None}, "nonfinite": {"norm": "NaN"}},
    ]


def test_the_json_of_steps_is_a_run(tmp_path, sowlog_command):
    """`sowlog.read` reads the same scalars from it, bit for bit."""
    write_run(tmp_path, loss=[0.1, math.nan, -math.inf, 1e-40], norm={1: 1 / 3, 7: math.inf})
    _, output, _ = sowlog_command("tail", "--json", tmp_path)
    (tmp_path / "steps.jsonl").write_text(output)
    run, again = sowlog.read(tmp_path), sowlog.read(tmp_path / "steps.jsonl")
    assert again.damage == ()
    sowlog.testing.assert_same_curves(run, again)
    assert {tag: times.tolist() for tag, times in again.wall_times.items()} == {
        tag: times.tolist() for tag, times in run.wall_times.items()
    }


def test_new_steps_are_written_as_they_come(tmp_path, following):
    """Each once, of new files and tags as well; Ctrl-C ends it with status 130."""
    path = write_run(tmp_path, loss=[1.0])
    process = following(tmp_path)
    assert process.stdout.readline() == "step 0  loss 1\n"
    append(path, event(1, shapes.plain("loss", 2.0)))
    assert process.stdout.readline() == "step 1  loss 2\n"
    append(path, event(2, shapes.plain("loss", 3.0)), event(3, shapes.plain("norm", 4.0)))
    read = [process.stdout.readline() for _ in range(2)]
    assert read == ["step 2  loss 3\n", "step 3  norm 4\n"]
    write_run(tmp_path, name="events.out.tfevents.2.host", loss={4: 5.0})
    assert process.stdout.readline() == "step 4  loss 5\n"
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate()
    assert (process.returncode, rest, errors) == (130, "", "")


def test_a_resumed_run_is_shown_from_its_new_steps_on(tmp_path, following):
    """The points that it supersedes are not shown again."""
    with sowlog.Logger(tmp_path) as log:
        for step in range(4):
            log(step, {"loss": float(step)})
    process = following(tmp_path, "-n", "1")
    assert process.stdout.readline() == "step 3  loss 3\n"
    with sowlog.Logger(tmp_path, resume_from=2) as log:
        log(2, {"loss": 20.0})
        log(3, {"loss": 30.0})
    assert process.stdout.readline() == "step 2  loss 20\n"
    assert process.stdout.readline() == "step 3  loss 30\n"


def test_a_run_that_is_removed_ends_the_command(tmp_path, following):
    """With status 2 and the cause."""
    path = write_run(tmp_path, loss=[1.0])
    process = following(tmp_path)
    assert process.stdout.readline() == "step 0  loss 1\n"
    path.unlink()
    _, errors = process.communicate()
    assert (process.returncode, f"{tmp_path} is gone: " in errors) == (2, True)


def test_a_reader_that_leaves_ends_the_command(tmp_path, following):
    """At once, and not at the next step that would be written."""
    write_run(tmp_path, loss=[1.0])
    process = following(tmp_path)
    assert process.stdout.readline() == "step 0  loss 1\n"
    process.stdout.close()
    assert process.wait() == 0
    assert process.stderr.read() == ""


def test_steps_that_are_logged_again_at_once_are_shown_again(tmp_path):
    """A look at the files may find the restart and as many points as it supersedes."""
    path = write_run(tmp_path, loss=[0.0, 1.0, 2.0])
    run, seen = sowlog.read(tmp_path), _Seen(Namespace(tag=None))
    assert [step["step"] for step in seen.new_steps(run)] == [0, 1, 2]
    again = [event(step, shapes.plain("loss", 10.0), wall_time=9.0) for step in (1, 2)]
    append(path, shapes.start(1), *again)
    run.refresh()
    assert [step["step"] for step in seen.new_steps(run)] == [1, 2]
    assert list(seen.new_steps(run)) == []


@pytest.mark.parametrize(
    "arguments", [["-n", "-1"], ["-n", "x"], ["--interval", "-1"], ["--interval", "nan"]]
)
def test_wrong_numbers_are_refused(tmp_path, sowlog_command, capsys, arguments):
    """With status 2 and the option."""
    with pytest.raises(SystemExit, match=r"^2$"):
        sowlog_command("tail", *arguments, tmp_path)
    assert (
        f"argument {'-n/--steps' if '-n' in arguments else '--interval'}: invalid" in capsys.readouterr().err
    )


def test_a_folder_of_runs_is_refused(tmp_path, sowlog_command):
    """One of them must be named."""
    for name in "ab":
        write_run(tmp_path / name, loss=[1.0])
    status, _, errors = sowlog_command("tail", tmp_path)
    assert (status, errors) == (
        2,
        f"sowlog tail: {tmp_path} holds 2 runs: name one of them, as in {os.fspath(tmp_path / 'a')}.\n",
    )
