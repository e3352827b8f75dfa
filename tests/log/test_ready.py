"""Steps that are ready together: those that are read as rows, and the same files without them."""

import itertools
import math
from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from sowlog._log import delivery as delivery_room
from sowlog._log.alarms import Alarms
from sowlog._log.delivery import Delivery
from sowlog._log.folding import Folding
from sowlog._log.item import Item
from sowlog._log.ready import read_rows, wait_for_ready
from sowlog._log.sinks import WriterError
from sowlog._log.texts import Text
from sowlog._log.watcher import Watcher
from sowlog._tree.layout import ABSENT
from sowlog.testing import MemoryWriter
from sowlog.writers import StalledError, TensorBoard
from sowlog.writers._rows import ScalarRows
from sowlog.writers._warnings import LossWarning
from sowlog.writers.record import Record
from tests.log.delivering import no_pause
from tests.support.odd_writers import AtOnceWriter

LAYOUT = sowlog.pack({"a": 1.0, "b": 2.0}).layout
OTHER = sowlog.pack({"b": 1.0, "a": 2.0, "c": 3.0}).layout
SHAPES = sowlog.pack({"a": 1.0, "h": sowlog.histogram.of(jnp.ones(4))}).layout


def item(step, *values, layout=LAYOUT, scalars=()):
    """Return an item of packed values, by default 1 and 2 plus the step, and numbers on the host."""
    words = np.array(values or [1.0 + step, 2.0 + step], np.float32).view(np.uint32)
    return Item(step, 1.5 + step, sowlog.Packed(words, layout), dict(scalars))


def test_steps_of_one_layout_are_rows():
    """Packed on the device or fetched, in the order of the layout."""
    device = sowlog.Packed(jnp.asarray(item(0).packed.buffer), LAYOUT)
    rows = read_rows([Item(0, 1.5, device), item(1), item(2)])
    assert rows.tags is LAYOUT.scalars
    assert rows.values.tolist() == [[1, 2], [2, 3], [3, 4]]
    assert ([record.step for record in rows], [record.wall_time for record in rows]) == (
        [0, 1, 2],
        [1.5, 2.5, 3.5],
    )


class _Buffer:
    """A buffer that the device has computed, or computes still."""

    def __init__(self, *, ready):
        self.ready = ready

    def is_deleted(self):
        return False

    def is_ready(self):
        return self.ready

    def __array__(self, dtype=None, copy=None):
        assert self.ready, "the read would wait"
        return np.ones(2, np.float32).view(np.uint32)


@pytest.mark.parametrize(
    ("are_ready", "taken"),
    [([True, True, True], 3), ([True, False, True], 3), ([True, True, False], 2), ([True, False, False], 1)],
)
def test_items_before_a_ready_one_are_taken_with_it(are_ready, taken):
    """As steps end in their order; one that is behind the last ready item is left."""
    items = deque(Item(0, 1.5, sowlog.Packed(_Buffer(ready=ready), LAYOUT)) for ready in are_ready)
    pauses = []
    assert len(wait_for_ready(items, lambda: pauses.append(1))) == taken
    assert len(pauses) == (not are_ready[-1])


def test_a_number_on_the_host_does_not_end_the_steps_before_it():
    """It is ready at once, as a text and fetched results are: the record of step 0 waits for none."""
    computed = [Item(0, 1.5, sowlog.Packed(_Buffer(ready=ready), LAYOUT)) for ready in (True, False)]
    for ready in (Item(2, 1.5, None, {"x": 1.0}), Item(2, 1.5, text=Text("note", "")), item(2)):
        assert wait_for_ready(deque([*computed, ready]), lambda: None) == computed[:1]
        assert wait_for_ready(deque([computed[0], ready]), lambda: None) == [computed[0], ready]


