import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.tensorboard_reading import wait_until
from tests.train.running import CONFIGS, ROOT
from train import __main__ as program
from train.runs import folder as run_folder
from train.runs import results
from train.runs.results import Results
from train.sweep import command as sweep_command
from train.sweep import run as sweep
from train.sweep import table as sweep_table
from train.sweep import workers
from train.sweep.plan import LOG, Point, describe, plan
from train.sweep.view import Lines

DIGITS = CONFIGS / "digits.yaml"


def planned(folder: Path, *sweeps: str, overrides: tuple[str, ...] = ()) -> list[Point]:
    return plan(DIGITS, overrides, sweeps, folder)


def names(folder: Path, *sweeps: str) -> list[str]:
    return [point.name for point in planned(folder, *sweeps)]


def test_points_are_the_product_in_order(tmp_path: Path) -> None:
    """The first setting varies the slowest; every configuration is whole and checked."""
    points = planned(tmp_path, "optimizer.learning_rate=1e-3,3e-3", "seed=0..2", overrides=("steps=7",))
    assert [(p.config.optimizer.learning_rate, p.config.seed) for p in points] == [
        (rate, seed) for rate in (1e-3, 3e-3) for seed in (0, 1, 2)
    ]
    assert {p.config.steps for p in points} == {7}
    assert points[4].path == tmp_path / "optimizer.learning_rate=0.003,seed=1"
    assert points[4].values == {"optimizer.learning_rate": 0.003, "seed": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed=0..2,7", ["seed=0", "seed=1", "seed=2", "seed=7"]),
        ("seed=3..3", ["seed=3"]),
        ("optimizer.clip_norm=null,1e-5", ["optimizer.clip_norm=null", "optimizer.clip_norm=1e-05"]),
        ("stop_on_nan=true,false", ["stop_on_nan=true", "stop_on_nan=false"]),
        ("optimizer.name=adam,sgd", ["optimizer.name=adam", "optimizer.name=sgd"]),
        ("profile=10:15,20:25", None),
        ("early_stop=null,{metric: eval/loss, patience: 3}", None),
    ],
)
def test_values_are_parsed_as_overrides_are(tmp_path: Path, text: str, expected: list[str] | None) -> None:
    """In YAML, with ranges of whole numbers; what a file system dislikes is replaced."""
    found = names(tmp_path, text)
    assert len(found) == 2 if expected is None else found == expected
    assert all(not set(name) & set('/ :"{}') and len(name) < 200 for name in found)


def test_commas_in_brackets_belong_to_the_value(tmp_path: Path) -> None:
    """A list is one value."""
    points = plan(CONFIGS / "vae.yaml", [], ["task.hidden=[64, 32],[128]"], tmp_path)
    assert [point.config.task.hidden for point in points] == [[64, 32], [128]]
    assert [point.name for point in points] == ["task.hidden=[64,32]", "task.hidden=[128]"]


def test_what_is_varied_comes_after_what_is_set(tmp_path: Path) -> None:
    """A sweep over a command that sets the same key is one over that key."""
    points = planned(tmp_path, "seed=1..2", overrides=("seed=9",))
    assert [point.config.seed for point in points] == [1, 2]


def test_names_are_stable_and_no_two_values_share_one(tmp_path: Path) -> None:
    """The same sweep has the same folders; what was replaced is told apart by a digest."""
    own = ("data.name=tests.train.sweep.test_sweep:planned",)
    texts = ["a/b", "a:b", "a b", '"1"', "1", "x" * 300, "x" * 301, "..", "ö", '"{"']
    sweeps = f"data.arguments.path={','.join(texts)}"
    found = [point.name for point in planned(tmp_path, sweeps, overrides=own)]
    assert len(set(found)) == len(texts)
    assert found == [point.name for point in planned(tmp_path, sweeps, overrides=own)]
    assert found[4] == "data.arguments.path=1"
    assert all(len(os.fsencode(name)) < 200 and "/" not in name for name in found)
    points = planned(tmp_path, sweeps, overrides=own)
    assert points[3].config.data.arguments == {"path": "1"}
    assert points[4].config.data.arguments == {"path": 1}


