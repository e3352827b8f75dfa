import json
import math

import jax
import numpy as np
import pytest

import sowlog
from tests.support.tensorboard_reading import tensorboard_images, tensorboard_scalars
from tests.train.running import after_each_step, digits, moe, points, run, run_until, saved_arrays
from train import data, loop, optimizer, parts, step, tasks
from train.config import file as config_file
from train.parallel import devices
from train.runs import checkpoint, saving
from train.runs import folder as run_folder


def test_every_step_has_one_point_and_every_evaluation_its_own(tmp_path) -> None:
    """TensorBoard reads each training tag at 0 … 11, each tag under eval/ at 0, 5, 10 and the end."""
    config = digits()
    outcome = run(config, tmp_path)
    series = tensorboard_scalars(tmp_path)
    assert {"loss", "objective", "block_1/dead_units", "norm/grads", "eval/accuracy"} <= set(series)
    for tag, points_of_tag in series.items():
        assert points_of_tag.steps == ([0, 5, 10, 12] if tag.startswith("eval/") else list(range(12))), tag
    assert outcome.step == outcome.updates == 12
    assert sorted(tensorboard_images(tmp_path)) == [("eval/confusion", step) for step in (0, 5, 10, 12)]


class Clock:
    """A clock to which the first update takes 100 seconds, each later one a second."""

    now = 0.0

    def tick(self, step: int) -> None:
        self.now += 1 if step else 100

    def perf_counter(self) -> float:
        return self.now


def test_the_time_of_the_first_update_is_that_of_compiling(tmp_path, monkeypatch) -> None:
    """And no part of the time that is reported for training."""
    clock = Clock()
    monkeypatch.setattr(loop, "time", clock)
    with after_each_step(clock.tick):
        outcome = run(digits(), tmp_path)
    assert (outcome.compiling, outcome.training) == (100, 11)


def test_what_is_shown_is_what_is_logged(tmp_path) -> None:
    """Step by step the same numbers reach the terminal and TensorBoard, an evaluation before its step."""
    memory = sowlog.testing.MemoryWriter()
    outcome = run(digits(), tmp_path, [memory])
    series = tensorboard_scalars(tmp_path)
    for tag in ("loss", "eval/accuracy"):
        shown = [
            (record.step, record.values[record.tags.index(tag)])
            for record in memory.records
            if tag in record.tags
        ]
        assert shown == list(zip(series[tag].steps, map(np.float32, series[tag].values), strict=True))
    order = [
        (record.step, "eval/loss" in record.tags)
        for record in memory.records
        if "loss" in {*record.tags, "eval/loss"}
    ]
    assert order == sorted(order, key=lambda at: (at[0], not at[1]))
    assert memory.closed
    assert outcome.trained["loss"] == series["loss"].values[-1]
    assert outcome.evaluated["accuracy"] == series["eval/accuracy"].values[-1]


def test_the_learning_rate_of_each_step_is_the_schedules(tmp_path) -> None:
    """Not that of the step beside it."""
    config = digits("optimizer.warmup=3")
    run(config, tmp_path)
    _, schedule = optimizer.build(config.optimizer, steps=config.steps)
    rates = tensorboard_scalars(tmp_path)["learning_rate"].values
    assert rates == pytest.approx([float(schedule(step)) for step in range(config.steps)])


def test_an_evaluation_sees_the_model_of_its_step(tmp_path) -> None:
    """At step 0 nothing is learned yet; the last one of a shorter run is that of a longer run at its step."""
    run(digits("optimizer.schedule=constant"), tmp_path / "long")
    run(digits("optimizer.schedule=constant", "steps=5"), tmp_path / "short")
    long, short = (tensorboard_scalars(tmp_path / name)["eval/loss"] for name in ("long", "short"))
    assert long.values[0] > math.log(10) / 2
    assert (short.steps, short.values) == (long.steps[:2], long.values[:2])


def test_the_folder_records_what_ran(tmp_path) -> None:
    """The resolved configuration, versions, devices and seed; the last checkpoints, no more."""
    config = digits("seed=5", "checkpoint.keep=2")
    run(config, tmp_path)
    assert config_file.load(tmp_path / "config.yaml") == config
    meta = json.loads((tmp_path / "meta.json").read_text())
    (start,) = meta["starts"]
    assert meta["seed"] == 5
    assert start["step"] == 0
    assert start["argv"][:3] == ["python", "-m", "train"]
    assert {"python", "jax", "flax", "optax", "sowlog"} <= set(start["versions"])
    assert start["devices"] == ["cpu"]
    assert {folder.name for folder in (tmp_path / "checkpoints").iterdir()} == {"8", "12"}
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1


@pytest.mark.parametrize("make", [digits, moe])
def test_a_run_that_was_stopped_is_bitwise_one_that_was_not(make, tmp_path) -> None:
    """The whole state and every logged point, for both tasks, stopped between two checkpoints."""
    config = make()
    run(config, tmp_path / "straight")
    stopped = run_until(config, tmp_path / "stopped", 4)
    assert stopped.step == 5
    assert stopped.evaluated == {}
    resumed = run(config, tmp_path / "stopped")
    assert resumed.updates == config.steps - 5
    assert points(tmp_path / "stopped") == points(tmp_path / "straight")
    straight = saved_arrays(tmp_path / "straight", config.steps)
    assert saved_arrays(tmp_path / "stopped", config.steps) == straight
    assert any("params" in path for path in straight)
    assert any("optimizer" in path for path in straight)


def test_a_finished_run_is_only_evaluated_again(tmp_path) -> None:
    """Nothing is trained, and no point shows twice."""
    first = run(digits(), tmp_path)
    before = points(tmp_path)
    outcome = run(digits(), tmp_path)
    assert (outcome.updates, outcome.trained) == (0, {})
    assert outcome.evaluated == first.evaluated
    assert points(tmp_path) == before


