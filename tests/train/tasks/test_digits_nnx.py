"""The experiment that is written twice: in linen, and in nnx."""

import jax
import numpy as np

import sowlog
from tests.train.running import CONFIGS, TINY_DIGITS, run
from train.config import file as config_file
from train.tasks import digits, digits_nnx

PLACES = ("task.dropout=0", "steps=20", "eval.every=5")


def _run(name, workdir):
    config = config_file.load(CONFIGS / f"{name}.yaml", [*TINY_DIGITS, *PLACES])
    run(config, workdir)
    return sowlog.read(workdir).scalars


def test_both_have_the_same_tags_and_curves(tmp_path, monkeypatch):
    """From the same weights, and without dropout, whose masks Flax draws differently in the two."""
    wanted = _run("digits", tmp_path / "linen")

    def drawn_by_linen(self, key, batch):
        return digits.Digits(self._options).init(key, batch)

    own = digits_nnx.DigitsNnx.init
    monkeypatch.setattr(digits_nnx.DigitsNnx, "init", drawn_by_linen)
    found = _run("digits_nnx", tmp_path / "nnx")
    # Speed and memory are those of the machine.
    tags = [tag for tag in wanted if not tag.startswith(("speed", "system"))]
    assert found.keys() == wanted.keys()
    assert "block_1/activation_rms" in tags
    for tag in tags:
        np.testing.assert_array_equal(found[tag].steps, wanted[tag].steps)
        np.testing.assert_allclose(found[tag].values, wanted[tag].values, rtol=1e-5, atol=1e-7, err_msg=tag)
    config = config_file.load(CONFIGS / "digits_nnx.yaml", TINY_DIGITS)
    batch = {"image": np.zeros((2, 8, 8, 1), np.float32), "label": np.zeros(2, np.int32)}
    task = digits_nnx.DigitsNnx(config.task)
    shapes = [
        jax.eval_shape(init, jax.random.key(0), batch) for init in (task.init, lambda *a: own(task, *a))
    ]
    assert shapes[0] == shapes[1]