@pytest.mark.parametrize(
    ("sweeps", "line"),
    [
        (["seed"], "command line: --sweep seed: not of the form key=value,value, such as"),
        (["=1"], "--sweep =1: not of the form"),
        (["seed="], "--sweep seed: no values"),
        (["seed=[1"], "--sweep seed: broken YAML"),
        (["seed=2..1"], "--sweep seed: 2..1 is no range upwards of at most 10,000 numbers"),
        (["seed=0..999999999999"], "is no range upwards"),
        (["seed=0..999", "steps=1..999"], "makes 999,000 points; no more than 10,000"),
        (["seed=1", "seed=2"], "--sweep seed: given twice; write all values in one"),
        (["seed=1,1"], "seed=1 is the same run as seed=1; take one out"),
        (["optimizer.learning_rate=1,1.0"], "is the same run as optimizer.learning_rate=1"),
        (["sead=1,2"], "command line: sead: unknown key; did you mean seed?"),
        (["seed=1,x", "steps=0,5"], 'command line: seed: must be a whole number, got "x"'),
        (["seed=1,x", "steps=0,5"], "command line: steps: must be greater than or equal to 1, got 0"),
    ],
)
def test_every_mistake_is_told_before_anything_is_trained(
    tmp_path: Path, sweeps: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With status 2, once each, whatever point it stands in; no folder is made."""
    options = [f"--sweep={text}" for text in sweeps]
    assert program.main([str(DIGITS), *options, "--workdir", str(tmp_path / "sweep")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count(line) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--jobs=2"], "--jobs: belongs to a sweep; add --sweep key=a,b"),
        (["--submit=local"], "--submit: belongs to a sweep"),
        (["--submit-with=a=1"], "--submit-with: belongs to a sweep"),
        (["--sweep=seed=1", "--submit-with=a=1"], "--submit-with: belongs to --submit"),
        (["--sweep=seed=1", "--jobs=0"], "--jobs: must be a whole number of 1 or more, got 0"),
        (["--sweep=seed=1", "--jobs=two"], "--jobs: must be a whole number of 1 or more, got two"),
        (["--sweep=seed=1", "--submit=slrum"], "got slrum; did you mean slurm?"),
        (["--sweep=seed=1", "--print-config"], "--dry-run lists the points"),
        (["--sweep=seed=1", "--hparams=seed"], "--hparams: a sweep shows what it varies"),
        (["--sweep=seed=1", "--submit=local", "--submit-with=x"], "x: not of the form key=value"),
        (["--sweep=seed=1", "--submit=local", "--submit-with=x=["], "x: broken YAML"),
        (["--hparams=seed,sead"], "--hparams: sead is no setting of this run; did you mean seed?"),
    ],
)
def test_options_that_do_not_fit_are_mistakes(
    tmp_path: Path, arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each names what it belongs to; no point is begun."""
    assert program.main([str(DIGITS), *arguments, "--workdir", str(tmp_path / "sweep")]) == 2
    out, err = capsys.readouterr()
    assert line in err
    assert out == ""


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--submit=local", "--submit-with=gpus=1"], "command line: --submit local: Parameter 'gpus' need"),
        (["--submit=slurm"], 'command line: --submit slurm: Could not detect "srun"'),
    ],
)
def test_what_submitit_refuses_is_a_mistake(tmp_path: Path, arguments: list[str], line: str) -> None:
    """Told before a job is submitted. In a process of its own, as submitit logs to its standard output."""
    done = without_jax([str(DIGITS), "--sweep=seed=1", *arguments, f"--workdir={tmp_path}"])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(line)
    assert not (tmp_path / "seed=1").exists()


