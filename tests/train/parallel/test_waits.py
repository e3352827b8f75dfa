import itertools
import signal

import pytest

from train.parallel.waits import Waits
from train.system.signals import SignalFlag


class Kept:
    """The store of a coordinator, in this process."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def key_value_set(self, key: str, value: str) -> None:
        if key in self.texts:
            raise RuntimeError(f"ALREADY_EXISTS: {key}")
        self.texts[key] = value

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        return [(name, text) for name, text in sorted(self.texts.items()) if name.startswith(key)]


def waits(*signals: signal.Signals | None) -> list[Waits]:
    """Return the waits of so many processes, which these signals have come to, before step 7."""
    kept, made = Kept(), []
    for number, came in enumerate(signals):
        stop = SignalFlag()
        stop.signal = came
        made.append(Waits(stop, kept, number=number, count=len(signals)))
        made[-1].begin(7)
    return made


def test_processes_that_all_wait_leave_by_the_signal_of_one() -> None:
    """Once each has said that it waits, and none before; each with the signal."""
    first, second, third = waits(None, signal.SIGUSR1, None)
    assert [wait.leave() for wait in (first, second, second, third)] == [None, None, None, None]
    assert [wait.leave() for wait in (first, second, third)] == [signal.SIGUSR1] * 3


def test_no_wait_is_left_without_a_signal_or_before_the_first_step() -> None:
    """And nothing is written."""
    assert [wait.leave() for wait in waits(None, None) * 3] == [None] * 6
    early = Waits(SignalFlag(), Kept(), number=0, count=1)
    early._stop.signal = signal.SIGTERM
    assert early.leave() is None


def test_a_process_whose_batch_came_is_waited_for() -> None:
    """It has begun the step; the next wait is a new one, which may be left."""
    first, second = waits(signal.SIGTERM, None)
    assert first.leave() is None
    assert second.arrive() is None
    assert [first.leave(), first.leave()] == [None, None]
    assert first.arrive() is None
    for wait in (first, second):
        wait.begin(8)
    for wait in (first, second, first):
        found = wait.leave()
    assert found == signal.SIGTERM


@pytest.mark.parametrize("calls", [*itertools.permutations(["leave 0", "leave 1", "arrive 0", "leave 1"])])
def test_all_leave_or_all_go_on_whatever_comes_first(calls: tuple[str, ...]) -> None:
    """The batch of one may come at any moment; each then asks again until it has its batch."""
    both = waits(signal.SIGTERM, None)
    has_left, has_batch = [False, False], [False, False]
    for what, number in (call.split() for call in calls):
        at = int(number)
        if not (has_left[at] or has_batch[at]):
            has_left[at] = getattr(both[at], what)() is not None
            has_batch[at] = what == "arrive" and not has_left[at]
    for at, wait in enumerate(both):
        if not (has_left[at] or has_batch[at]):
            has_left[at] = wait.leave() is not None or wait.arrive() is not None
    assert has_left in ([True, True], [False, False])
