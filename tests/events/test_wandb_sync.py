"""Runs that W&B's sync of event files leaves: links to the files in a folder of W&B's own."""

import os
import subprocess
import sys

import sowlog
from tests.support.any_points import sowlog_points, tensorboard_points
from tests.support.waiting import wait_until

# In a process of its own, as the sync replaces methods of tensorboardX. It ends with its input: W&B links
# a file some time after the first event.
SYNCED = """
import sys
import wandb
wandb.tensorboard.patch(root_logdir=".", pytorch=False)
run = wandb.init(project="digits", mode="offline")
from tensorboardX import SummaryWriter
writer = SummaryWriter("first")
for step in range(5):
    writer.add_scalar("loss", 1 / (step + 1), step)
    writer.add_histogram("weights", [0.5, float(step)], step)
writer.close()
sys.stdin.read()
run.finish()
"""


def test_a_synced_run_is_that_of_its_files(tmp_path, monkeypatch):
    """As TensorBoard reads it, in W&B's folder and in that of the writer."""
    # W&B sets WANDB_SERVICE in a process that uses it, as other tests do: its children share that service,
    # which takes "first" for a folder of its own working directory.
    for name in os.environ.keys() - {"WANDB_ERROR_REPORTING"}:
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    command = [sys.executable, "-c", SYNCED]
    with (
        (tmp_path / "output").open("w") as output,
        subprocess.Popen(
            command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=output, stderr=output
        ) as program,
    ):
        links = "wandb/offline-run-*/files/first/*tfevents*"
        try:
            wait_until(lambda: program.poll() is not None or list(tmp_path.glob(links)))
        finally:
            program.communicate()
    assert program.returncode == 0, (tmp_path / "output").read_text()
    (file,) = tmp_path.glob(links)
    assert file.is_symlink()
    points = sowlog_points(sowlog.read(file.parent))
    assert points == tensorboard_points(file.parent) == sowlog_points(sowlog.read(tmp_path / "first"))
    assert [step for step, *_ in points["loss"]] == [step for step, *_ in points["weights"]] == list(range(5))
    # Each run once: latest-run is a link to W&B's last one.
    assert sorted(sowlog.read_all(tmp_path)) == ["first", str(file.parent.relative_to(tmp_path))]