def test_a_folder_with_another_run_is_told_first(tmp_path: Path) -> None:
    """Every such point; more steps are no other run."""
    for point in planned(tmp_path, "seed=0..1", overrides=("steps=5",)):
        with run_folder.RunFolder(point.path, point.config):
            pass
    planned(tmp_path, "seed=0..1", overrides=("steps=6",))
    with pytest.raises(
        run_folder.RunFolderError, match=r"seed=0 holds.*\n  task.width: 16(.|\n)*seed=1 holds"
    ):
        planned(tmp_path, "seed=0..1", overrides=("steps=6", "task.width=3"))


def test_a_dry_run_lists_the_points_and_needs_no_jax(tmp_path: Path) -> None:
    """With what is known of each; in an interpreter where importing JAX would fail."""
    points = planned(tmp_path, "seed=0..3")
    finish(points[0])
    with (
        run_folder.RunFolder(points[1].path, points[1].config),
        run_folder.RunFolder(points[2].path, points[2].config),
    ):
        arguments = [str(DIGITS), "--sweep=seed=0..3", "--dry-run", f"--workdir={tmp_path}"]
        done = without_jax(arguments)
    assert (done.returncode, done.stderr) == (0, "")
    states = ["finished", "another process trains it", "another process trains it", "new"]
    assert done.stdout.splitlines() == [
        f"{tmp_path}/seed={seed}  {state}" for seed, state in enumerate(states)
    ]
    assert describe(points[1:2]).endswith("  begun")


def without_jax(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    modules = ["jax", "flax", "optax", "orbax", "sowlog", "sklearn"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({modules}));"
        f"from train.__main__ import main; sys.exit(main({arguments!r}))"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


# Processes that end as points do, without JAX: what is tried is what the sweep makes of them.


def finish(point: Point, value: float | None = 0.5, better: str = "lower") -> None:
    point.path.mkdir(parents=True, exist_ok=True)
    results.write(point.path, Results(point.config.steps, 5, "", better, {"eval/loss": value}))


def script(point: Point, body: str) -> workers.Process:
    """Starts a process that does as it is told in the folder of a point."""
    point.path.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**vars(Results(point.config.steps, 5, "", "lower", {"eval/loss": 0.5}))})
    code = (
        f"import os, pathlib, signal, sys, time; folder = pathlib.Path({str(point.path)!r});"
        f"finish = lambda: (folder / 'results.json').write_text({text!r});"
        f"\n{body}"
    )
    return workers.Process([sys.executable, "-S", "-c", code], point.log)


def go(points: list[Point], body: str | dict[str, str], *, jobs: int = 1) -> sweep.Sweep:
    def start(point: Point) -> workers.Process:
        return script(point, body if isinstance(body, str) else body[point.name])

    with sweep.Sweep(points, start, Lines(), jobs=jobs) as running:
        running.run()
    return running


def test_finished_points_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The others are trained, one after the other, and told of."""
    points = planned(tmp_path, "seed=0..2")
    finish(points[1])
    alone = (
        "assert not (folder.parent / 'on').exists(); on = (folder.parent / 'on'); on.touch(); on.unlink();"
    )
    running = go(points, f"{alone} finish()")
    assert running.unfinished == []
    assert capsys.readouterr().out.splitlines() == [
        *("begins seed=0", "finished seed=0  eval/loss 0.5"),
        *("begins seed=2", "finished seed=2  eval/loss 0.5"),
    ]
    assert go(points, "raise").unfinished == []


def test_results_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    """A disk that lost power may leave an empty file; the point is run again from its checkpoint."""
    (point,) = planned(tmp_path, "seed=0")
    finish(point)
    for text in ("", "{}", "[]", '{"steps": 400}'):
        (point.path / results.FILE).write_text(text)
        assert point.results() is None


def test_a_point_with_an_odd_folder_ends_no_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It fails with a line; what its own process would tell is not told before the others are trained."""
    for name in ("seed=0", "seed=1"):
        (tmp_path / name).mkdir()
    (tmp_path / "seed=0" / "config.yaml").touch()
    (tmp_path / "seed=1" / LOG).mkdir()
    (tmp_path / "seed=2").touch()
    points = planned(tmp_path, "seed=0..3")
    bodies = {"seed=0": "sys.exit(2)", "seed=1": "", "seed=2": "", "seed=3": "finish()"}
    assert go(points, bodies).unfinished == points[:3]
    out = capsys.readouterr().out
    assert "seed=0: failed with exit status 2" in out
    assert "seed=1: cannot be begun: [Errno 21] Is a directory: " in out
    assert "seed=2: cannot be begun: [Errno 17] File exists: " in out
    assert "finished seed=3" in out


