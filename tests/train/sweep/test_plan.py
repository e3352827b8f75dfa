import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.running import CONFIGS, ROOT
from tests.train.sweep.points import DIGITS, finish, names, planned
from train import __main__ as program
from train.runs import folder as run_folder
from train.sweep.plan import describe, plan


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
    """In YAML, with ranges of whole numbers; characters that a file system refuses are replaced."""
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
    """The same sweep has the same folders; a digest keeps replaced characters apart."""
    own = ("data.name=tests.train.sweep.points:planned",)
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
def test_every_error_is_reported_before_training(
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
        (
            ["--sweep=seed=1", "--hparams=seed"],
            "--hparams: belongs to a single run; the points",
        ),
        (["--sweep=seed=1", "--submit=local", "--submit-with=x"], "x: not of the form key=value"),
        (["--sweep=seed=1", "--submit=local", "--submit-with=x=["], "x: broken YAML"),
        (["--hparams=seed,sead"], "--hparams: sead is no setting of this run; did you mean seed?"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    tmp_path: Path, arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each names the option that it belongs to; no point is begun."""
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
def test_a_refusal_of_submitit_is_a_config_error(tmp_path: Path, arguments: list[str], line: str) -> None:
    """Before a job is submitted. In a process of its own, as submitit logs to its standard output."""
    done = without_jax([str(DIGITS), "--sweep=seed=1", *arguments, f"--workdir={tmp_path}"])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(line)
    assert not (tmp_path / "seed=1").exists()


def test_a_folder_with_another_run_is_reported_first(tmp_path: Path) -> None:
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
    """With the state of each; in an interpreter where importing JAX would fail."""
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


# Processes that end as points do, without JAX: the tests are about the sweep's view of them.
