"""The metrics of several steps in one call, as a scan has stacked them."""

import threading
from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
import sowlog.testing
from sowlog._log.background import Background
from sowlog._log.entries import Call, Several
from sowlog._log.pending import Bounds
from sowlog._tree.layout import ABSENT, Layout
from tests.support.tensorboard_reading import tensorboard_scalars, wait_until

ROWS = Layout(("loss", "rate"))


def packed(rows, layout=ROWS):
    """Return a stacked packed tree of rows of numbers, on the host."""
    return sowlog.Packed(np.array(rows, np.float32).view(np.uint32), layout)


@pytest.fixture
def memory():
    """Return a writer that keeps its records."""
    return sowlog.testing.MemoryWriter()


def sown(x):
    """Sow values of several kinds, one of them at every other step only."""
    sowlog.sow("mean", x)
    sowlog.sow("kept", x, sowlog.max(axis=0))
    sowlog.sow("histogram", x, sowlog.histogram())
    sowlog.sow_loss("size", jnp.mean(x), weight=0.5)
    jax.lax.cond(x[0] % 2 == 0, lambda: sowlog.sow("even", x), lambda: False)
    return x


def step(carry, x):
    """Return the states of one step."""
    _, updates = sowlog.collect(sown)(x)
    return carry, {**updates["metrics"], "losses": updates["losses"], "x": x[:2]}


@pytest.mark.parametrize("is_packed", [True, False])
def test_the_records_are_those_of_a_call_for_each_step(is_packed):
    """Scalars, histograms, losses, absent values and the sites of sows, packed in the scan or outside."""
    _, states = jax.lax.scan(step, 0, jnp.arange(12.0).reshape(4, 3))
    stacked, each = jax.jit(jax.vmap(sowlog.pack))(states), sowlog.testing.MemoryWriter()
    with sowlog.Logger("unused", writers=[each]) as log:
        for row in range(4):
            log(5 + row, jax.tree.map(lambda leaf, row=row: leaf[row], stacked))
    at_once = sowlog.testing.MemoryWriter()
    with sowlog.Logger("unused", writers=[at_once]) as log:
        log.steps(5, stacked if is_packed else states)
    assert [record.step for record in at_once.records] == [5, 6, 7, 8]
    for one, other in zip(at_once.records, each.records, strict=True):
        assert one.tags == other.tags
        assert ("even" in one.tags) == (one.step % 2 == 1)
        assert [getattr(tag, "site", None) for tag in one.tags] == [
            getattr(tag, "site", None) for tag in other.tags
        ]
        assert one.values.tobytes() == other.values.tobytes()
        np.testing.assert_array_equal(
            one.histograms["histogram"].counts, other.histograms["histogram"].counts
        )
    assert len({record.wall_time for record in at_once.records}) == 1


def test_numbers_of_the_host_are_rows_as_well(memory):
    """Beside arrays of the device; other axes have their indices, and a later write changes none."""
    numbers = np.array([[1.0, 2.0], [3.0, 1e300]])
    with sowlog.Logger("unused", writers=[memory], on_nonfinite="ignore") as log:
        log.steps(0, {"host": {"x": numbers, "n": np.array([7, 8])}, "device": jnp.array([0.5, 0.25])})
        numbers[:] = 0
    assert [dict(zip(record.tags, record.values.tolist(), strict=True)) for record in memory.records] == [
        {"device": 0.5, "host/n": 7.0, "host/x/00": 1.0, "host/x/01": 2.0},
        {"device": 0.25, "host/n": 8.0, "host/x/00": 3.0, "host/x/01": np.inf},
    ]


def test_a_matrix_has_a_row_for_each_step(memory):
    """An np.matrix is read as an array: a column of it has one row."""
    numbers = np.array([[1.0, 2.0], [3.0, 4.0]]).view(np.matrix)
    with sowlog.Logger("unused", writers=[memory]) as log:
        log.steps(0, {"x": numbers})
    assert [(tuple(record.tags), record.values.tolist()) for record in memory.records] == [
        (("x/00", "x/01"), [1.0, 2.0]),
        (("x/00", "x/01"), [3.0, 4.0]),
    ]


def test_an_object_that_stands_for_an_array_is_that_array(memory):
    """As in a call of one step."""

    class Parameter:
        def __init__(self, array):
            self.array = array

        def __jax_array__(self):
            return self.array

    with sowlog.Logger("unused", writers=[memory]) as log:
        log.steps(0, {"x": Parameter(jnp.array([1.0, 2.0]))})
        log(2, {"x": Parameter(jnp.float32(3.0))})
    assert [record.values.tolist() for record in memory.records] == [[1.0], [2.0], [3.0]]