def test_a_longer_run_is_not_finished(tmp_path: Path) -> None:
    """Results tell of the steps that were asked for."""
    (point,) = planned(tmp_path, "seed=0", overrides=("steps=5",))
    finish(point)
    (longer,) = planned(tmp_path, "seed=0", overrides=("steps=6",))
    assert point.results() is not None
    assert longer.results() is None


def test_points_run_side_by_side(tmp_path: Path) -> None:
    """As many as asked for: each waits for the other to have begun."""
    points = planned(tmp_path, "seed=0..1")
    body = (
        "(folder / 'on').touch()\nwhile len(list(folder.parent.glob('*/on'))) < 2: time.sleep(0.01)\nfinish()"
    )
    assert go(points, body, jobs=2).unfinished == []


def test_a_failed_point_is_told_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the last lines of this attempt; what ends without results has failed too."""
    points = planned(tmp_path, "seed=0..3")
    points[1].path.mkdir()
    points[1].log.write_text("of an earlier attempt\n")
    bodies = {
        "seed=0": "[print('line', n) for n in range(99)]; sys.exit(5)",
        "seed=1": "os.kill(os.getpid(), signal.SIGKILL)",
        "seed=2": "os.kill(os.getpid(), signal.SIGTERM)",
        "seed=3": "finish()",
    }
    running = go(points, bodies)
    assert running.unfinished == points[:3]
    out = capsys.readouterr().out
    assert "begins seed=0\nseed=0: failed with exit status 5\n" in out
    assert "    line 98\n" in out
    assert "line 83\n" not in out
    assert "earlier attempt" not in out
    assert "continues seed=1\nseed=1: killed by SIGKILL\n" in out
    assert "seed=2: stopped\n" in out
    assert "finished seed=3" in out


def test_a_point_that_another_process_trains_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others come first; then it is taken as the other process left it."""
    points = planned(tmp_path, "seed=0..2")
    held = [run_folder.RunFolder(point.path, point.config) for point in points[:2]]

    def release() -> None:
        wait_until(lambda: points[2].results() is not None)
        finish(points[0], 0.25)
        for folder in held:
            folder.__exit__(None, None, None)

    thread = threading.Thread(target=release)
    thread.start()
    running = go(points, "finish()")
    thread.join()
    assert running.unfinished == []
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        *("waits for seed=0, which another process trains", "waits for seed=1, which another process trains"),
        *("begins seed=2", "finished seed=2  eval/loss 0.5"),
    ]
    assert lines[4:] == ["finished seed=0  eval/loss 0.25", "begins seed=1", "finished seed=1  eval/loss 0.5"]


