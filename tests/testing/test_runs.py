"""assert_metric and assert_same_curves on runs that a logger wrote."""

import math

import numpy as np
import pytest

import sowlog
from sowlog.testing import assert_metric, assert_same_curves


def write(path, points):
    """Write scalars, given as pairs of a step and values by tag, and return the run's path."""
    with sowlog.Logger(path, on_nonfinite="ignore") as log:
        for step, values in points:
            log(step, values)
    return path


def curve(*values, tag="loss"):
    return [(step, {tag: np.float32(value)}) for step, value in enumerate(values)]


@pytest.fixture
def run(tmp_path):
    """A run whose loss is best in its middle and NaN at one step."""
    return sowlog.read(write(tmp_path / "run", curve(1.0, 0.25, math.nan, 0.5, tag="eval/loss")))


def test_the_last_value_is_compared(run):
    """Only the last value counts, and it is returned."""
    assert assert_metric(run, "eval/loss", "<", 0.6) == 0.5
    assert assert_metric(run.path, "eval/loss", ">", 0.4) == 0.5
    with pytest.raises(AssertionError, match=r"eval/loss is 0\.5 at step 3 in .*run, and should be < 0\.3\."):
        assert_metric(run, "eval/loss", "<", 0.3)


def test_the_best_value_is_of_the_comparison(run):
    """The best is the smallest for "<", the largest for ">", and never NaN."""
    assert assert_metric(run, "eval/loss", "<", 0.3, at="best") == 0.25
    assert assert_metric(run, "eval/loss", ">=", 1.0, at="best") == 1.0
    with pytest.raises(AssertionError, match=r"is 0\.25 at step 1 in .* should be < 0\.2; no other value"):
        assert_metric(run, "eval/loss", "<", 0.2, at="best")
    with pytest.raises(ValueError, match='"==" has no best value'):
        assert_metric(run, "eval/loss", "==", 0.2, at="best")


@pytest.mark.parametrize("comparison", ["<", "<=", ">", ">=", "=="])
def test_nan_meets_no_limit(run, comparison):
    """A diverged run passes no assertion."""
    with pytest.raises(AssertionError, match="eval/loss is nan at step 2"):
        assert_metric(run, "eval/loss", comparison, 0.0, at=2)


def test_a_run_of_nan_has_no_best_value(tmp_path):
    """Where all values are NaN, the best one is NaN too."""
    with pytest.raises(AssertionError, match="loss is nan at step 1"):
        assert_metric(write(tmp_path, curve(math.nan, math.nan)), "loss", "<", 1.0, at="best")


def test_a_step_is_compared(run):
    """A step without a point is an error that names its neighbours."""
    assert assert_metric(run, "eval/loss", "==", 0.25, at=np.int64(1)) == 0.25
    with pytest.raises(AssertionError, match=r"no point at step 7 in .*: the nearest is 3\."):
        assert_metric(run, "eval/loss", "<", 9.0, at=7)


def test_a_step_between_two(tmp_path):
    """Both neighbours are named."""
    path = write(tmp_path, [(0, {"loss": 1.0}), (10, {"loss": 2.0})])
    with pytest.raises(AssertionError, match=r"the nearest are 0 and 10\."):
        assert_metric(path, "loss", "<", 9.0, at=4)


def test_limits_have_the_precision_of_the_file(tmp_path):
    """0.1 is another number in float32: a limit of 0.1 is compared as that."""
    path = write(tmp_path, curve(0.1))
    assert_metric(path, "loss", "==", 0.1)
    assert_metric(path, "loss", "<=", 0.1)


def test_a_misspelled_tag_names_the_nearest(run):
    """The message of a missing tag has the tags that resemble it."""
    with pytest.raises(AssertionError, match=r"has no scalar eval/los: did you mean eval/loss\?"):
        assert_metric(run, "eval/los", "<", 1.0)


def test_wrong_arguments_name_the_right_ones(run):
    """Each error lists the accepted values."""
    with pytest.raises(ValueError, match="the comparison is '=<'; it must be one of <, <=, >, >=, =="):
        assert_metric(run, "eval/loss", "=<", 1.0)
    with pytest.raises(TypeError, match='at is \'min\'; it must be "last", "best" or a step'):
        assert_metric(run, "eval/loss", "<", 1.0, at="min")
    with pytest.raises(TypeError, match=r"a run is of type Runs: pass the result of sowlog\.read"):
        assert_metric(sowlog.read_all(run.path.parent), "eval/loss", "<", 1.0)


def test_equal_runs_are_the_same(tmp_path):
    """NaN is equal to NaN, and of a step written twice the last value counts."""
    with pytest.warns(sowlog.LossWarning, match="step"):
        one = write(tmp_path / "a", [(0, {"loss": 7.0}), *curve(1.0, math.nan, math.inf)])
    other = write(tmp_path / "b", curve(1.0, math.nan, math.inf))
    assert_same_curves(one, sowlog.read(other))


def test_the_first_difference_of_all_tags_is_reported(tmp_path):
    """The message has the tag that differs at the earliest step, both values, and the other tags."""
    one = write(tmp_path / "a", [(i, {"x": 1.0, "y": 1.0, "z": 1.0}) for i in range(4)])
    other = write(
        tmp_path / "b", [(i, {"x": 1.0 + (i == 3), "y": 1.0 + 0.5 * (i > 0), "z": 1.0}) for i in range(4)]
    )
    expected = r"^y is 1\.0 at step 1 in .*a and 1\.5 in .*b, beyond rtol=0\.1 and atol=0\.0; x differ"
    with pytest.raises(AssertionError, match=expected):
        assert_same_curves(one, other, rtol=0.1)
    assert_same_curves(one, other, rtol=0.5)
    assert_same_curves(one, other, atol=1.0)
    assert_same_curves(one, other, tags="z")
    assert_same_curves(one, other, ignore=["x", "y"])


def test_one_bit_is_a_difference(tmp_path):
    """Without a tolerance, values must be equal."""
    value = np.float32(0.1)
    one = write(tmp_path / "a", curve(value))
    other = write(tmp_path / "b", curve(np.nextafter(value, np.float32(1))))
    with pytest.raises(AssertionError, match=r"loss is 0\.1 at step 0 in .* and 0\.1000000\d+ in "):
        assert_same_curves(one, other)


@pytest.mark.parametrize("is_swapped", [False, True])
def test_a_step_of_one_run_is_a_difference(tmp_path, is_swapped):
    """A run that ends early is not the same, whichever comes first."""
    paths = write(tmp_path / "long", curve(1.0, 1.0)), write(tmp_path / "short", curve(1.0))
    with pytest.raises(AssertionError, match=r"loss has step 1 in .*long and not in .*short"):
        assert_same_curves(*(reversed(paths) if is_swapped else paths))


@pytest.mark.parametrize("is_swapped", [False, True])
def test_a_tag_of_one_run_names_the_nearest_of_the_other(tmp_path, is_swapped):
    """A renamed metric is named with the new name."""
    paths = write(tmp_path / "a", curve(1.0)), write(tmp_path / "b", curve(1.0, tag="los"))
    with pytest.raises(AssertionError, match=r"is a scalar of .* and not of .*: did you mean los"):
        assert_same_curves(*(reversed(paths) if is_swapped else paths))


def test_globs_that_match_nothing_are_refused(tmp_path):
    """A comparison of no tags would pass whatever the runs."""
    path = write(tmp_path, curve(1.0))
    with pytest.raises(ValueError, match=r"no scalar of either run matches eval/\*\*: there are loss"):
        assert_same_curves(path, path, tags=["loss", "eval/**"])