def test_a_finished_run_goes_on_when_steps_are_raised(tmp_path) -> None:
    """As if it had been that long from the start, where the schedule does not look at the end."""
    run(digits("optimizer.schedule=constant"), tmp_path / "raised")
    run(digits("optimizer.schedule=constant", "steps=16"), tmp_path / "raised")
    run(digits("optimizer.schedule=constant", "steps=16"), tmp_path / "straight")
    assert points(tmp_path / "raised") == points(tmp_path / "straight")
    assert saved_arrays(tmp_path / "raised", 16) == saved_arrays(tmp_path / "straight", 16)
    assert [start["step"] for start in json.loads((tmp_path / "raised/meta.json").read_text())["starts"]] == [
        0,
        12,
    ]


def test_a_longer_run_learns_at_the_rates_that_it_began_with(tmp_path) -> None:
    """Bit for bit as a run whose cosine was set to end where that of the shorter run did."""
    short = "optimizer.warmup=2"
    run_until(digits(short), tmp_path / "raised", 4)
    run(digits(short, "steps=16"), tmp_path / "raised")
    run(digits(short, "steps=16", "optimizer.decay_steps=12"), tmp_path / "straight")
    assert points(tmp_path / "raised") == points(tmp_path / "straight")
    assert saved_arrays(tmp_path / "raised", 16) == saved_arrays(tmp_path / "straight", 16)
    assert tensorboard_scalars(tmp_path / "raised")["learning_rate"].values[12:] == [0.0] * 4


def test_a_folder_that_holds_another_run_is_refused(tmp_path) -> None:
    """With the keys that differ, and their values there and now."""
    with run_folder.RunFolder(tmp_path, digits()):
        (tmp_path / "checkpoints" / "12").mkdir(parents=True)
    with pytest.raises(run_folder.RunFolderError, match="another run") as caught:
        run_folder.RunFolder(tmp_path, digits("seed=1", "task.width=3", "steps=13"))
    _, *differences, remedy = str(caught.value).splitlines()
    assert differences == ["  task.width: 2 there, 3 now", "  seed: 0 there, 1 now"]
    assert remedy.startswith("Give another --workdir, ")
    with pytest.raises(run_folder.RunFolderError, match="steps: 12 there, 11 now"):
        run_folder.RunFolder(tmp_path, digits("steps=11"))
    with pytest.raises(run_folder.RunFolderError, match=r"task\.name: digits there, moe_lm now"):
        run_folder.RunFolder(tmp_path, moe())
    assert config_file.load(tmp_path / "config.yaml") == digits()


def test_a_folder_with_a_config_of_another_version_is_refused(tmp_path) -> None:
    """One that cannot be read says why."""
    (tmp_path / "config.yaml").write_text("tasks: 3\n")
    with pytest.raises(run_folder.RunFolderError, match=r"(?s)cannot read.*tasks: unknown key"):
        run_folder.RunFolder(tmp_path, digits())


def test_two_runs_in_one_folder_are_refused(tmp_path) -> None:
    """Their points would mix; once the first has left, the folder is free."""
    first = run_folder.RunFolder(tmp_path, digits())
    with first, pytest.raises(run_folder.RunFolderError, match="another process trains in"):
        run_folder.RunFolder(tmp_path, digits())
    with run_folder.RunFolder(tmp_path, digits()) as folder:
        assert folder.is_continued


def test_a_folder_that_cannot_be_made_is_refused(tmp_path) -> None:
    """A file stands in the way."""
    (tmp_path / "file").write_text("")
    with pytest.raises(run_folder.RunFolderError, match=r"cannot be used: .*file"):
        run_folder.RunFolder(tmp_path / "file" / "run", digits())


def test_the_default_folder_is_new_each_time(tmp_path, monkeypatch) -> None:
    """Two runs that start within a second do not share one."""
    monkeypatch.chdir(tmp_path)
    first = run_folder.default_path("digits")
    assert first.parts[0] == "runs"
    assert first.name.startswith("digits-")
    first.mkdir(parents=True)
    assert run_folder.default_path("digits") != first


def test_a_step_trains_on_the_batch_of_its_number(tmp_path) -> None:
    """The first loss is that of the new model on batch 0, the first evaluation that of the held-out data."""
    config = digits("task.dropout=0", "steps=1", "seed=3")
    run(config, tmp_path)
    task, dataset = tasks.build(config.task), data.load(config.data)
    rule, _ = optimizer.build(config.optimizer, steps=1)
    batch = dataset.batch(3, 0)
    variables = step.make_init(task, rule, config)(batch).variables
    first = task.forward(variables, batch, jax.random.key(0)).loss
    assert tensorboard_scalars(tmp_path)["loss"].values == pytest.approx([float(first)], rel=1e-5)


def test_what_was_logged_is_on_disk_before_its_checkpoint(tmp_path) -> None:
    """A process that dies right after a save has lost nothing that the next one would not log again."""
    order = []

    class Log(sowlog.Logger):
        def flush(self) -> None:
            super().flush()
            order.append("flushed")

    class Recorded(checkpoint.Checkpoints):
        def save(self, step: int, state: step.TrainState) -> None:
            order.append("saves")
            super().save(step, state)

    config = digits()
    with Recorded(tmp_path / "checkpoints", keep=1) as checkpoints, Log(tmp_path) as log:
        made = parts.assemble(config, data.load(config.data), checkpoints, devices.Devices())
        state, summary = made.train_step(made.state, made.batch(0))
        log(0, summary.packed)
        saving.Saver(log, checkpoints, every=1, steps=1).save(1, state)
        assert checkpoints.newest == 1
    assert order[:2] == ["flushed", "saves"]
