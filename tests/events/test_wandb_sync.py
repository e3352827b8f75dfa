"""Runs that W&B's sync of event files leaves: links to the files in a folder of W&B's own."""

import subprocess
import sys

import sowlog
from tests.support.any_points import sowlog_points, tensorboard_points

# In a process of its own, as the sync replaces methods of tensorboardX.
SYNCED = """
import wandb
run = wandb.init(project="digits", mode="offline", sync_tensorboard=True)
from tensorboardX import SummaryWriter
writer = SummaryWriter("first")
for step in range(5):
    writer.add_scalar("loss", 1 / (step + 1), step)
    writer.add_histogram("weights", [0.5, float(step)], step)
writer.close()
run.finish()
"""


def test_a_synced_run_is_that_of_its_files(tmp_path, monkeypatch):
    """As TensorBoard reads it, in W&B's folder and in that of the writer."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    # W&B links files below the working folder alone.
    subprocess.run([sys.executable, "-c", SYNCED], cwd=tmp_path, check=True, capture_output=True)
    (folder,) = tmp_path.glob("wandb/offline-run-*/files/first")
    (file,) = folder.glob("*tfevents*")
    assert file.is_symlink()
    points = sowlog_points(sowlog.read(folder))
    assert points == tensorboard_points(folder) == sowlog_points(sowlog.read(tmp_path / "first"))
    assert [step for step, *_ in points["loss"]] == [step for step, *_ in points["weights"]] == list(range(5))
    # Each run once: latest-run is a link to W&B's last one.
    assert sorted(sowlog.read_all(tmp_path)) == ["first", str(folder.relative_to(tmp_path))]
