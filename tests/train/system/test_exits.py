import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.train.data.loaders import HERE as LOADERS
from tests.train.running import ROOT, one_device

FAILING_SAVE = """
import errno, os, sys
from pathlib import Path
import jax.numpy as jnp
from train.system import exits
from train.runs.checkpoint import Checkpoints, NotSavedError

make = os.mkdir

def full(path, *arguments, **options):
    if "orbax-checkpoint-tmp/default" in str(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    make(path, *arguments, **options)

def main():
    os.mkdir = full
    with Checkpoints(Path(sys.argv[1]), keep=2) as checkpoints:
        try:
            checkpoints.save(7, {"a": jnp.arange(3.0)})
        except NotSavedError as error:
            print(error, flush=True)
    return 5

exits.exit_with(main)
"""


def test_threads_of_a_save_that_failed_hold_up_no_exit(tmp_path: Path) -> None:
    """Orbax's wait 300 s for the parts of a checkpoint whose folder a full disk could not make."""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", FAILING_SAVE, str(tmp_path)],
        cwd=ROOT,
        env=one_device(),
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.stdout.startswith(f"{tmp_path}/7 cannot be written: OSError: [Errno 28] No space left"), done
    assert done.returncode == 5
    assert time.monotonic() - begun < 250


def test_what_was_not_left_is_waited_for() -> None:
    """A thread that still works at the end of a program without a loader is not cut short."""
    code = (
        "import threading, time; from train.system import exits; exits.LINGERING = 0.01\n"
        "work = lambda: (time.sleep(0.3), print('done', flush=True))\n"
        "exits.exit_with(lambda: threading.Thread(target=work).start() or 3)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout, done.returncode) == ("done\n", 3)


PRODUCED = """
import sys
from train import __main__
from train.system import exits
from train import loop
exits.LINGERING = 0.5
how = sys.argv.pop(1)
if how == "stopped":
    begun = loop.train
    def train(*arguments, **options):
        import os, signal
        os.kill(os.getpid(), signal.SIGTERM)
        return begun(*arguments, **options)
    loop.train = train
exits.exit_with(__main__.main)
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        ("finished", 0, "after 2 steps"),
        ("stopped", 128 + signal.SIGTERM, "stopped by SIGTERM"),
        ("failed", 1, "ValueError: a broken record"),
    ],
)
def test_threads_of_a_loader_hold_up_no_exit(how: str, status: int, said: str, tmp_path: Path) -> None:
    """However the run ends, its last line and its status stay."""
    settings = (
        "task.width=2",
        "steps=2",
        "eval.every=2",
        "data.eval_batches=1",
        f"data.name={LOADERS}:producer",
    )
    fails = ["data.arguments.fails_at=3"] if how == "failed" else []
    done = subprocess.run(
        [
            *(sys.executable, "-c", PRODUCED, how, "configs/digits.yaml", *settings, *fails),
            *(f"data.name={LOADERS}:producer", "--workdir", str(tmp_path / "run")),
        ],
        cwd=ROOT,
        env=one_device(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == status, done.stdout
    assert said in done.stdout
