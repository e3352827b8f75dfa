import signal
from collections.abc import Iterator

import pytest

from train.system import signals


@pytest.fixture(autouse=True)
def _handled_by_default() -> Iterator[None]:
    """Let each signal act by default: in the background or under nohup SIGINT or SIGHUP is ignored."""
    defaults = {signal.SIGINT: signal.default_int_handler, **dict.fromkeys(signals.WARNINGS, signal.SIG_DFL)}
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_one_request_that_comes_twice_is_one() -> None:
    """As of a cluster that signals a job and its processes; afterwards the handlers from before are back."""
    before = signal.getsignal(signal.SIGTERM)
    with signals.SignalFlag() as stop:
        assert stop.signal is None
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_later_signal_acts_as_it_always_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who cannot wait until the step is done need not."""
    monkeypatch.setattr(signals, "SAME", 0.0)
    with signals.SignalFlag():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("warning", signals.WARNINGS)
def test_a_warning_asks_to_leave_and_never_ends_at_once(
    warning: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it comes; nor does the first SIGTERM after it, while the run is saved."""
    monkeypatch.setattr(signals, "SAME", 0.0)
    with signals.SignalFlag() as stop:
        for number in (warning, warning, signal.SIGTERM, warning):
            signal.raise_signal(number)
        assert stop.signal == warning
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            signal.raise_signal(signal.SIGINT)


def test_a_warning_that_is_ignored_or_handled_elsewhere_stays_so() -> None:
    """As SIGHUP is under nohup, and SIGUSR1 by a library that has a use for it."""
    heard: list[int] = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    with signals.SignalFlag() as stop:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGUSR1)
        assert stop.signal is None
    assert heard == [signal.SIGUSR1]
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
