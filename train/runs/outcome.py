"""How a run ended."""

import signal
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended.

    Attributes:
        step: number of updates that its last checkpoint holds.
        reached: number of updates at its end; more, if the last of them could not or should not be saved.
        trained: values of the last update by tag; empty if this process made none.
        evaluated: values of the evaluation after the last step; empty if it was stopped before.
        latest: values of the last evaluation that this process made, whenever it was.
        latest_step: the step of that evaluation.
        updates: number of updates that this process made.
        compiling: seconds until the first of them was done, nearly all of them compilation.
        training: seconds of all the others, with the evaluations and checkpoints between them.
        ended_early: why it ended before its last step; empty if it did not, or by a signal.
        diverged: whether it ended as the objective or its gradient was not finite.
        stopped_by: the signal that ended it, to this process or another of the run.
        failures: writes that failed, each in a line.
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
    failures: tuple[str, ...] = ()
    latest: dict[str, float] = field(default_factory=dict[str, float])
    latest_step: int = 0

    @property
    def is_finished(self) -> bool:
        """Whether the run has come to its end, with all of it on disk."""
        return not (self.diverged or self.failures or self.stopped_by)
