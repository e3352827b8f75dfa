"""Rules of alerts on made series."""

import math

import numpy as np
import pytest

from sowlog._log.alarms import Alarms
from sowlog.alerts import Falling, Plateau, Range, Spike, Stall
from sowlog.writers import Record


def fired(rule, values, tag="x"):
    """Return the steps at which a rule fires on a series."""
    alarms = Alarms()
    alarms.add(rule, None)
    records = (Record(step, 0.0, (tag,), np.array([value], np.float32)) for step, value in enumerate(values))
    return [each.alert.step for record in records for each in alarms.observe(record)]


def noise(count, seed=0):
    """Return values of normal noise."""
    return np.random.default_rng(seed).normal(size=count)


def test_a_range_fires_once_until_its_value_is_back():
    """NaN and both infinities are out of each range; a bound is in it."""
    values = [1, 11, 12, math.nan, 10, -1, 0, math.inf, 5, math.nan, 5, -math.inf]
    assert fired(Range("x", low=0, high=10), values) == [1, 5, 7, 9, 11]


def test_a_range_without_bounds_finds_nan_alone():
    """An infinity is a number of the widest range."""
    assert fired(Range("x"), [math.inf, -math.inf, math.nan]) == [2]


def test_a_spike_fires_and_fires_again_after_the_series_was_normal():
    """The second value of a spike is the same spike, and the next one a new one."""
    values = 2 + 0.1 * noise(200)
    values[[100, 101, 150]] = 10
    assert fired(Spike("x"), values) == [100, 150]


@pytest.mark.parametrize("seed", range(5))
def test_noise_and_warmup_are_no_spikes(seed):
    """Nor is a loss that falls with noise, nor norms of gradients, whose logarithm is normal."""
    loss = 2 + 5 * np.exp(-np.arange(2000) / 50) + 0.2 * noise(2000, seed)
    assert fired(Spike("x"), loss) == []
    assert fired(Spike("x", threshold=20), np.exp(0.5 * noise(2000, seed))) == []


@pytest.mark.parametrize(("side", "expected"), [("above", [60]), ("below", [40]), ("both", [40, 60])])
def test_a_spike_has_a_side(side, expected):
    """Of a fall at step 40 and a rise at step 60."""
    values = 5 + 0.1 * noise(80)
    values[40], values[60] = 0, 10
    assert fired(Spike("x", side=side), values) == expected


def test_a_spike_is_measured_as_documented():
    """Ten robust deviations from the median, to both sides of the bound, computed by NumPy."""
    values = 5 + noise(64)
    median = np.median(values)
    bound = median + 10 * 1.4826 * np.median(np.abs(values - median))
    assert fired(Spike("x"), [*values, bound - 0.01]) == []
    assert fired(Spike("x"), [*values, bound + 0.01]) == [64]


def test_the_rounding_of_a_constant_is_no_spike():
    """The deviation of a constant is 0, and a tenth of it the least spike; zeros have none."""
    assert fired(Spike("x"), [*[1.0] * 50, 1.00001, 1.09, 1.11]) == [52]
    assert fired(Spike("x"), [*[0.0] * 50, 0.001]) == [50]


def test_the_first_values_and_a_new_level_are_no_spikes_for_long():
    """A quarter of the window is needed, and after half a window the new level is the median."""
    assert fired(Spike("x", window=64), [*[1.0] * 15, 100.0]) == []
    values = [*[1.0] * 64, *[100.0] * 64, *[1.0] * 64, 100.0]
    assert fired(Spike("x", window=64), values) == [64, 192]


def test_nan_is_a_spike_and_leaves_the_statistics_alone():
    """So the next finite value is compared with those before."""
    assert fired(Spike("x"), [*[1.0] * 20, math.nan, math.nan, 1.0, math.inf, 1.0, 5.0]) == [20, 23, 25]


def test_a_plateau_fires_at_the_end_of_a_window_and_again_after_progress():
    """Windows of 10: progress, none, none, progress, none."""
    values = np.repeat([5.0, 4.0, 4.0, 4.0, 3.0, 3.0], 10) + 0.0001 * noise(60)
    assert fired(Plateau("x", window=10), values) == [29, 59]
    assert fired(Plateau("x", window=10, better="higher"), -values) == [29, 59]
    assert fired(Plateau("x", window=10, better="higher"), values) == [19]


def test_slow_progress_adds_up():
    """Half of the least change in each window is an improvement in every second one."""
    values = [1 - 0.005 * window for window in range(6)]
    assert fired(Plateau("x", window=1, min_change=0.0075), values) == [1, 3, 5]


def test_a_falling_loss_with_noise_is_no_plateau():
    """The median of a window hides the noise of its values."""
    values = np.linspace(5, 1, 2000) + 0.5 * noise(2000)
    assert fired(Plateau("x", window=500), values) == []


def test_nan_is_no_progress():
    """Whether it is in a window or fills it."""
    assert fired(Plateau("x", window=3), [1.0, 1.0, 1.0, math.nan, math.nan, 0.1]) == [5]
    assert fired(Plateau("x", window=1), [math.nan, 2.0, 1.0]) == []


