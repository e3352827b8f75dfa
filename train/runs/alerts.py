"""The rules of alerts of a run, and the end of a run by one of them."""

import functools
import signal
from collections.abc import Sequence

import sowlog
from sowlog.alerts import Alert, Rule
from train.config.alerts import AlertOptions, FallingAlert, PlateauAlert, RangeAlert, SpikeAlert
from train.system.signals import SignalFlag


class Alerts:
    """End the run by an alert with `exit`, as SIGTERM would: it is saved, and can go on.

    A loop that hangs on the device does not end; the alert is shown.

    Args:
        stop: the flag that ends the loop of all processes, or its wait for a batch.

    Attributes:
        ended_by: the message of the alert that ends the run; empty so far.
    """

    def __init__(self, stop: SignalFlag):
        self.ended_by = ""
        self._stop = stop

    def watch(self, log: sowlog.Logger, options: Sequence[AlertOptions]) -> None:
        """Add the rules of a configuration to a logger."""
        for each in options:
            log.alert(rule_of(each), functools.partial(self._take, is_exit=each.exit))

    def _take(self, alert: Alert, *, is_exit: bool) -> None:
        if is_exit and not self.ended_by:
            self.ended_by = alert.message
            self._stop.request(signal.SIGTERM)


def rule_of(options: AlertOptions) -> Rule:
    """Return the rule of a section of `alerts`."""
    settings = options.model_dump(exclude={"name", "exit"}, exclude_none=True)
    match options:
        case SpikeAlert():
            return sowlog.alerts.Spike(**settings)
        case PlateauAlert():
            return sowlog.alerts.Plateau(**settings)
        case FallingAlert():
            return sowlog.alerts.Falling(**settings)
        case RangeAlert():
            return sowlog.alerts.Range(**settings)
        case _:
            return sowlog.alerts.Stall(**settings)