def test_a_stall_behind_ready_steps_is_an_alert():
    """Of a step that another device computes, in front of a step that is ready."""
    late, alarms = _Buffer(ready=False), Alarms()
    alarms.add(sowlog.alerts.Stall(0.001), lambda _: setattr(late, "ready", True))
    buffers = [_Buffer(ready=True), late, _Buffer(ready=True)]
    waiting = deque(Item(step, 1.5, sowlog.Packed(each, LAYOUT)) for step, each in enumerate(buffers))
    memory = MemoryWriter()
    Delivery([memory], alarms, max_pending=8).deliver(waiting, no_pause)
    assert late.ready
    assert [record.step for record in memory.records if not record.texts] == [0, 1, 2]


def test_a_read_waits_for_a_step_that_ends_late():
    """Of two programs that do not depend on each other, the first logged may end last."""
    slow = jax.jit(
        lambda x: sowlog.pack({"a": jax.lax.fori_loop(0, 60, lambda _, y: y @ x, x)[0, 0], "b": 1.0})
    )
    x = jnp.eye(256)
    jax.block_until_ready(slow(x))
    late = [Item(step, 1.5, sowlog.Packed(slow(x).buffer, LAYOUT)) for step in range(4)]
    assert read_rows([*late, item(4)]).values.tolist() == [[1, 1]] * 4 + [[5, 6]]


def test_steps_of_scans_are_rows():
    """Of several scans, of one that is logged twice, and with every second step alone."""
    words = np.arange(6, dtype=np.float32).reshape(3, 2).view(np.uint32)
    first, second = (sowlog.Packed(jnp.asarray(each), LAYOUT) for each in (words, words + np.uint32(1)))
    places = [(first, 0), (first, 2), (second, 0), (second, 1), (first, 1)]
    rows = read_rows([Item(n, 1.5, packed, row=row) for n, (packed, row) in enumerate(places)])
    expected = np.stack([np.asarray(packed.buffer)[row] for packed, row in places])
    np.testing.assert_array_equal(rows.values.view(np.uint32), expected)
    assert read_rows([Item(0, 1.5, first, row=1), item(1)]) is None


def test_numbers_on_the_host_follow_packed_ones():
    """Their tags are one object for all batches; a float64 becomes a float32, and 1e300 has no row."""
    first, second = (
        read_rows([item(step + n, scalars={"lr": 0.1, "epoch": step}) for n in range(2)]) for step in (0, 2)
    )
    assert first.tags == ("a", "b", "lr", "epoch")
    assert second.tags is first.tags
    assert second.values.tolist() == [[3, 4, np.float32(0.1), 2], [4, 5, np.float32(0.1), 2]]
    alone = read_rows([Item(step, 1.5, None, {"x": float(step)}) for step in range(2)])
    assert (alone.tags, alone.values.tolist()) == (("x",), [[0], [1]])
    assert read_rows([Item(step, 1.5, None, {"x": 1e300}) for step in range(2)]) is None


def test_what_is_not_alike_is_read_by_itself():
    """Another layout, other numbers or their order, a histogram, an absent value, a text, no value at all."""
    absent = ABSENT.view(np.float32)
    for second in (
        item(1, 1.0, 2.0, 3.0, layout=OTHER),
        item(1, scalars={"x": 1.0}),
        item(1, 1.0, absent),
        item(1, math.nan, 1.0),
        item(1)._replace(ending="success"),
        Item(1, 1.5, None, {"a": 1.0}),
    ):
        assert read_rows([item(0), second]) is None
        assert read_rows([second, item(0)]) is None
    swapped = [Item(0, 1.5, None, {"x": 1.0, "y": 2.0}), Item(1, 1.5, None, {"y": 1.0, "x": 2.0})]
    assert read_rows(swapped) is None
    words = np.ones(SHAPES.words, np.float32).view(np.uint32)
    assert read_rows([Item(step, 1.5, sowlog.Packed(words, SHAPES)) for step in range(2)]) is None
    assert read_rows([Item(0, 1.5), Item(1, 1.5)]) is None


