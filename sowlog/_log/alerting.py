"""The part of a logger that watches its scalars by rules."""

from __future__ import annotations

from sowlog._log.alarms import Alarms
from sowlog._log.background import Background
from sowlog._log.item import Item
from sowlog.alerts import Callback, Rule


class Alerting:
    """The part of a logger that watches its scalars.

    Attributes of the logger: `_alarms`, the rules, and `_background`, the thread that reads them.
    """

    _alarms: Alarms
    _background: Background[Item]

    def alert(self, rule: Rule, callback: Callback | None = None) -> None:
        """Watch the logged scalars by a rule of `sowlog.alerts`.

        The thread of the logger watches the steps that it writes from now on, so the training thread pays
        nothing; steps that `every` skips or a full queue drops are not seen. An alert is written as a text
        under `alerts/`, for TensorBoard's Text tab. It fires once, and again only after its condition has
        ended. If the tag of a rule is never logged, `close` issues an AlertWarning with the tags that were.

        Args:
            rule: the condition: a `Range`, `Spike`, `Plateau`, `Falling` or `Stall`.
            callback: called with each `Alert`, on the thread of the logger, which writes nothing meanwhile:
                set a flag that the training loop reads, or send a message. It cannot flush or close the
                logger. An exception of it is raised as AlertError by the next call of the logger. By default
                the next call issues an AlertWarning; that of a stall is issued at once, on the thread.

        Raises:
            TypeError: The rule or the callback has another type.
            RuntimeError: The logger is closed.

        Example:
            >>> import sowlog
            >>> from sowlog import alerts
            >>> with sowlog.Logger("unused", writers=[]) as log:
            ...     log.alert(alerts.Spike("norm/grads"))
            ...     log.alert(alerts.Stall(seconds=600), lambda alert: print("page someone:", alert.message))
            ...     log(0, {"loss": 1.0, "norm": {"grads": 0.5}})
        """
        if not isinstance(rule, Rule):  # pyright: ignore[reportUnnecessaryIsInstance]  # a user's argument
            raise TypeError(
                f"the rule of an alert is {rule!r}; give one of sowlog.alerts, "
                f"log.alert(sowlog.alerts.Spike('loss'))."
            )
        if callback is not None and not callable(callback):
            raise TypeError(f"the callback of an alert is {callback!r}; give a function of one Alert.")
        self._background.require_open()
        self._alarms.add(rule, callback)
        self._background.wake()
