"""Statistics of a task's modules by the section `watch`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from tests.support.tensorboard_reading import tensorboard_scalars
from tests.train.running import CONFIGS, digits, moe, run
from tests.train.tasks.test_tasks import Trained
from train import __main__ as program
from train import gradients, tasks
from train.config import file as config_file
from train.config.experiment import Config

TINY = ("steps=2", "data.batch_size=8", "task.width=2")
WATCH = ("watch.statistics=[rms,nonfinite]", "watch.of=[outputs,params,grads,updates]")


def digits_nnx(*overrides: str) -> Config:
    return config_file.load(CONFIGS / "digits_nnx.yaml", list(overrides))


EXPERIMENTS = {
    "linen in microbatches": lambda *watch: digits(*TINY, "microbatches=2", *watch),
    "nnx": lambda *watch: digits_nnx(*TINY, *watch),
    "layers in a scan": lambda *watch: moe("steps=2", *watch),
}


@pytest.mark.long
@pytest.mark.parametrize("case", list(EXPERIMENTS))
def test_watching_every_module_changes_no_parameter(case: str) -> None:
    """But for rounding, as XLA fuses another program; the statistics come with the others of each step."""
    watched, bare = (Trained(EXPERIMENTS[case](*watch)) for watch in (WATCH, ()))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(close, watched.state.variables, bare.state.variables)
    assert {tag: watched.last[tag] for tag in bare.last} == pytest.approx(bare.last, rel=1e-4, abs=1e-6)
    added = watched.last.keys() - bare.last.keys()
    watched_arrays = {tag.split("/")[-2] for tag in added if tag.endswith("/rms")}
    assert watched_arrays == {"outputs", "params", "grads", "updates"}
    assert watched.last["outputs/nonfinite"] == 0
    assert watched.last["params/rms"] == pytest.approx(watched.first["params/rms"], rel=0.1)


def test_modules_that_do_not_exist_are_a_mistake(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a preview, and in a run before its first step; the error lists the modules."""
    for arguments in (["--dry-run"], ["--workdir", str(tmp_path / "run")]):
        assert program.main([str(CONFIGS / "digits.yaml"), *TINY, "watch.modules=[blok_*]", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith('watch.modules: the watch "blok_*" matches no module that was called.')
        assert "block_0, block_0/conv" in error


def test_a_cadence_of_steps(tmp_path) -> None:
    """The watched statistics have points at each second step, the others at all."""
    config = digits(
        *TINY, "steps=4", "watch.modules=[block_0]", "watch.every=2", "watch.of=[outputs,updates]"
    )
    run(config, tmp_path)
    series = tensorboard_scalars(tmp_path)
    assert series["loss"].steps == [0, 1, 2, 3]
    assert series["block_0/outputs/rms"].steps == [0, 2]
    assert series["block_0/updates/rms"].steps == [0, 2]


def forward_of(variables: dict, batch: dict, key: jax.Array) -> tasks.Forward:
    """Sow the gradient of a product, whose loss is its square."""

    def loss_fn(w: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(sowlog.sow_grad("product", w * x, sowlog.max)))

    loss, updates = sowlog.collect(loss_fn)(variables["params"], batch["x"])
    return tasks.Forward(loss, {}, updates)


@pytest.mark.parametrize("microbatches", [1, 2])
def test_a_task_sows_gradients(microbatches: int) -> None:
    """They come with the metrics of the forward pass, merged over microbatches."""
    differentiate = gradients.make_differentiate(forward_of, losses=(), microbatches=microbatches)
    x = jnp.arange(4.0)
    batch = {"x": x if microbatches == 1 else x.reshape(2, 2)}
    loss, passed, grads = jax.jit(differentiate)({"params": 3.0}, batch, jax.random.key(0), 0)
    assert (float(loss), float(grads)) == (31.5, 21.0)
    # The mean of a microbatch of two examples divides by two, that of the batch by four.
    assert sowlog.compute(passed.updates["metrics"]) == {"product": 4.5 * microbatches}


def test_a_gradient_and_a_value_of_one_name_are_a_mistake() -> None:
    """The error names the tag."""

    def forward(variables: dict, batch: dict, key: jax.Array) -> tasks.Forward:
        passed = forward_of(variables, batch, key)
        return passed._replace(updates={"losses": {}, "metrics": {"product": sowlog.mean.of(1.0)}})

    differentiate = gradients.make_differentiate(forward, losses=(), microbatches=1)
    with pytest.raises(ValueError, match=r"product is sown in the forward pass and by its gradient"):
        differentiate({"params": 3.0}, {"x": jnp.ones(2)}, jax.random.key(0), 0)
