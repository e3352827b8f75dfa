import subprocess
import sys
import time
from pathlib import Path

from tests.train.running import ROOT, one_device

FAILING_SAVE = """
import errno, os, sys
from pathlib import Path
import jax.numpy as jnp
from train import leaving
from train.checkpoint import Checkpoints, NotSavedError

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

leaving.exit_with(main)
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
    """A user's thread that still works at the end of a run is not cut short."""
    code = (
        "import threading, time; from train import leaving; leaving.LINGERING = 0.01\n"
        "work = lambda: (time.sleep(0.3), print('done', flush=True))\n"
        "leaving.exit_with(lambda: threading.Thread(target=work).start() or 3)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout, done.returncode) == ("done\n", 3)