def test_no_step_at_all_is_logged_as_nothing(memory):
    """Of arrays of the host and of the device, with further axes and without."""
    with sowlog.Logger("unused", writers=[memory]) as log:
        log.steps(0, {"x": np.empty(0), "y": np.empty((0, 2)), "z": jnp.empty((0, 2))})
        log.steps(range(7, 7), {"x": np.empty(0, np.int64)})
        log.steps(0, {"x": np.empty((2, 0)), "y": np.ones(2)})
    assert [record.tags for record in memory.records] == [("y",), ("y",)]


@pytest.mark.parametrize("fold", [(), "a/**"])
@pytest.mark.parametrize("place", [np.asarray, jnp.asarray])
def test_a_kept_record_keeps_no_other_row(place, fold, memory):
    """Read with others or by itself: its values are its own, read-only."""
    stacked = sowlog.Packed(place(packed(np.ones((40, 2))).buffer), ROWS)
    with sowlog.Logger("unused", writers=[memory], fold=fold) as log, log._background._lock:
        log.steps(0, stacked)
    for record in memory.records:
        owner = record.values if record.values.base is None else record.values.base
        assert owner.nbytes == record.values.nbytes == 8
        assert not record.values.flags.writeable


@pytest.mark.filterwarnings("ignore::sowlog.NonfiniteWarning")
def test_tensorboard_reads_consecutive_steps(tmp_path):
    """Of several calls, the second with a range, and of calls of single steps between."""
    rows = packed([[0.0, 1.0], [2.0, np.nan], [4.0, 5.0]])
    with sowlog.Logger(tmp_path) as log:
        log.steps(np.int64(10), rows)
        log(13, {"loss": 6.0})
        log.steps(range(14, 17), rows)
    found = tensorboard_scalars(tmp_path)
    assert found["loss"].steps == [10, 11, 12, 13, 14, 15, 16]
    assert found["loss"].values == [0.0, 2.0, 4.0, 6.0, 0.0, 2.0, 4.0]
    assert found["rate"].steps == [10, 11, 12, 14, 15, 16]


def test_rows_of_one_batch_are_read_together(tmp_path):
    """As the words of packed trees of single steps between them, which have the same layout."""
    numbers = np.arange(80, dtype=np.float32).reshape(40, 2)
    with sowlog.Logger(tmp_path) as log, log._background._lock:
        log.steps(0, packed(numbers))
        log(40, sowlog.Packed(np.array([80, 81], np.float32).view(np.uint32), ROWS))
        log.steps(41, {"loss": numbers[:, 0], "rate": jnp.array(numbers[:, 1])})
    found = sowlog.read(tmp_path)
    assert found.scalars["loss"].values.tolist() == [*range(0, 82, 2), *range(0, 80, 2)]
    assert found.scalars["rate"].values.tolist() == [*range(1, 83, 2), *range(1, 81, 2)]
    assert found.scalars["rate"].steps.tolist() == list(range(81))


def test_a_cadence_takes_the_rows_of_its_steps(memory):
    """Counted from step 0, for negative steps too; none in between is no entry."""
    stacked = packed([[float(row), 0.0] for row in range(7)])
    with sowlog.Logger("unused", writers=[memory], every=3) as log:
        log.steps(-4, stacked)
        log.steps(4, packed([[9.0, 9.0]]))
        log.steps(4, packed(np.empty((0, 2))))
    assert [(record.step, record.values[0]) for record in memory.records] == [(-3, 1.0), (0, 4.0)]


def test_an_absent_value_of_a_row_is_absent(memory):
    """Its word is that of absence."""
    words = np.ones((2, 2), np.float32).view(np.uint32)
    words[1, 0] = ABSENT
    with sowlog.Logger("unused", writers=[memory]) as log:
        log.steps(0, sowlog.Packed(words, ROWS))
        words[:] = 0
    assert [tuple(record.tags) for record in memory.records] == [("loss", "rate"), ("rate",)]
    assert memory.records[0].values.tolist() == [1.0, 1.0]


class Gated(sowlog.testing.MemoryWriter):
    """A writer that waits for its gate."""

    def __init__(self):
        super().__init__()
        self.gate = threading.Event()

    def write(self, record):
        """Wait, then keep the record."""
        self.gate.wait(60)
        super().write(record)


