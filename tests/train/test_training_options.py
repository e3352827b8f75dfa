from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.light_compilation import compiled_fully
from tests.support.tensorboard_reading import tensorboard_scalars
from tests.train.config.test_experiment import errors_of
from tests.train.running import CONFIGS, digits, moe, points, run, run_until, saved_arrays
from tests.train.tasks.test_tasks import Trained
from train import __main__ as program
from train import data, evaluation, optimizer, step, stop_rules, tasks
from train.config import file as config_file
from train.config.experiment import Config, EarlyStopOptions
from train.parallel import devices

HERE = "tests.train.test_training_options"


def vae(*overrides: str) -> Config:
    tiny = ("task.hidden=[4]", "task.latents=2", "data.batch_size=8", "eval.every=2", "checkpoint.every=4")
    return config_file.load(CONFIGS / "vae.yaml", [*tiny, *overrides])


def leaves(tree: object) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_microbatches_train_as_the_whole_batch() -> None:
    """But for rounding, with room for every token; metrics other than means over tokens differ."""
    alike = ("steps=3", "task.capacity=4", "task.load_balance=0")
    whole, parts = (Trained(moe(*alike, f"microbatches={count}")) for count in (1, 2))
    assert parts.last == pytest.approx(
        {
            **whole.last,
            **{tag: parts.last[tag] for tag in whole.last if "busiest" in tag or "load_balance" in tag},
        },
        rel=2e-3,
        abs=1e-4,
    )
    # Adam's first steps divide by the gradient's own size: a rounding error of a gradient near 0 is a step.
    for one, other in zip(leaves(whole.state.variables), leaves(parts.state.variables), strict=True):
        assert np.mean(np.abs(one - other)) < 1e-4


def test_microbatches_draw_and_count_apart() -> None:
    """Each has its own dropout, the running statistics are averaged, and losses do not add up."""
    config = digits("steps=1", "microbatches=2", "task.dropout=0.5", "data.batch_size=8")
    trained = Trained(config)
    whole = Trained(digits("steps=1", "task.dropout=0.5", "data.batch_size=8"))
    mean = [run.state.variables["batch_stats"]["block_0"]["norm"]["mean"] for run in (trained, whole)]
    np.testing.assert_allclose(*mean, rtol=1e-4, atol=1e-6)
    assert trained.first["loss"] != whole.first["loss"]
    assert trained.first["loss"] == pytest.approx(whole.first["loss"], rel=0.5)


def test_microbatches_that_do_not_divide_the_batch_are_refused() -> None:
    """The error has both numbers."""
    (error,) = errors_of(CONFIGS / "digits.yaml", "microbatches=3")
    assert error == "command line: microbatches: 3 microbatches do not divide data.batch_size, 64."


@pytest.mark.parametrize("make", [digits, vae])
def test_bfloat16_is_what_is_computed_in_and_nothing_that_is_kept(make) -> None:
    """The state stays float32, the loss is near that of float32, and the matrices multiply in bfloat16."""
    half, full = (Trained(make("steps=1", f"precision={name}")) for name in ("bfloat16", "float32"))
    assert {leaf.dtype for leaf in leaves(half.state.variables)} == {np.dtype(np.float32)}
    assert {leaf.dtype for leaf in leaves(half.state.optimizer)} <= {np.dtype(np.float32), np.dtype(np.int32)}
    assert half.first["loss"] != full.first["loss"]
    assert half.first["loss"] == pytest.approx(full.first["loss"], rel=0.03)
    assert half.first["norm/grads"] == pytest.approx(full.first["norm/grads"], rel=0.15)
    batch = half.data.batch(0, 0)
    traced = str(jax.make_jaxpr(lambda state: half.update(state, batch))(half.state))
    products = [line for line in traced.splitlines() if "dot_general" in line or "conv_general" in line]
    assert sum("bf16" in line for line in products) >= len(products) / 2


def test_a_mixture_of_experts_computes_in_bfloat16() -> None:
    """All its experts do, under scan and remat; the router and every metric do not."""
    config = moe("precision=bfloat16", "task.bias_rate=0.1", "microbatches=2")
    task, batch = tasks.build(config.task), data.load(config.data).batch(0, 0)
    rule, schedule = optimizer.build(config.optimizer, steps=config.steps)
    state = jax.eval_shape(step.make_init(task, rule, config), batch)
    update = step.make_update(task, rule, schedule, config)
    batch = devices.cut(batch, config.microbatches)
    after, metrics = jax.eval_shape(update, state, batch)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(metrics)} <= {np.dtype(np.float32), np.dtype(np.bool_)}
    traced = str(jax.make_jaxpr(update)(state, batch))
    experts = [line for line in traced.splitlines() if "dot_general" in line and ":f32" not in line]
    assert len([line for line in experts if ":bf16" in line]) >= 6


