"""Alerts of a logger: texts, callbacks, warnings, stalls."""

import threading
import time
import warnings
from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from sowlog._log.alarms import Alarms
from sowlog._log.delivery import Delivery
from sowlog._log.item import Item
from sowlog._log.pictures.images import Pixels
from sowlog._log.texts import Text
from sowlog.alerts import Range, Stall
from sowlog.testing import MemoryWriter
from sowlog.writers import HParams
from tests.support.odd_writers import FailingWriter, GatedWriter
from tests.support.tensorboard_reading import tensorboard_texts

# A wait without an end is a failure.
pytestmark = pytest.mark.timeout(60)

HIGH = Range("loss", high=10)


def test_an_alert_is_a_text_in_tensorboard_and_a_call(tmp_path):
    """Under alerts/, at the step of the value."""
    alerts = []
    with sowlog.Logger(tmp_path) as log:
        log.alert(HIGH, alerts.append)
        for step, loss in enumerate([1.0, 50.0, 60.0, 2.0, 70.0]):
            log(step, {"loss": loss})
    texts = tensorboard_texts(tmp_path)
    assert set(texts) == {("alerts/range/loss", 1), ("alerts/range/loss", 4)}
    assert "loss is 50 at step 1, above 10." in texts["alerts/range/loss", 1]
    assert [(alert.rule, alert.tag, alert.step, alert.value) for alert in alerts] == [
        (HIGH, "loss", 1, 50.0),
        (HIGH, "loss", 4, 70.0),
    ]


def test_two_alerts_of_one_tag_and_step_are_one_text():
    """TensorBoard shows one of them alone, and a writer would warn of steps that go back."""
    memory, alerts = MemoryWriter(), []
    with sowlog.Logger("unused", writers=[memory]) as log:
        log.alert(HIGH, alerts.append)
        log.alert(Range("loss", high=20), alerts.append)
        log(0, {"loss": 50.0})
    assert len(alerts) == 2
    assert [record.texts for record in memory.records if record.texts] == [
        {"alerts/range/loss": "loss is 50 at step 0, above 10."}
    ]


def test_alerts_without_a_callback_are_warnings_of_the_next_call():
    """One for all alerts of the records that were written together; close issues the last."""
    with warnings.catch_warnings(record=True) as issued:
        warnings.simplefilter("always")
        with sowlog.Logger("unused", writers=[]) as log:
            log.alert(HIGH)
            log(0, {"loss": 50.0})
            log.flush()
            log(1, {"loss": 1.0})
            log.flush()
            log(2, {"loss": 60.0})
    assert [str(each.message) for each in issued] == [
        "loss is 50 at step 0, above 10.",
        "loss is 60 at step 2, above 10.",
    ]
    assert {each.category for each in issued} == {sowlog.AlertWarning}
    assert {each.filename for each in issued} == {__file__}


def test_an_error_of_a_callback_is_raised_once_and_the_thread_goes_on():
    """With the alert, and the error as its cause; the other rule's callback is called."""
    memory, alerts = MemoryWriter(), []

    def fail(alert):
        raise KeyError("no phone")

    log = sowlog.Logger("unused", writers=[memory])
    log.alert(HIGH, fail)
    log.alert(HIGH, alerts.append)
    log(0, {"loss": 50.0})
    with pytest.raises(
        sowlog.AlertError, match=r"failed with KeyError: 'no phone'\. The alert: loss is 50"
    ) as info:
        log.flush()
    assert isinstance(info.value.__cause__, KeyError)
    assert info.value.alert.step == 0
    log(1, {"loss": 1.0})
    log.close()
    assert len(alerts) == 1
    assert [record.step for record in memory.records if record.tags] == [0, 1]


@pytest.mark.parametrize("wait", ["flush", "close"])
def test_a_callback_that_waits_for_its_own_thread_is_an_error(wait):
    """The wait would never end; the logger goes on, and its real close has the last word on the ending."""
    memory = MemoryWriter()
    log = sowlog.Logger("unused", writers=[memory])
    log.hparams({"seed": 0})
    log.alert(HIGH, lambda alert: getattr(log, wait)())
    log(0, {"loss": 50.0})
    with pytest.raises(sowlog.AlertError, match="so its wait for them would never end: set a flag"):
        log.flush()
    log(1, {"loss": 50.0})
    log.close(ending=None)
    assert [record.step for record in memory.records if record.tags] == [0, 1]
    assert {record.ending for record in memory.records} == {None}


def test_a_function_of_on_nonfinite_that_closes_is_an_error():
    """It runs on the same thread."""
    memory = MemoryWriter()
    log = sowlog.Logger("unused", writers=[memory], on_nonfinite=lambda origin: log.close())
    log(0, {"loss": float("nan")})
    with pytest.raises(RuntimeError, match="on_nonfinite runs on the thread that writes the records"):
        log.flush()
    log(1, {"loss": 1.0})
    log.close()
    assert [record.step for record in memory.records if record.tags] == [0, 1]


