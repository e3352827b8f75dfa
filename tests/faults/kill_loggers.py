"""A program that starts loggers, one after another, and kills each with SIGKILL at a random moment.

Arguments: the folder, the number of runs, a seed. Each run logs as fast as possible to a folder of its own.
Print, for each run, the number of `log` calls that had returned before the kill.
"""

import mmap
import os
import random
import signal
import struct
import sys
import time
import warnings

import numpy as np

from sowlog import Logger

QUEUE_SIZE = 16


def log_for_ever(logdir: str, returned: mmap.mmap, scalars: int) -> None:
    """Log, and store the number of returned calls after each."""
    log = Logger(logdir, queue_size=QUEUE_SIZE)
    step = 0
    while True:
        log(step, {"step": step, "x": np.full(scalars, step, np.float32)})
        step += 1
        struct.pack_into("<q", returned, 0, step)


def kill_one(logdir: str, rng: random.Random) -> int:
    """Start a logger in a forked child, kill it, and return the number of returned calls."""
    returned = mmap.mmap(-1, 8)
    # Wide records are killed in the middle of a write more often.
    scalars = rng.choice([1, 10, 300])
    child = os.fork()
    if child == 0:
        try:
            log_for_ever(logdir, returned, scalars)
        finally:
            os._exit(1)
    while struct.unpack_from("<q", returned)[0] == 0:
        time.sleep(0.0005)
    time.sleep(rng.uniform(0, 0.06))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return struct.unpack_from("<q", returned)[0]


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of forks beside threads: the child uses neither jax's nor our parent's
    folder, runs, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(seed)
    for run in range(runs):
        print(kill_one(f"{folder}/{run:03d}", rng), flush=True)
