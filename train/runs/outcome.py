"""The outcome of a run."""

import signal
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a run: its last values, its times, and the reason of its end.

    Attributes:
        step: number of updates in its last checkpoint.
        reached: number of updates at its end; more than `step` if the last state was not saved.
        trained: values of the last update by tag; empty if this process made none.
        evaluated: values of the evaluation after the last step; empty if it was stopped before.
        latest: values of the last evaluation that this process made, whenever it was.
        latest_step: the step of that evaluation.
        updates: number of updates that this process made.
        compiling: seconds until the first of them was computed, nearly all of them compilation.
        training: seconds of the others, with the evaluations and checkpoints between them.
        ended_early: the stop rule that ended it before its last step; empty without one.
        diverged: whether the objective or its gradient was not finite.
        stopped_by: the signal that ended it, sent to this process or another of the run.
        alert: the alert that ended it, as SIGTERM would; empty without one.
        failures: failed writes, each in a line.
    """

    step: int
    reached: int
    trained: dict[str, float]
    evaluated: dict[str, float]
    updates: int
    compiling: float
    training: float
    ended_early: str = ""
    diverged: bool = False
    stopped_by: signal.Signals | None = None
    alert: str = ""
    failures: tuple[str, ...] = ()
    latest: dict[str, float] = field(default_factory=dict[str, float])
    latest_step: int = 0

    @property
    def is_finished(self) -> bool:
        """Whether the run has ended, with all of it on disk."""
        return not (self.diverged or self.failures or self.stopped_by)