def test_a_falling_rate_fires_and_fires_again_after_recovery():
    """Below half of the highest median; single slow values are ignored."""
    values = [10, 10, 1, 10, 10, *[4] * 5, *[7] * 5, *[10] * 5, *[4] * 5]
    assert fired(Falling("x"), values) == [6, 22]


def test_a_rate_that_rises_never_falls():
    """As the first values of a run."""
    assert fired(Falling("x", drop=0.1), np.linspace(1, 5, 50)) == []


def test_nothing_falls_from_an_infinite_or_negative_rate():
    """A rate of a step that took no time would make all others a fall; half of -4 is above it."""
    assert fired(Falling("x", window=1), [math.inf, 5, 5, math.nan, 5, 2]) == [3, 5]
    assert fired(Falling("x", window=1), [-4, -4, 0, -8]) == []


def test_each_tag_of_a_glob_has_a_series_of_its_own():
    """One tag out of range hides no other."""
    alarms, alerts = Alarms(), []
    alarms.add(Range("*/entropy", high=1), None)
    tags = ("a/entropy", "b/entropy", "a/b/entropy", "entropy")
    for step, values in enumerate([(0, 0, 5, 5), (2, 0, 5, 5), (2, 2, 5, 5)]):
        alerts += alarms.observe(Record(step, 0.0, tags, np.array(values, np.float32)))
    assert [(each.alert.step, each.alert.tag) for each in alerts] == [(1, "a/entropy"), (2, "b/entropy")]


def test_the_message_names_tag_value_step_and_reason():
    """In one sentence."""
    alarms = Alarms()
    alarms.add(Spike("loss"), None)
    records = [Record(step, 0.0, ("loss",), np.array([1.0], np.float32)) for step in range(20)]
    assert [each for record in records for each in alarms.observe(record)] == []
    (found,) = alarms.observe(Record(20, 0.0, ("loss",), np.array([3.0], np.float32)))
    assert found.alert.message == ("loss is 3 at step 20, far from its median of 1 (robust deviation 0.01).")


def test_numbers_of_numpy_are_numbers():
    """As of a computed bound; the detector has those of Python."""
    rules = [
        Spike("x", threshold=np.float32(10), window=np.int64(8)),
        Plateau("x", window=np.int32(2), min_change=np.float64(0.5)),
        Falling("x", drop=np.float32(0.5), window=np.uint8(2)),
        Range("x", low=np.int64(0), high=np.float32(0.5)),
        Stall(np.int64(3)),
    ]
    assert rules == [
        Spike("x", threshold=10.0, window=8),
        Plateau("x", window=2, min_change=0.5),
        Falling("x", drop=0.5, window=2),
        Range("x", low=0, high=0.5),
        Stall(3),
    ]
    assert [type(value) for rule in rules for value in vars(rule).values() if not isinstance(value, str)] == [
        *(float, int, int, float, float, int, int, float, int),
    ]
    assert fired(rules[0], [*[1.0] * 9, 5.0]) == [9]


def test_a_stall_fires_once_until_the_next_step():
    """By a clock of the test; before the first step it does not run."""
    now = [0.0]
    alarms = Alarms(lambda: now[0])
    alarms.add(Stall(10), None)
    alarms.add(Stall(30), None)
    now[0] = 100.0
    assert alarms.observe_time() == []
    assert alarms.next_stall() is None
    alarms.begin(3)
    assert alarms.next_stall() == 10
    now[0] = 110.0
    (found,) = alarms.observe_time()
    assert (found.alert.step, found.alert.value, found.tag) == (3, 10.0, "alerts/stall")
    assert found.alert.message == "no step has come for 10 s since step 3."
    assert alarms.next_stall() == 20
    assert alarms.observe_time() == []
    now[0] = 131.0
    assert [each.alert.rule for each in alarms.observe_time()] == [Stall(30)]
    assert alarms.next_stall() is None
    assert alarms.observe(Record(4, 0.0)) == []
    assert alarms.next_stall() == 10


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Range(3), TypeError, "the tag of a Range is 3"),
        (lambda: Range(""), ValueError, "with an empty part"),
        (lambda: Range("x", low="1"), TypeError, "low is '1', a str; it must be a number"),
        (lambda: Range("x", low=2, high=1), ValueError, "is empty: low=2 must be at most high=1"),
        (lambda: Range("x", low=math.nan), ValueError, "is empty: low=nan must be"),
        (lambda: Spike("x", threshold=0), ValueError, "it must be a positive number"),
        (lambda: Spike("x", window=4), ValueError, "at least 5 values"),
        (lambda: Spike("x", window=0.5), TypeError, "it must be an integer"),
        (lambda: Spike("x", side="up"), ValueError, "choose one of above, below, both"),
        (lambda: Plateau("x", window=0), ValueError, "at least 1 value"),
        (lambda: Plateau("x", min_change=-1), ValueError, "0 or a positive number"),
        (lambda: Plateau("x", better="more"), ValueError, "choose lower or higher"),
        (lambda: Falling("x", drop=1), ValueError, "between 0 and 1"),
        (lambda: Stall(0), ValueError, "it must be a positive number"),
        (lambda: Stall(True), TypeError, "it must be a number"),
    ],
)
def test_a_rule_out_of_range_is_an_error(make, error, match):
    """Where the rule is made."""
    with pytest.raises(error, match=match):
        make()