def test_a_callback_may_log():
    """The new step is written after the records that are being written."""
    memory = MemoryWriter()
    with sowlog.Logger("unused", writers=[memory]) as log:
        log.alert(HIGH, lambda alert: log.text(alert.step, "samples", "x"))
        log(0, {"loss": 50.0})
        log.flush()
    assert [tag for record in memory.records for tag in record.texts] == ["alerts/range/loss", "samples"]


@pytest.mark.parametrize("on_full", ["block", "drop_oldest"])
def test_alerts_fire_behind_a_full_queue(on_full):
    """At each step that is written and high after a low one; a dropped one is not seen."""
    gate, alerts = GatedWriter(), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sowlog.LossWarning)
        with sowlog.Logger("unused", writers=[gate], queue_size=4, on_full=on_full) as log:
            log.alert(HIGH, alerts.append)
            if on_full == "block":
                threading.Timer(0.05, gate.open.set).start()
            for step in range(40):
                log(step, {"loss": 50.0 * (step % 2)})
            gate.open.set()
    steps = [record.step for record in gate.records if "loss" in record.tags]
    before = [0, *steps]
    rises = [step for step, last in zip(steps, before, strict=False) if step % 2 and not last % 2]
    assert [alert.step for alert in alerts] == rises
    assert (len(steps) < 40) == (on_full == "drop_oldest")


def test_alerts_do_not_need_a_working_writer():
    """A full disk and a failing writer hide no alert."""
    alerts = []
    log = sowlog.Logger("unused", writers=[FailingWriter(0)])
    log.alert(HIGH, alerts.append)
    log(0, {"loss": 50.0})
    with pytest.raises(sowlog.WriterError, match="FailingWriter"):
        log.close()
    assert len(alerts) == 1


def test_values_on_the_device_are_watched():
    """As a packed tree, which the training thread does not wait for."""
    alerts = []
    with sowlog.Logger("unused", writers=[]) as log:
        log.alert(HIGH, alerts.append)
        log(3, jax.jit(lambda x: sowlog.pack({"loss": 2 * x}))(np.float32(40)))
    assert [(alert.step, alert.value) for alert in alerts] == [(3, 80.0)]


def test_a_tag_that_never_comes_is_a_warning_at_close():
    """With the tags that came, and the one that was meant."""
    log = sowlog.Logger("unused", writers=[])
    for tag in ("los", "**/entropy", "fiv*", "accuracy"):
        log.alert(Range(tag))
    log(0, {"loss": 0.5, "accuracy": 0.5, "top": {"five": 0.5}})
    with pytest.warns(sowlog.AlertWarning) as issued:
        log.close()
    assert str(issued[0].message) == (
        "no alert could fire for los (did you mean loss?), **/entropy, fiv* (did you mean **/fiv*?): no "
        "scalar of that tag was logged. The tags are accuracy, loss, top/five."
    )


def test_a_tag_that_is_packed_and_never_has_a_value_is_a_warning_at_close():
    """It is in the layout of each step, as that of a value with a cadence is."""
    step = jax.jit(lambda x: sowlog.pack({"loss": sowlog.mean.of(x), "rare": sowlog.mean.of(x, weight=0)}))
    log = sowlog.Logger("unused", writers=[])
    log.alert(Range("rare", high=10))
    log(0, step(50.0))
    with pytest.warns(sowlog.AlertWarning, match="no alert could fire for rare"):
        log.close()


def test_alerts_on_tags_that_are_absent_at_some_steps():
    """Each value is the tag's own, wherever it is among those that are present."""

    @jax.jit
    def step(x, rare):
        absent = sowlog.mean.of(x, weight=rare)
        return sowlog.pack({"a": absent, "b": sowlog.mean.of(x + 1), "c": absent, "d": sowlog.mean.of(x + 3)})

    fired = []
    with sowlog.Logger("unused", writers=[]) as log:
        for tag in "abcd":
            log.alert(Range(tag, high=10.0), fired.append)
        for number, (x, rare) in enumerate([(0.0, 0), (8.0, 0), (0.0, 1), (20.0, 1)]):
            log(number, step(x, rare))
    assert [(alert.tag, alert.step, alert.value) for alert in fired] == [
        ("d", 1, 11.0),
        ("a", 3, 20.0),
        ("b", 3, 21.0),
        ("c", 3, 20.0),
        ("d", 3, 23.0),
    ]


def test_an_alert_and_a_nan_of_one_record_are_two_warnings():
    """Neither hides the other."""
    log = sowlog.Logger("unused", writers=[])
    log.alert(Range("loss", high=10))
    log(0, {"loss": float("nan")})
    with warnings.catch_warnings(record=True) as issued:
        warnings.simplefilter("always")
        log.close()
    assert [(warning.category, str(warning.message)[:20]) for warning in issued] == [
        (sowlog.NonfiniteWarning, "at step 0 loss becam"),
        (sowlog.AlertWarning, "loss is nan at step "),
    ]


