import shutil
import warnings
from collections import deque
from pathlib import Path

import pytest

from sowlog import Logger
from sowlog._log.delivery import Delivery
from sowlog._log.item import Item
from sowlog._log.sinks import WriterError
from sowlog.testing import read_events
from sowlog.writers import TensorBoard
from sowlog.writers._warnings import LossWarning
from tests.support.full_disk import file_size_limit
from tests.support.tensorboard_reading import tensorboard_scalars

# A writer that waits for space for ever is a failure.
pytestmark = pytest.mark.timeout(60)


def wide(step):
    """Return metrics that take about 1.6 kB on disk."""
    return {f"tag{i:03d}": float(step + i) for i in range(100)}


@pytest.fixture
def log(tmp_path):
    """Return a logger with a small queue; the test closes it."""
    return Logger(tmp_path / "run", queue_size=8)


def steps(tmp_path):
    """Return the steps that TensorBoard shows."""
    return tensorboard_scalars(tmp_path / "run")["tag000"].steps


def log_all(log, steps):
    """Log the steps, waiting for each; return the warnings."""
    with warnings.catch_warnings(record=True) as issued:
        warnings.simplefilter("always")
        for step in steps:
            log(step, wide(step))
            log._background.call(int)
    return [str(each.message) for each in issued]


def test_a_full_disk_stops_nothing_and_loses_nothing_within_the_bound(log, tmp_path):
    """Training continues with one warning, and all records are written in order once there is space."""
    log_all(log, range(3))
    with file_size_limit(6_000):
        (warning,) = log_all(log, range(3, 10))
        assert "TensorBoard stalls at step 3" in warning
        assert "File too large" in warning
        with pytest.raises(WriterError, match="could not write 7 records yet, at steps 3 to 9"):
            log.flush()
        # Nothing torn stays: the file is read whole while the disk is full.
        assert len(read_events(tmp_path / "run")) == 300
    assert log_all(log, range(10, 12)) == []
    log.flush()
    log.close()
    assert steps(tmp_path) == list(range(12))


def test_losses_of_a_full_disk_beyond_the_bound_are_reported(log, tmp_path):
    """Flush reports the loss, the other records are written, and later steps follow."""
    log_all(log, range(3))
    with file_size_limit(6_000):
        assert len(log_all(log, range(3, 20))) == 1
    with pytest.raises(WriterError, match=r"lost 9 records, at steps 3 to 11.*File too large"):
        log.flush()
    log_all(log, [20])
    log.close()
    assert steps(tmp_path) == [0, 1, 2, *range(12, 21)]


def test_as_much_as_the_bound_may_wait_for_space(log, tmp_path):
    """The first record after the stall costs none of the pending ones."""
    log_all(log, range(3))
    with file_size_limit(6_000):
        log_all(log, range(3, 11))
    log_all(log, [11])
    log.close()
    assert steps(tmp_path) == list(range(12))


def test_closing_on_a_full_disk_ends_and_reports_the_losses(log, tmp_path):
    """The close does not hang, and the file stays whole."""
    log_all(log, range(3))
    with file_size_limit(6_000):
        log_all(log, range(3, 6))
        with pytest.raises(WriterError, match="lost 3 records, at steps 3 to 5"):
            log.close()
    assert steps(tmp_path) == [0, 1, 2]