def test_a_full_queue_drops_the_oldest_steps_one_by_one():
    """Each row counts as a step, also in the number of dropped ones."""
    slow = Gated()
    log = sowlog.Logger("unused", writers=[slow], queue_size=4, on_full="drop_oldest")
    log(0, {"loss": 0.0})
    wait_until(lambda: log._background._batch and not log._background._queue)
    log.steps(1, packed([[row, 0.0] for row in range(1, 7)]))
    log.steps(7, packed([[row, 0.0] for row in range(7, 9)]))
    log(9, {"loss": 9.0})
    slow.gate.set()
    with pytest.warns(sowlog.LossWarning, match="the full queue dropped 5 steps"):
        log.close()
    assert [record.step for record in slow.records] == [0, 6, 7, 8, 9]
    assert dict(zip(slow.records[1].tags, slow.records[1].values, strict=True))["sowlog/dropped"] == 5


def test_a_full_queue_refuses_a_call_as_a_whole():
    """The error says so, and all its steps count as dropped."""
    slow = Gated()
    log = sowlog.Logger("unused", writers=[slow], queue_size=4, on_full="error")
    log(0, {"loss": 0.0})
    wait_until(lambda: log._background._batch and not log._background._queue)
    log.steps(1, packed([[row, 0.0] for row in range(1, 7)]))
    with pytest.raises(sowlog.QueueFullError, match="4 records wait for the writers"):
        log.steps(7, packed([[7.0, 0.0], [8.0, 0.0]]))
    slow.gate.set()
    with pytest.warns(sowlog.LossWarning, match="the full queue dropped 2 steps"):
        log.close()
    assert [record.step for record in slow.records] == list(range(7))


def test_several_items_are_taken_in_order_between_others():
    """In batches, each item made as it is taken, and a call waits for all of those before it."""
    done, batches = [], []

    def work(items, pause):
        batches.append(len(items))
        while items:
            done.append(items.popleft())

    background = Background(work, int, size=8)
    with background._lock:
        background.put(-1)
        background.put(Several(lambda place: 10 * place, range(1, 7)))
        background.put(99)
        assert background._bounds.held == 8
    background.call(int)
    assert done == [-1, 10, 20, 30, 40, 50, 60, 99]
    assert max(batches) <= 4
    assert background._bounds.held == 0
    background.end()


def test_an_item_that_cannot_be_made_stops_no_other():
    """Its error is raised, the first and the last of several too, and the thread goes on."""
    done = []

    def make(place):
        if place % 2 == 0:
            raise MemoryError(f"no memory for {place}")
        return place

    background = Background(lambda items, _: (done.extend(items), items.clear()), int, size=8)
    with background._lock:
        background.put(Several(make, range(5)))
        background.put(5)
    with pytest.raises(MemoryError, match="no memory for 0") as raised:
        background.end()
    assert raised.value.__notes__ == [
        "Before it: MemoryError: no memory for 2",
        "Before it: MemoryError: no memory for 4",
    ]
    assert done == [1, 3, 5]


@pytest.mark.parametrize("size", [6, 1])
def test_a_handler_that_logs_during_a_drop_removes_no_other_entry(size):
    """It drops the same entry: the call behind it stays, and one of several is left."""
    done, drops, call = [], [], Call(lambda: done.append("call"))

    def on_drop():
        drops.append(1)
        if len(drops) == 1:
            background.put("of the handler")

    def work(items, _):
        done.extend(items)
        items.clear()

    background = Background(work, int, size=1, on_full="drop_oldest", on_drop=on_drop)
    with background._lock:
        background.put(Several(int, range(6)) if size == 6 else 0)
        background._append(call)
        background.put("last")
    background.end()
    assert done == [*([5] if size == 6 else []), "call", "of the handler", "last"]


def test_a_handler_may_log_while_the_oldest_is_looked_for():
    """It changes the queue between two entries."""
    queue = deque([1, 2])
    bounds = Bounds(queue, deque(), size=1, on_full="drop_oldest", on_drop=int)

    def is_chosen(entry):
        if entry == 1:
            queue.append(3)
        return entry == 2

    assert bounds._drop_first(is_chosen, 1) == 1
    assert list(queue) == [1, 3]


def test_entries_that_were_taken_are_forgotten():
    """By the next one of any kind, since each call would count them."""
    background = Background(lambda items, _: items.clear(), int, size=100)
    with background._lock:
        for _ in range(20):
            background.put(Several(int, range(3)))
    background.call(int)
    background.put(0)
    assert not background._bounds._several
    background.end()