def test_a_rule_that_came_after_the_last_step_is_no_warning():
    """Its tag may have had values before; one that steps came after is."""
    log = sowlog.Logger("unused", writers=[])
    log.alert(HIGH, lambda alert: log.alert(Range("later"), print))
    log(0, {"loss": 50.0})
    log.flush()
    log(1, {"loss": 1.0})
    log.flush()
    log.alert(Range("loss"), print)
    with pytest.warns(sowlog.AlertWarning) as issued:
        log.close()
    assert [str(each.message).partition(":")[0] for each in issued] == ["no alert could fire for later"]


def test_a_run_without_steps_has_no_warning():
    """As one that was stopped before its first step."""
    with sowlog.Logger("unused", writers=[]) as log:
        log.alert(HIGH)


def test_a_stall_fires_while_nothing_is_logged(tmp_path):
    """The thread that sleeps wakes for it, once, and again after a step."""
    fired, alerts = threading.Semaphore(0), []

    def note(alert):
        alerts.append(alert)
        fired.release()

    with sowlog.Logger(tmp_path) as log:
        log(7, {"loss": 1.0})
        log.flush()
        # The thread sleeps: the rule wakes it.
        log.alert(Stall(0.05), note)
        assert fired.acquire(timeout=30)
        log(8, {"loss": 1.0})
        assert fired.acquire(timeout=30)
    assert [(alert.tag, alert.step) for alert in alerts] == [(None, 7), (None, 8)]
    assert all(alert.value >= 0.05 for alert in alerts)
    assert set(tensorboard_texts(tmp_path)) == {("alerts/stall", 7), ("alerts/stall", 8)}


def test_texts_and_images_are_no_step_of_a_stall():
    """They neither begin its clock, as the configuration that is logged before a compilation, nor hide it."""
    now, alerts, seen = [0.0], [], []
    alarms = Alarms(lambda: now[0])
    alarms.add(Stall(10), alerts.append)
    delivery = Delivery([], alarms, max_pending=4)
    others = [
        Item(0, 0.0, text=Text("configuration", "text")),
        Item(0, 0.0, picture=Pixels("x", np.zeros((2, 2)))),
        Item(0, 0.0, hparams=HParams({"seed": 0}, ())),
    ]
    for items in ([], [Item(3, 0.0, scalars={"loss": 1.0})]):
        delivery.deliver(deque([*others, *items, *others]), lambda: None)
        now[0] += 6.0
        delivery.deliver(deque(others), lambda: None)
        now[0] += 6.0
        delivery.watch_time()
        seen.append([alert.step for alert in alerts])
    assert seen == [[], [3]]


@jax.jit
def slowly(x):
    """Return x after some tenths of a second."""
    turn = jnp.eye(300)
    return jax.lax.fori_loop(0, 800, lambda _, y: y @ turn, jnp.full((300, 300), x))[0, 0]


def test_a_device_that_hangs_is_a_stall():
    """The alert comes before the values of the step that is waited for."""
    memory, alerts = MemoryWriter(), []
    with sowlog.Logger("unused", writers=[memory]) as log:
        log.alert(Stall(0.01), alerts.append)
        log(5, {"loss": slowly(3.0)})
    assert [[*record.tags, *record.texts] for record in memory.records] == [["alerts/stall"], ["loss"]]
    assert [alert.step for alert in alerts] == [5]


def test_a_stall_without_a_callback_warns_at_once():
    """The next call of a thread that hangs may never come."""
    with warnings.catch_warnings(record=True) as issued:
        warnings.simplefilter("always")
        with sowlog.Logger("unused", writers=[]) as log:
            log.alert(Stall(0.02))
            log(0, {"loss": 1.0})
            deadline = time.monotonic() + 30
            while not issued and time.monotonic() < deadline:
                time.sleep(0.01)
            assert len(issued) == 1
    assert "no step has come for" in str(issued[0].message)


def test_a_stall_as_an_error_is_raised_by_the_next_call():
    """Where warnings are errors, as in these tests."""
    log = sowlog.Logger("unused", writers=[])
    fired = threading.Event()
    log.alert(Stall(0.01))
    log.alert(Stall(0.02), lambda alert: fired.set())
    log(0, {"loss": 1.0})
    assert fired.wait(30)
    with pytest.raises(sowlog.AlertWarning, match="no step has come"):
        log.close()


def test_arguments_are_checked():
    """On the training thread, at the call."""
    log = sowlog.Logger("unused", writers=[])
    with pytest.raises(TypeError, match=r"the rule of an alert is 'loss'; give one of sowlog\.alerts"):
        log.alert("loss")
    with pytest.raises(TypeError, match="the callback of an alert is 3; give a function"):
        log.alert(HIGH, 3)
    log.close()
    with pytest.raises(RuntimeError, match="this Logger is closed"):
        log.alert(HIGH)