SAVING = """
def save(number, frame):
    (folder / "saved").write_text(str(number))
    sys.exit(128 + number)
signal.signal(signal.SIGINT, save)
signal.signal(signal.SIGTERM, save)
(folder / "ready").touch()
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_points_which_save(
    tmp_path: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each once; no further point is begun, and what was before answers signals again."""
    points = planned(tmp_path, "seed=0..3")
    before = signal.getsignal(number)

    def send() -> None:
        wait_until(lambda: len(list(tmp_path.glob("*/ready"))) == 2)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    running = go(points, SAVING, jobs=2)
    thread.join()
    assert running.signal == number
    assert [(point.path / "saved").read_text() for point in points[:2]] == [str(int(number))] * 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["begins seed=0", "begins seed=1"]
    # Which of the two processes ends first is up to the system.
    assert sorted(lines[2:]) == ["seed=0: stopped", "seed=1: stopped"]
    assert not points[2].path.exists()
    assert signal.getsignal(number) == before


@pytest.mark.skipif(sys.platform != "linux", reason="other systems let orphans go on")
def test_a_point_ends_with_a_sweep_that_is_killed(tmp_path: Path) -> None:
    """It is asked to save, as by SIGTERM."""
    (point,) = planned(tmp_path, "seed=0")
    code = (
        f"from pathlib import Path; from tests.train.sweep import test_sweep as t;"
        f"(point,) = t.planned(Path({str(tmp_path)!r}), 'seed=0'); t.go([point], t.SAVING)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL) as parent:
        wait_until((point.path / "ready").exists)
        parent.kill()
    wait_until((point.path / "saved").exists)
    wait_until(lambda: (point.path / "saved").read_text() == str(int(signal.SIGTERM)))
    assert (point.path / "saved").read_text() == str(int(signal.SIGTERM))


def test_the_ranking_puts_the_best_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the task's own direction; NaN comes after numbers, and what is not finished last."""
    points = planned(tmp_path, "seed=0..3")
    for point, value in zip(points[1:], [None, 0.25, 0.5], strict=True):
        finish(point, value, better="higher")
    sweep_command.show(points, tmp_path, stopped_by=None)
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    assert rows == [["1", "3", "0.5"], ["2", "2", "0.25"], ["3", "1", ""], ["", "0", "not finished"]]
    assert f"to go on, the same command with\n--workdir {tmp_path}\n" in out
    assert f"tensorboard --logdir {tmp_path}" in out


def test_the_table_is_a_file_with_mean_and_spread_over_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All digits of each point, the best first; of the seeds that are finished the mean and the deviation."""
    own = ("data.name=tests.train.sweep.test_sweep:planned",)
    points = planned(tmp_path, 'data.arguments.path=[/a],"b,c"', "seed=0..2", overrides=own)
    for point, value in zip(points[:5], [0.1, 0.2, 0.6, 0.5, None], strict=True):
        finish(point, value)
    assert sweep_table.write(points, tmp_path) == [tmp_path / "sweep.csv", tmp_path / "seeds.csv"]
    table, seeds = (
        list(csv.reader((tmp_path / name).read_text().splitlines())) for name in ("sweep.csv", "seeds.csv")
    )
    assert table == [
        ["", "data.arguments.path", "seed", "eval/loss"],
        *(["1", "['/a']", "0", "0.1"], ["2", "['/a']", "1", "0.2"], ["3", "b,c", "0", "0.5"]),
        *(["4", "['/a']", "2", "0.6"], ["5", "b,c", "1", ""], ["", "b,c", "2", "not finished"]),
    ]
    mean, deviation = statistics.fmean([0.1, 0.2, 0.6]), statistics.stdev([0.1, 0.2, 0.6])
    assert seeds == [
        ["data.arguments.path", "seeds", "eval/loss", "± eval/loss"],
        ["['/a']", "3", repr(mean), repr(deviation)],
        ["b,c", "2", "", ""],
    ]
    sweep_command.show(points, tmp_path, stopped_by=None)
    line = "over 3 seeds  data.arguments.path=['/a']  eval/loss 0.3 ± 0.2646"
    assert [line] == [told for told in capsys.readouterr().out.splitlines() if told.startswith("over ")]
    single = planned(tmp_path / "single", "steps=5,6")
    assert sweep_table.write(single, tmp_path) == [tmp_path / "sweep.csv"]