def test_a_full_disk_at_the_start_is_an_error_and_leaves_no_file(tmp_path):
    """A run that cannot log raises before it trains."""
    with file_size_limit(10), pytest.raises(OSError, match="File too large"):
        Logger(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_deleted_folder_is_made_again(log, tmp_path):
    """The deleted records are gone, as the user wanted; later records are written."""
    log_all(log, range(3))
    shutil.rmtree(tmp_path / "run")
    (warning,) = log_all(log, range(3, 6))
    assert "was deleted during the run" in warning
    log.close()
    assert steps(tmp_path) == [3, 4, 5]


def test_a_deleted_file_that_was_put_back_is_left_alone(log, tmp_path):
    """A copy under the old name may belong to a user; the descriptor of the deleted file is released."""
    log_all(log, range(3))
    (path,) = (tmp_path / "run").iterdir()
    copy = path.read_bytes()
    opened = len(list(Path("/dev/fd").iterdir()))
    path.unlink()
    path.write_bytes(copy)
    assert len(log_all(log, range(3, 6))) == 1
    assert len(list(Path("/dev/fd").iterdir())) == opened
    log.close()
    assert path.read_bytes() == copy
    assert steps(tmp_path) == list(range(6))


def test_flush_is_no_barrier_over_a_deleted_file(log, tmp_path):
    """The logged records are not on disk, so flush and close raise."""
    log_all(log, range(3))
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(WriterError, match="was deleted during the run, with all its records"):
        log.flush()
    with pytest.raises(WriterError, match="was deleted during the run, with all its records"):
        log.close()


def test_a_folder_that_cannot_be_made_again_is_tried_again(log, tmp_path):
    """The records are kept while a file blocks the path of the folder."""
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run").write_text("in the way")
    (warning,) = log_all(log, range(4))
    assert "cannot be written" in warning
    (tmp_path / "run").unlink()
    log_all(log, range(4, 6))
    log.flush()
    log.close()
    assert steps(tmp_path) == list(range(6))


def test_a_deleted_resumed_file_still_supersedes(tmp_path):
    """The new file begins with the same SessionLog START."""
    run = tmp_path / "run"
    with Logger(run) as log:
        log_all(log, range(6))
    log = Logger(run, resume_from=4)
    log_all(log, range(4, 6))
    max(run.iterdir()).unlink()
    log_all(log, range(6, 8))
    log.close()
    assert steps(tmp_path) == [0, 1, 2, 3, 6, 7]


def test_a_warning_that_is_an_error_still_logs(log, tmp_path):
    """If warnings are errors, a stall raises at the next call, whose step is kept nevertheless."""
    log_all(log, range(3))
    with file_size_limit(6_000):
        log(3, wide(3))
        with pytest.raises(LossWarning, match="stalls at step 3"):
            log._background.call(int)
    log_all(log, [4])
    log.close()
    assert steps(tmp_path) == [0, 1, 2, 3, 4]


@pytest.fixture
def delivery(tmp_path):
    """Return a delivery to an event file of one record, of about 1.6 kB."""
    delivery = Delivery([TensorBoard(tmp_path)], max_pending=8)
    delivery.deliver(deque([wide_item(0)]), int)
    return delivery


def wide_item(step):
    """Return an item of a hundred scalars."""
    return Item(step, 1.5, None, {f"tag{i:03d}": float(step) for i in range(100)})


def steps_on_disk(tmp_path):
    """Return the steps in the files, in order."""
    return [point.step for point in read_events(tmp_path) if point.tag == "tag007"]


def test_a_batch_that_a_full_disk_tears_leaves_none_of_it_and_is_written_once(delivery, tmp_path):
    """The next attempt writes the records that fit, and a later one the rest, without gaps or doubles."""
    with file_size_limit(6_000):
        with pytest.raises(LossWarning, match=r"stalls at step 1.*File too large"):
            delivery.deliver(deque(map(wide_item, range(1, 6))), int)
        assert steps_on_disk(tmp_path) == [0]
        with pytest.raises(WriterError, match="could not write 3 records yet, at steps 3 to 5"):
            delivery.flush()
        assert steps_on_disk(tmp_path) == [0, 1, 2]
    delivery.deliver(deque(map(wide_item, range(6, 8))), int)
    delivery.close()
    assert steps_on_disk(tmp_path) == list(range(8))


def test_a_batch_on_a_deleted_file_is_written_to_the_next(delivery, tmp_path):
    """The next file has the whole batch."""
    (path,) = tmp_path.iterdir()
    path.unlink()
    with pytest.raises(LossWarning, match="was deleted during the run"):
        delivery.deliver(deque(map(wide_item, range(1, 4))), int)
    delivery.close()
    assert steps_on_disk(tmp_path) == [1, 2, 3]
