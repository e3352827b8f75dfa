import signal

import pytest

from train import stopping


def test_one_request_that_comes_twice_is_one() -> None:
    """As of a cluster that tells a job and its processes; afterwards what was before answers again."""
    before = signal.getsignal(signal.SIGTERM)
    with stopping.Stop() as stop:
        assert stop.signal is None
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_later_signal_acts_as_it_always_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who cannot wait until the step is done need not."""
    monkeypatch.setattr(stopping, "SAME", 0.0)
    with stopping.Stop():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            signal.raise_signal(signal.SIGINT)
