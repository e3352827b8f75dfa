"""Statistics of a task's modules by the section `watch`."""

import functools

import jax
import numpy as np
import pytest

from tests.train.running import CONFIGS, digits, moe
from tests.train.tasks.test_tasks import Trained
from train import __main__ as program
from train.config import file as config_file
from train.config.experiment import Config

TINY = ("steps=2", "data.batch_size=8", "task.width=2")
WATCH = ("watch.statistics=[norms,nonfinite]", "watch.of=[outputs,params]")


def digits_nnx(*overrides: str) -> Config:
    return config_file.load(CONFIGS / "digits_nnx.yaml", list(overrides))


EXPERIMENTS = {
    "linen in microbatches": lambda *watch: digits(*TINY, "microbatches=2", *watch),
    "nnx": lambda *watch: digits_nnx(*TINY, *watch),
    "layers in a scan": lambda *watch: moe("steps=2", *watch),
}


@pytest.mark.parametrize("case", list(EXPERIMENTS))
def test_watching_every_module_changes_no_parameter(case: str) -> None:
    """But for rounding, as XLA fuses another program; the statistics come with the others of each step."""
    watched, bare = (Trained(EXPERIMENTS[case](*watch)) for watch in (WATCH, ()))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(close, watched.state.variables, bare.state.variables)
    assert {tag: watched.last[tag] for tag in bare.last} == pytest.approx(bare.last, rel=1e-4, abs=1e-6)
    added = watched.last.keys() - bare.last.keys()
    assert {tag.split("/")[-2] for tag in added if tag.endswith("/rms")} == {"outputs", "params"}
    assert watched.last["outputs/nonfinite"] == 0
    assert watched.last["params/norm"] == pytest.approx(watched.first["params/norm"], rel=0.1)


def test_modules_that_do_not_exist_are_a_mistake(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a preview, and in a run before its first step; the error lists what exists."""
    for arguments in (["--dry-run"], ["--workdir", str(tmp_path / "run")]):
        assert program.main([str(CONFIGS / "digits.yaml"), *TINY, "watch.modules=[blok_*]", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith('watch.modules: the watch "blok_*" matches no module that was called.')
        assert "block_0, block_0/conv" in error