def test_the_average_follows_the_parameters_and_is_evaluated() -> None:
    """By NumPy, step by step; the evaluation is that of a model with the averaged parameters."""
    config = vae("steps=3", "ema=0.2", "optimizer.schedule=constant")
    task, dataset = tasks.build(config.task), data.load(config.data)
    rule, schedule = optimizer.build(config.optimizer, steps=3)
    state = step.make_init(task, rule, config)(dataset.batch(0, 0))
    update = jax.jit(step.make_update(task, rule, schedule, config))
    average = leaves(state.variables["params"])
    for at in range(3):
        state, _ = update(state, dataset.batch(0, at))
        decay = min(0.2, (1 + at) / (10 + at))
        params = leaves(state.variables["params"])
        average = [decay * old + (1 - decay) * new for old, new in zip(average, params, strict=True)]
        for ours, expected in zip(leaves(state.average), average, strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    evaluated = leaves(evaluation.evaluated(state)["params"])
    assert all(
        np.array_equal(one, other) for one, other in zip(evaluated, leaves(state.average), strict=True)
    )


@pytest.mark.long
def test_a_run_evaluates_the_average(tmp_path: Path) -> None:
    """The training points are those of a run without it, the last evaluation is another."""
    with compiled_fully():
        for name, ema in (("with", "0.9"), ("without", "null")):
            run(vae("steps=4", f"ema={ema}"), tmp_path / name)
    series = {name: tensorboard_scalars(tmp_path / name) for name in ("with", "without")}
    assert series["with"]["loss"].values == series["without"]["loss"].values
    one, other = (series[name]["eval/loss"].values for name in ("with", "without"))
    assert one[0] == other[0]
    assert one[-1] != other[-1]


@pytest.mark.parametrize(
    ("better", "values", "waited"),
    [
        ("lower", [3, 2, 2, 2.5, 1], [0, 0, 1, 2, 0]),
        ("higher", [3, 2, 4, 4], [0, 1, 0, 1]),
        ("lower", [np.nan, np.nan, 5, np.nan, 4.95, 4.8], [1, 2, 0, 1, 2, 0]),
    ],
)
def test_patience_counts_evaluations_without_anything_better(
    better: str, values: list[float], waited: list[int]
) -> None:
    """By more than the smallest change; NaN is never better."""
    options = EarlyStopOptions(better=better, min_change=0.1)
    observe, patience, seen = stop_rules.make_observe(options), stop_rules.Patience.new(), []
    for value in values:
        patience = observe(patience, jnp.float32(value))
        seen.append(int(patience.waited))
    assert seen == waited


def test_a_run_that_no_longer_gets_better_ends_early_and_stays_ended(tmp_path: Path) -> None:
    """At an evaluation, saved, with one point per tag and step; killed before, it ends at the same step."""
    stuck = ("early_stop.patience=2", "early_stop.metric=eval/encoder/active_units", "steps=30")
    config = vae(*stuck, "early_stop.better=lower", "early_stop.min_change=100")
    outcome = run(config, tmp_path / "straight")
    assert outcome.ended_early == "eval/encoder/active_units did not get better in 2 evaluations"
    assert (outcome.step, outcome.updates) == (4, 4)
    series = tensorboard_scalars(tmp_path / "straight")
    assert outcome.evaluated["encoder/active_units"] == series["eval/encoder/active_units"].values[-1]
    assert series["eval/loss"].steps == [0, 2, 4]
    run_until(config, tmp_path / "stopped", 2)
    assert run(config, tmp_path / "stopped").step == 4
    assert points(tmp_path / "stopped") == points(tmp_path / "straight")
    again = run(config, tmp_path / "straight")
    assert (again.updates, again.ended_early) == (0, outcome.ended_early)
    assert points(tmp_path / "stopped") == points(tmp_path / "straight")


def test_a_metric_that_no_evaluation_has_is_refused_with_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a suggestion; a folder that was made for the run is gone again."""
    folder = tmp_path / "run"
    arguments = [str(CONFIGS / "vae.yaml"), "early_stop.metric=eval/los", "--workdir", str(folder)]
    assert program.main(arguments) == 2
    assert not folder.exists()
    error = capsys.readouterr().err
    assert error == "early_stop.metric: no evaluation has eval/los; did you mean eval/loss?\n"


def poisoned(at: int) -> list[dict[str, np.ndarray]]:
    """Batches of which one holds NaN; the first is held out."""
    image = np.full((4, 8, 8, 1), 0.5, np.float32)
    return [{"image": image * (np.nan if number == at + 1 else 1)} for number in range(100)]


@pytest.mark.filterwarnings("default::sowlog.NonfiniteWarning")
def test_a_run_whose_objective_is_not_finite_ends_and_keeps_what_was_good(tmp_path: Path) -> None:
    """The last checkpoint is older; TensorBoard shows where it happened; repeated, it ends the same way."""
    own = (f"data.name={HERE}:poisoned", "data.arguments.at=6", "data.eval_batches=1")
    config = vae(*own, "steps=40", "checkpoint.every=4")
    for updates in (8, 4):
        outcome = run(config, tmp_path)
        assert outcome.diverged
        assert outcome.ended_early == "the objective or its gradient was not finite at step 6"
        assert (outcome.step, outcome.updates, outcome.evaluated) == (4, updates, {})
    losses = tensorboard_scalars(tmp_path)["loss"].values
    assert [bool(np.isfinite(loss)) for loss in losses] == [True] * 6 + [False] * 2


@pytest.mark.filterwarnings("default::sowlog.NonfiniteWarning")
def test_a_run_that_diverges_between_checkpoints_ends_within_a_few_steps(tmp_path: Path) -> None:
    """And without the check it goes on to the end."""
    own = (f"data.name={HERE}:poisoned", "data.arguments.at=1", "data.eval_batches=1", "checkpoint.every=50")
    assert run(vae(*own, "steps=40"), tmp_path / "on").updates == 1 + 1 + 8
    outcome = run(vae(*own, "steps=20", "stop_on_nan=false"), tmp_path / "off")
    assert (outcome.step, outcome.updates, outcome.diverged) == (20, 20, False)


@pytest.mark.filterwarnings("default::sowlog.NonfiniteWarning")
@pytest.mark.parametrize(("stopped_at", "saved"), [(3, 4), (8, 0)])
def test_a_run_that_diverges_ends_at_the_same_step_when_it_was_stopped(
    stopped_at: int, saved: int, tmp_path: Path
) -> None:
    """Before the step that is not finite, or after it, before anybody looked: then nothing of it is saved."""
    own = (f"data.name={HERE}:poisoned", "data.arguments.at=6", "data.eval_batches=1", "checkpoint.every=50")
    config = vae(*own, "steps=40")
    straight = run(config, tmp_path / "straight")
    assert straight.reached == 6 + 1 + 8
    stopped = run_until(config, tmp_path / "stopped", stopped_at)
    assert (stopped.step, stopped.diverged) == (saved, saved == 0)
    again = run(config, tmp_path / "stopped")
    assert (again.reached, again.updates) == (straight.reached, straight.reached - saved)
    assert again.ended_early == straight.ended_early
    assert points(tmp_path / "stopped") == points(tmp_path / "straight")


def test_the_program_ends_with_status_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And reports the first value that was not finite, the cause, and the step that is saved."""
    arguments = [
        "task.hidden=[4]",
        f"data.name={HERE}:poisoned",
        "data.arguments.at=1",
        "data.eval_batches=1",
    ]
    command = [str(CONFIGS / "vae.yaml"), *arguments, "steps=30", "--workdir", str(tmp_path)]
    assert program.main(command) == 3
    out, errors = capsys.readouterr()
    assert "ended early: the objective or its gradient was not finite at step 1\nsaved at step 0\n" in out
    assert (
        "warning: at step 1 encoder/latent_kl/00 became nan (forward pass, encoder, layer 0, sown in"
        in errors
    )


def test_a_profile_is_where_tensorboard_looks_and_changes_nothing(tmp_path: Path) -> None:
    """One for the window; the run's points are the same, and a window may be asked for when it goes on."""
    run(vae("steps=6"), tmp_path / "plain")
    run_until(vae("steps=6"), tmp_path / "profiled", 1)
    run(vae("steps=6", "profile=3:5"), tmp_path / "profiled")
    assert len(list((tmp_path / "profiled").glob("plugins/profile/*/*.xplane.pb"))) == 1
    assert points(tmp_path / "profiled") == points(tmp_path / "plain")
    assert saved_arrays(tmp_path / "profiled", 6) == saved_arrays(tmp_path / "plain", 6)


@pytest.mark.parametrize(
    ("window", "line"),
    [
        ("5:3", "must end after it begins, got 5:3"),
        ("3", "profile: must be text, got 3"),
        ("a:b", 'must be two steps, such as 10:15, got "a:b"'),
        ("1:2:3", 'must be two steps, such as 10:15, got "1:2:3"'),
    ],
)
def test_an_invalid_profile_window_is_refused(window: str, line: str) -> None:
    """10:15 is text here, and not the 615 of YAML 1.1."""
    assert config_file.load(CONFIGS / "vae.yaml", ["profile=10:15"]).profile == "10:15"
    (error,) = errors_of(CONFIGS / "vae.yaml", f"profile={window}")
    assert line in error
