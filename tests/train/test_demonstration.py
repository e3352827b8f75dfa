import re

import numpy as np
import pytest
from PIL import Image

import sowlog
from tests.support.tensorboard_reading import tensorboard_scalars
from tests.train.running import TINY_MOE
from train import __main__, demonstration
from train.sweep import command as sweep_command
from train.sweep.plan import plan


def trained(folder):
    """Train in this process what the demonstration is made of, on one seed."""
    for name, settings in demonstration.VARIANTS.items():
        overrides = [*TINY_MOE, *settings]
        (point,) = plan(demonstration.FILE, overrides, ["seed=1..1"], folder / name)
        program = sweep_command.command(demonstration.FILE, overrides, point)
        assert __main__.main(program[program.index("train") + 1 :]) == 0


@pytest.mark.long
def test_the_demonstration_shows_what_tensorboard_reads(tmp_path, capsys):
    """Last held-out values of all layers, by a reader that is not ours; and a picture."""
    trained(tmp_path)
    capsys.readouterr()
    assert demonstration.main([*TINY_MOE, "--seeds", "1..1", "--workdir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for name in demonstration.VARIANTS:
        series = tensorboard_scalars(tmp_path / name / "seed=1")
        last = {tag: points.values[-1] for tag, points in series.items() if tag.startswith("eval/")}
        dropped = np.mean([last[f"eval/blocks/moe/dropped/{layer:02d}"] for layer in range(2)])
        busiest = max(last[f"eval/blocks/moe/busiest/{layer:02d}"] for layer in range(2))
        cells = [f"{last['eval/bits_per_byte']:.3f}", f"{dropped:.1%}", f"{busiest:.1f}"]
        (row,) = re.findall(rf"^.{{2}}{name} .*$", printed, re.MULTILINE)
        assert re.findall(r"[\d.]+%?", row) == cells
    with Image.open(tmp_path / "demonstration.png") as picture:
        picture.verify()
        assert picture.format == "PNG"


def test_an_error_in_the_command_is_reported(tmp_path, capsys):
    """Status 2, with the lines of the training program."""
    assert demonstration.main(["stepz=3", "--workdir", str(tmp_path)]) == 2
    assert "stepz" in capsys.readouterr().err


def test_a_run_without_the_tags_is_named(tmp_path):
    """Runs of another program cannot be compared."""
    with sowlog.Logger(tmp_path) as log:
        log(0, {"loss": 1.0})
    with pytest.raises(KeyError, match="has no eval/bits_per_byte"):
        demonstration.curve(sowlog.read(tmp_path), demonstration.QUANTITIES[0])