def test_a_replicated_buffer_has_rows():
    """Its bytes are not at hand, as those of an accelerator."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), "x")
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    items = [item(step) for step in range(2)]
    replicated = [
        each._replace(packed=sowlog.Packed(jax.device_put(each.packed.buffer, spread), LAYOUT))
        for each in items
    ]
    assert read_rows(replicated).values.tolist() == read_rows(items).values.tolist()


def test_writers_take_rows_or_records(tmp_path):
    """A batch writer gets the rows, another one their records, one by one."""
    batches, records = AtOnceWriter(), MemoryWriter()
    Delivery([batches, records], max_pending=8).deliver(deque(map(item, range(3))), no_pause)
    assert isinstance(batches.given[0], ScalarRows)
    assert [record.step for record in records.records] == batches.steps == [0, 1, 2]
    assert records.records[2].values.tolist() == [3, 4]


@pytest.mark.parametrize("odd", [None, 0, 2, 4])
def test_the_file_is_that_of_single_records(odd, tmp_path, monkeypatch):
    """Whatever is among the steps: nothing, or an absent value at the first, a middle or the last one."""
    absent = ABSENT.view(np.float32)
    batch = [item(step, step, absent if step == odd else 1.0) for step in range(5)]
    contents = []
    for folder, read in (("rows", read_rows), ("records", lambda items: None)):
        monkeypatch.setattr(delivery_room, "read_rows", read)
        writer = TensorBoard(tmp_path / folder, clock=lambda: 7.0)
        Delivery([writer], max_pending=8).deliver(deque(batch), no_pause)
        writer.close()
        contents.append(writer.path.read_bytes())
    assert contents[0] == contents[1]


def test_a_stall_of_rows_keeps_their_records():
    """They are written once, in order, when it ends; no second try follows, which could hide it."""
    writer = AtOnceWriter()
    delivery = Delivery([writer], max_pending=8)
    writer.stalled = True
    with pytest.raises(LossWarning, match="stalls at step 0"):
        delivery.deliver(deque(map(item, range(3))), no_pause)
    assert (writer.sizes, writer.tries) == ([3], 0)
    writer.stalled = False
    delivery.deliver(deque(map(item, range(3, 5))), no_pause)
    assert writer.steps == [0, 1, 2, 3, 4]


def test_a_deleted_file_is_reported_with_rows(tmp_path):
    """The new file has the records of the batch."""
    writer = TensorBoard(tmp_path)
    delivery = Delivery([writer], max_pending=8)
    delivery.deliver(deque(map(item, range(3))), no_pause)
    writer.path.unlink()
    with pytest.raises(LossWarning, match="was deleted during the run"):
        delivery.deliver(deque(map(item, range(3, 6))), no_pause)
    delivery.flush()
    delivery.close()
    assert sowlog.read(tmp_path).scalars["a"].steps.tolist() == [3, 4, 5]


def deleted(step):
    """Return an item whose buffer was deleted after the call."""
    buffer = jnp.asarray(item(step).packed.buffer)
    buffer.delete()
    return item(step)._replace(packed=sowlog.Packed(buffer, LAYOUT))


def test_a_failed_read_costs_no_other_record():
    """It is lost alone, and raised again once a read has succeeded in between."""
    writer = AtOnceWriter()
    delivery = Delivery([writer], max_pending=8)
    with pytest.raises(WriterError, match="reading the device failed at step 1"):
        delivery.deliver(deque([item(0), deleted(1), item(2), deleted(3)]), no_pause)
    delivery.deliver(deque(map(item, range(4, 6))), no_pause)
    assert isinstance(writer.given[-1], ScalarRows)
    with pytest.raises(WriterError, match="reading the device failed at step 6"):
        delivery.deliver(deque([deleted(6), item(7)]), no_pause)
    assert writer.steps == [0, 2, 4, 5, 7]


def test_a_step_back_inside_of_rows_is_reported(tmp_path):
    """Behind steps that go up, and at the first step of a batch."""
    for batch in ([3, 4, 4], [2, 3, 4]):
        writer = TensorBoard(tmp_path / str(batch[0]))
        delivery = Delivery([writer], max_pending=8)
        delivery.deliver(deque(map(item, range(3))), no_pause)
        with pytest.raises(LossWarning, match=f"step {batch[-1] if batch[0] == 3 else 2} of a is logged"):
            delivery.deliver(deque(map(item, batch)), no_pause)
        delivery.close()


def test_large_layouts_come_in_smaller_batches():
    """No item is left."""
    tags = {f"t{index:05d}": 0.0 for index in range(10_000)}
    writer = AtOnceWriter()
    waiting = deque(Item(step, 1.5, None, tags) for step in range(10))
    Delivery([writer], max_pending=8).deliver(waiting, no_pause)
    assert (writer.sizes, writer.steps, len(waiting)) == ([4, 4, 2], list(range(10)), 0)


def test_a_nan_among_rows_has_the_ranges_of_the_rows_before():
    """Of the last 16 records, however they came."""
    watcher = Watcher()
    for first, count in ((0, 3), (3, 10), (13, 10)):
        values = np.array([[first, step] for step in range(first, first + count)], np.float32)
        assert watcher.passes(ScalarRows(range(first, first + count), [0.0] * count, ("a", "b"), values))
    assert watcher.look(Record(23, 0.0, ("a", "b"), np.array([1, 23], np.float32))) is None
    origin = watcher.look(Record(24, 0.0, ("a", "b"), np.array([1, math.nan], np.float32)))
    assert [(one.tag, one.low, one.high) for one in origin.neighbors] == [("a", 1, 13), ("b", 8, 23)]
    # A value that was NaN is looked at until it is finite again.
    assert not watcher.passes(ScalarRows([25], [0.0], ("a", "b"), np.ones((1, 2), np.float32)))


def test_a_count_of_elements_among_rows_is_reported():
    """It is finite, and above 0."""
    watcher = Watcher()
    for counts, passes in (([0, 0], True), ([0, 1], False)):
        values = np.array(counts, np.float32)[:, None]
        assert watcher.passes(ScalarRows([1, 2], [0.0, 0.0], ("h/nonfinite",), values)) is passes


def test_alerts_see_each_record():
    """Records are read one by one for them."""
    alerts, alarms = [], Alarms()
    alarms.add(sowlog.alerts.Range("a", high=2), alerts.append)
    Delivery([MemoryWriter()], alarms, max_pending=8).deliver(deque(map(item, range(4))), no_pause)
    assert [alert.step for alert in alerts] == [2]


def test_families_are_folded_in_each_record():
    """Records are read one by one for that, too."""
    memory, folding = MemoryWriter(), Folding(["b/*"], heat_map_every=None)
    layers = {"b/0": 1.0, "b/1": 3.0}
    waiting = deque(item(step, scalars=layers) for step in range(3))
    Delivery([memory], folding=folding, max_pending=8).deliver(waiting, no_pause)
    assert [dict(zip(each.tags, each.values.tolist(), strict=True))["b/max"] for each in memory.records] == [
        3
    ] * 3


def test_dropped_steps_are_counted_among_rows():
    """The number of dropped steps is a scalar of the next step."""
    writer = AtOnceWriter()
    delivery = Delivery([writer], max_pending=8)
    delivery.deliver(deque(map(item, range(2))), no_pause)
    delivery.count_drop()
    delivery.deliver(deque(map(item, range(2, 4))), no_pause)
    assert [record.tags for record in itertools.islice(writer.records, 1, 3)] == [
        ("a", "b"),
        ("a", "b", "sowlog/dropped"),
    ]


def test_a_subclass_that_stalls_gets_the_whole_batch():
    """A writer that overrides `write_all` of another sees all records."""

    class Counting(AtOnceWriter):
        def write_all(self, records):
            if len(self.given) == 1:
                raise StalledError("once")
            super().write_all(records)

    writer = Counting()
    delivery = Delivery([writer], max_pending=8)
    delivery.deliver(deque(map(item, range(3))), no_pause)
    with pytest.raises(LossWarning, match="stalls at step 3: once"):
        delivery.deliver(deque(map(item, range(3, 5))), no_pause)
    delivery.flush()
    assert writer.steps == [0, 1, 2, 3, 4]
