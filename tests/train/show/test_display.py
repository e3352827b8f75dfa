import math

from train.show import display


class Value:
    """A number on its way from a device."""

    def __init__(self, number: float, *, ready: bool = True):
        self.number, self.ready = number, ready

    def is_ready(self) -> bool:
        return self.ready

    def __float__(self) -> float:
        assert self.ready, "read before it arrived: the program would wait for the device"
        return self.number


class Paper:
    """A screen that keeps its content."""

    def __init__(self, interval: float = 0.0):
        self.interval = interval
        self.lines: list[str] = []
        self.shown: list[tuple[int, str]] = []
        self.paces: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, step: int, values: str, pace: str) -> None:
        self.shown.append((step, values))
        self.paces.append(pace)


def test_values_are_shown_once_they_have_arrived() -> None:
    """Under their own step, however late; steps in between are passed over."""
    paper = Paper()
    shown_on = display.Display(paper, 10)
    late = Value(2.0, ready=False)
    shown_on.trained(0, {"loss": late})
    shown_on.trained(1, {"loss": Value(3.0)})
    assert paper.shown == []
    late.ready = True
    shown_on.trained(2, {"loss": Value(4.0)})
    shown_on.trained(3, {"loss": Value(5.0)})
    assert paper.shown == [(0, "loss 2.000"), (3, "loss 5.000")]
    assert paper.paces[0] == ""
    assert "steps/s" in paper.paces[1]


def test_a_held_out_value_that_is_not_finite_has_a_line() -> None:
    """Which names it and the step, of a single layer too."""
    paper = Paper()
    shown_on = display.Display(paper, 10)
    shown_on.evaluated(5, {"loss": Value(math.nan), "accuracy": Value(0.5), "block/x": Value(math.inf)})
    shown_on.ended()
    assert sorted(paper.lines[1:]) == [
        "warning: eval/block/x is inf at step 5.",
        "warning: eval/loss is nan at step 5.",
    ]


def test_an_evaluation_is_shown_under_its_step_when_it_is_done() -> None:
    """A line that stays, without the values of single layers."""
    paper = Paper()
    shown_on = display.Display(paper, 10)
    late = Value(0.5, ready=False)
    shown_on.evaluated(4, {"accuracy": late, "block_0/dead": Value(1.0)})
    shown_on.trained(4, {"loss": Value(1.0)})
    assert paper.lines == []
    late.ready = True
    shown_on.trained(5, {"loss": Value(1.0)})
    shown_on.trained(6, {"loss": Value(1.0)})
    assert paper.lines == ["step 4/10  held out: accuracy 0.5000"]


def test_every_evaluation_is_shown_however_fast_the_steps_are() -> None:
    """Also those that are done only after the last step."""
    paper = Paper()
    shown_on = display.Display(paper, 10)
    late = [Value(0.5, ready=False), Value(0.6, ready=False)]
    for step, value in zip((4, 8), late, strict=True):
        shown_on.evaluated(step, {"accuracy": value})
        shown_on.trained(step, {"loss": Value(1.0)})
    assert paper.lines == []
    for value in late:
        value.ready = True
    shown_on.ended()
    assert paper.lines == ["step 4/10  held out: accuracy 0.5000", "step 8/10  held out: accuracy 0.6000"]


def test_progress_keeps_its_interval() -> None:
    """Within it, nothing is shown, and nothing old is kept for later."""
    paper = Paper(interval=1000.0)
    shown_on = display.Display(paper, 10)
    for step in range(5):
        shown_on.trained(step, {"loss": Value(float(step))})
    assert [step for step, _ in paper.shown] == [0]


def test_the_pace_is_that_since_the_first_step() -> None:
    """Ten steps in two seconds, ninety to go; nothing can be said at the first."""
    pace = display._Pace(100)
    assert pace.describe(0, 5.0) == ""
    assert pace.describe(10, 7.0) == "5.0 steps/s  0:18 left"
    assert pace.describe(20, 4005.0) == "0.0 steps/s  4:26:40 left"