REFUSED = {
    "of one step": (
        0,
        lambda: sowlog.pack({"x": 1.0}),
        ValueError,
        r"of one step.*write log\(step, packed\)",
    ),
    "stacked twice": (0, lambda: packed(np.zeros((2, 3, 2))), ValueError, r"stacked 2 times.*reshape\(-1"),
    "wrong words": (0, lambda: packed([[1.0]]), ValueError, "buffer of 1 words a step.*its layout has 2"),
    "arithmetic": (0, lambda: sowlog.Packed(np.zeros((2, 2)), ROWS), TypeError, "dtype float64 was logged"),
    "no array": (0, lambda: sowlog.Packed(None, ROWS), TypeError, "without an array"),
    "range too long": (range(3), lambda: packed([[1.0, 2.0]] * 2), ValueError, "has 3 steps.*are of 2"),
    "not consecutive": (range(0, 4, 2), lambda: packed([[1.0, 2.0]] * 2), ValueError, "not of consecutive"),
    "beyond int64": (2**63 - 2, lambda: packed([[1.0, 2.0]] * 3), ValueError, "is the first of 3.*beyond"),
    "a float": (0.5, lambda: packed([[1.0, 2.0]]), TypeError, "must be an integer"),
    "mixed axes": (
        0,
        lambda: {"a": np.ones(2), "b": {"c": jnp.ones(3)}},
        ValueError,
        "a has 2 steps and b/c 3",
    ),
    "a number": (0, lambda: {"a": np.ones(2), "lr": 0.1}, TypeError, r"lr is one number.*np\.full\(steps"),
    "a scalar array": (0, lambda: {"lr": jnp.float32(0.1)}, TypeError, "lr is one number"),
    "a state": (0, lambda: {"a": sowlog.mean.of(1.0)}, TypeError, "a is the state of one step"),
    "empty": (0, dict, ValueError, "empty tree"),
    "text": (0, lambda: {"a": "text"}, TypeError, "a is str"),
    "packed within": (0, lambda: {"a": packed([[1.0, 2.0]])}, TypeError, "packed tree inside another tree"),
    "two of one tag": (
        0,
        lambda: {"a/b": np.ones(2), "a": {"b": jnp.ones(2)}},
        ValueError,
        "two metrics have the tag a/b",
    ),
    "two on the host": (
        0,
        lambda: {"a/b": np.ones(2), "a": {"b": np.ones(2)}},
        ValueError,
        "two metrics have the tag a/b",
    ),
    "no name": (0, lambda: np.ones(2), ValueError, "a metric has no name"),
    "complex": (0, lambda: {"a": np.ones(2, complex)}, TypeError, "a has dtype complex128"),
    "complex on the device": (0, lambda: {"a": jnp.ones(2, complex)}, TypeError, "a has dtype complex64"),
    "too many": (0, lambda: {"a": jnp.ones((2, 1025))}, ValueError, r"a has shape \(1025,\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_of_consecutive_steps_is_refused(name, memory):
    """With the cause, the values and the next move; nothing is logged."""
    first, metrics, kind, message = REFUSED[name]
    with sowlog.Logger("unused", writers=[memory]) as log, pytest.raises(kind, match=message):
        log.steps(first, metrics())
    assert not memory.records


def test_deleted_and_traced_buffers_are_refused(memory):
    """A traced one has no values, a deleted one none any more."""
    stacked = jax.vmap(lambda x: sowlog.pack({"x": x}))(jnp.ones(3))
    with sowlog.Logger("unused", writers=[memory]) as log:
        with pytest.raises(TypeError, match=r"a packed tree is traced.*cannot be logged"):
            jax.jit(lambda tree: log.steps(0, tree))(stacked)
        stacked.buffer.delete()
        with pytest.raises(RuntimeError, match="buffer is deleted"):
            log.steps(0, stacked)
    assert not memory.records


def test_the_call_does_not_wait_for_the_device(memory):
    """It returns before the scan has run, and its rows are read once the values are there."""

    @jax.jit
    def scan(x):
        def body(y, _):
            y = jax.lax.fori_loop(0, 50, lambda _, y: jnp.tanh(y @ y), y)
            return y, sowlog.pack({"shape": y.shape[0], "sum": y.sum()})

        return jax.lax.scan(body, x, None, length=2)[1]

    x = jnp.ones((500, 500))
    expected = jax.device_get(scan(x))
    with sowlog.Logger("unused", writers=[memory]) as log:
        stacked = scan(x)
        log.steps(0, stacked)
        assert not stacked.buffer.is_ready()
    words = np.stack([record.values for record in memory.records]).view(np.uint32)
    np.testing.assert_array_equal(words, expected.buffer)


def test_a_dropped_part_of_several_is_the_first():
    """Places are made once, in order."""
    several = Several(str, range(5))
    several.drop(2)
    assert deque(several.take() for _ in range(len(several))) == deque(["2", "3", "4"])
