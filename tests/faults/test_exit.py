import signal
import subprocess
import sys

import pytest

from sowlog.testing import read_events
from tests.support.strict_python import STRICT_PYTHON

PRELUDE = """
import jax, jax.numpy as jnp, sys, os, signal, threading, time
from sowlog._log.logger import Logger
from sowlog._tree.packing import pack
step_metrics = jax.jit(lambda x: pack({"x": jax.lax.fori_loop(0, 20, lambda _, y: jnp.tanh(y @ y), x).sum()}))
x = jnp.ones((200, 200))
"""


def steps(logdir):
    """Return the steps on disk."""
    return [point.step for point in read_events(logdir)]


def test_exit_without_close_writes_all(tmp_path, run_script):
    """All records logged before the exit are on disk, although the device was still computing them."""
    child = run_script(
        PRELUDE
        + """
log = Logger(logdir)
for step in range(100):
    log(step, step_metrics(x))
"""
    )
    assert (child.returncode, child.stderr) == (0, "")
    assert steps(tmp_path) == list(range(100))


def test_exit_with_the_logger_made_before_the_backend(tmp_path, run_script):
    """JAX registers the clean-up of its backend at the first use, before or after the logger."""
    child = run_script(
        """
        from sowlog._log.logger import Logger
        log = Logger(logdir)
        import jax.numpy as jnp
        for step in range(100):
            log(step, {"x": jnp.float32(step)})
        """
    )
    assert (child.returncode, child.stderr) == (0, "")
    assert steps(tmp_path) == list(range(100))


def test_death_by_an_exception_writes_all(tmp_path, run_script):
    """The last steps before a crash are the most useful ones."""
    child = run_script(
        PRELUDE
        + """
log = Logger(logdir)
for step in range(100):
    log(step, step_metrics(x))
raise ValueError("training diverged")
"""
    )
    assert child.returncode == 1
    assert "training diverged" in child.stderr
    assert steps(tmp_path) == list(range(100))


def test_sys_exit_in_the_middle_keeps_the_status(tmp_path, run_script):
    """The exit status of the program does not change."""
    child = run_script(PRELUDE + 'log = Logger(logdir)\nlog(0, {"x": 1.0})\nsys.exit(7)')
    assert (child.returncode, steps(tmp_path)) == (7, [0])


def test_a_loss_at_exit_is_shown(run_script):
    """The error of a writer that fails during the exit is printed."""
    child = run_script(
        """
        from sowlog._log.logger import Logger
        class Failing:
            def write(self, record): raise OSError("no disk")
            def flush(self): pass
            def close(self): pass
        log = Logger(logdir, writers=[Failing()])
        log(3, {"x": 1.0})
        """
    )
    assert "Failing lost 1 record, at steps 3 to 3. The first failed with OSError: no disk" in child.stderr


def test_a_writer_that_hangs_does_not_stop_the_exit(run_script):
    """The wait at the exit ends with a TimeoutError, which is printed."""
    child = run_script(
        """
        import threading
        from sowlog._log.background import Background
        hang = lambda items, pause: threading.Event().wait()
        background = Background(hang, lambda: None, size=4, patience=0.2)
        background.put(0)
        """
    )
    assert child.returncode == 0
    assert "finished nothing for 0.2 s" in child.stderr


CHILDREN = """
import concurrent.futures, multiprocessing, warnings
import jax, sowlog  # JAX first, so that children inherit all of sowlog
warnings.simplefilter("ignore")  # of forks beside threads

def log_to(folder):
    global kept
    log = sowlog.Logger(folder)
    for step in range(300):
        log(step, {"x": 1.0})
    if folder.endswith("kept"):
        kept = log
    if folder.endswith("raised"):
        raise SystemExit(3)

if __name__ == "__main__":
    multiprocessing.set_forkserver_preload(["jax", "sowlog"])
    for method in ("fork", "forkserver"):
        context = multiprocessing.get_context(method)
        for name in ("dropped", "kept", "raised"):
            child = context.Process(target=log_to, args=(f"{logdir}/{method}/process-{name}",))
            child.start()
            child.join()
            print(method, name, child.exitcode)
    fork = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=fork) as executor:
        executor.submit(log_to, f"{logdir}/fork/executor-kept").result()
    pool = fork.Pool(1)
    pool.apply(log_to, (f"{logdir}/fork/pool-kept",))
    pool.close()
    pool.join()
"""


def test_a_child_of_multiprocessing_writes_all_without_close(tmp_path):
    """It ends by os._exit, which runs no exit hook of the interpreter; its exit status does not change."""
    script = tmp_path / "children.py"  # A file, as forkserver's children import it.
    script.write_text(f"logdir = {str(tmp_path)!r}\n{CHILDREN}")
    child = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=120)
    assert child.stderr == ""
    statuses = [
        f"{method} {end}" for method in ("fork", "forkserver") for end in ("dropped 0", "kept 0", "raised 3")
    ]
    assert child.stdout.splitlines() == statuses
    runs = {str(path.relative_to(tmp_path)): steps(path) for path in tmp_path.glob("fork*/*")}
    assert len(runs) == 8
    assert runs == {run: list(range(300)) for run in runs}


