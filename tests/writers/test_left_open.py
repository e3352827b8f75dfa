"""A writer without a close, as in a list whose next one raises, holds no file, port or thread."""

import gc
import subprocess
import sys
import threading

import numpy as np
import pytest

import sowlog
from sowlog.testing import MemoryWriter
from sowlog.writers import Csv, Every, JsonLines, Parquet, Prometheus, Record, Spooled, TensorBoard

MAKERS = {
    "Csv": Csv,
    "Every": lambda folder: Every(2, JsonLines(folder)),
    "JsonLines": JsonLines,
    "Parquet": Parquet,
    "Prometheus": lambda folder: Prometheus(_port(folder)),
    "Spooled": lambda folder: Spooled(MemoryWriter(), folder / "a.spool"),
    "TensorBoard": TensorBoard,
}


def _port(folder):
    """Return a free port, the same one for a folder."""
    file = folder / "port"
    if not file.exists():
        probe = Prometheus(0)
        folder.mkdir(exist_ok=True)
        file.write_text(probe.url.split(":")[2].partition("/")[0])
        probe.close()
    return int(file.read_text())


@pytest.mark.parametrize("name", MAKERS)
def test_the_same_line_works_again(tmp_path, name):
    """As in a notebook, after the argument of the other writer was mended."""
    make = MAKERS[name]
    threads = set(threading.enumerate())

    def attempt(size):
        return [make(tmp_path), Every(size, MemoryWriter())]

    with pytest.raises(ValueError, match="the cadence of Every must be 1 step or more"):
        attempt(0)
    gc.collect()
    assert set(threading.enumerate()) <= threads
    writer, _ = attempt(1)
    writer.write(Record(0, 1.5, ("x",), np.ones(1, np.float32)))
    writer.close()


def test_records_of_an_abandoned_spool_are_left_to_the_next(tmp_path):
    """They were not forwarded, and the file is not removed."""
    stalled = threading.Event()

    class Stalled(MemoryWriter):
        def write(self, record):
            """Raise, as a server that is gone."""
            stalled.set()
            raise sowlog.writers.StalledError("gone")

    spooled = Spooled(Stalled(), tmp_path / "a.spool")
    spooled.write(Record(3, 1.5, ("x",), np.ones(1, np.float32)))
    assert stalled.wait(60)
    del spooled
    gc.collect()
    memory = MemoryWriter()
    Spooled(memory, tmp_path / "a.spool").close()
    assert [record.step for record in memory.records] == [3]


def test_a_forked_child_that_collects_a_writer_ends(tmp_path):
    """It has no threads: it waits for none, and the parent's writers work on."""
    script = tmp_path / "fork.py"
    script.write_text(FORK)
    done = subprocess.run(
        [sys.executable, script, tmp_path], check=True, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines() == ["child", "[0]"]


FORK = """
import os, sys, threading, warnings
import numpy as np
from sowlog.testing import MemoryWriter
from sowlog.writers import JsonLines, Prometheus, Record, Spooled
warnings.simplefilter("ignore")  # of forks beside threads
memory = MemoryWriter()
made = [Prometheus(0), Spooled(memory, sys.argv[1] + "/a.spool"), JsonLines(sys.argv[1])]
# The thread of the spool may hold its lock at a fork, and holds it for ever in the child.
lock, held, done = made[1]._forwarder._changed, threading.Event(), threading.Event()
def hold():
    with lock:
        held.set()
        done.wait()
holder = threading.Thread(target=hold)
holder.start()
held.wait()
child = os.fork()
done.set()
if child == 0:
    made.clear()
    print("child", flush=True)
    os._exit(0)
os.waitpid(child, 0)
for writer in made:
    writer.write(Record(0, 1.5, ("x",), np.ones(1, np.float32)))
    writer.close()
print([record.step for record in memory.records])
"""