FORK = """
import os, sys, threading, warnings
warnings.simplefilter("ignore")  # Python and jax warn of any fork beside threads
from sowlog._log.logger import Logger

def end_of_child(number, code):
    log = Logger(f"{logdir}/{number}", every=2)
    log(0, {"x": 1.0})
    held, forked = threading.Event(), threading.Event()
    def hold():
        # The writer thread may hold the lock at a fork, and no thread of the child would release it.
        with log._background._lock:
            held.set()
            forked.wait()
    threading.Thread(target=hold).start()
    held.wait()
    pid = os.fork()
    if pid == 0:
        with open(f"{logdir}/{number}.err", "w") as errors:
            os.dup2(errors.fileno(), 2)
        names = {"log": log}
        del log
        exec(code, names)
        sys.exit(0)
    forked.set()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    log(2, {"x": 1.0})
    log.close()
    return status

for number, code in enumerate(codes):
    print(end_of_child(number, code), flush=True)
"""
FORKED = {
    "pass": 0,
    "log.close()": 0,
    "del log": 0,
    'log(4, {"x": 1.0})': 1,
    'log(5, {"x": 1.0})': 1,
    "log.flush()": 1,
}
"""The function of a forked child, and the status with which it ends."""


@pytest.fixture(scope="module")
def forked(tmp_path_factory):
    """Fork a child for each code from one process, and return the folder with a run and errors of each."""
    folder = tmp_path_factory.mktemp("forked")
    script = f"logdir, codes = {str(folder)!r}, {list(FORKED)!r}\n{FORK}"
    command = [*STRICT_PYTHON, "-c", script]
    parent = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (parent.returncode, parent.stderr) == (0, "")
    assert parent.stdout.split() == [str(status) for status in FORKED.values()]
    return folder


@pytest.mark.parametrize("code", FORKED)
def test_a_forked_child_ends_and_leaves_the_parents_file_alone(forked, code):
    """The child, which has no writer thread, neither hangs nor writes; the parent continues."""
    assert steps(forked / str(list(FORKED).index(code))) == [0, 2]


@pytest.mark.parametrize("code", FORKED)
def test_logging_in_a_forked_child_is_an_error(forked, code):
    """The error has the remedy, at a skipped step as well."""
    errors = (forked / f"{list(FORKED).index(code)}.err").read_text()
    if FORKED[code]:
        assert "make a new Logger in the child" in errors
    else:
        assert errors == ""


def test_a_signal_handler_may_exit_in_the_middle_of_log(tmp_path, run_script):
    """The `with` block closes the logger, all logged steps are on disk, and the exit status is 5."""
    child = run_script(
        """
        import signal, sys, threading, os
        from sowlog._log.logger import Logger
        def leave(number, frame):
            sys.exit(5)
        signal.signal(signal.SIGTERM, leave)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with Logger(logdir, queue_size=2) as log:
            step = 0
            while True:
                log(step, {"x": 1.0})
                step += 1
        """
    )
    assert (child.returncode, child.stderr) == (5, "")
    written = steps(tmp_path)
    assert written == list(range(len(written)))
    assert len(written) > 10


def test_a_handler_that_raises_anywhere_leaves_no_lock_held(tmp_path, run_script):
    """Ctrl-C raises at any line; afterwards another thread can still log, and close ends."""
    child = run_script(
        """
        import gc, signal, threading
        from sowlog import Logger
        class Interrupt(Exception): pass
        def interrupt(number, frame): raise Interrupt
        gc.disable()  # an exception out of jax's hook of the collector is only printed
        log = Logger(logdir, queue_size=4)
        signal.signal(signal.SIGALRM, interrupt)
        interrupts = step = 0
        for attempt in range(3000):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0003 + attempt % 50 * 1e-6)
                for _ in range(10_000):
                    step += 1
                    log(step, {"x": 1.0})
            except Interrupt:
                interrupts += 1
        assert interrupts > 2900
        other = threading.Thread(target=log, args=(step + 1, {"x": 1.0}), daemon=True)
        other.start()
        other.join(20)
        assert not other.is_alive()
        log.close()
        print(step + 1)
        """
    )
    assert (child.returncode, child.stderr) == (0, "")
    assert steps(tmp_path)[-1] == int(child.stdout)


def test_ctrl_c_writes_all(tmp_path):
    """KeyboardInterrupt ends the loop; all logged steps are on disk."""
    code = f"""
import gc
from sowlog._log.logger import Logger
# JAX has a callback of collections, in which Python drops the exception of Ctrl-C.
gc.disable()
with Logger({str(tmp_path)!r}) as log:
    step = 0
    while True:
        log(step, {{"x": 1.0}})
        if step == 50:
            print("running", flush=True)
        step += 1
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        child.stdout.readline()
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    written = steps(tmp_path)
    assert written == list(range(len(written)))
    assert len(written) > 50
