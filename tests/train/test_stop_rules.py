import jax.numpy as jnp

from train.config.experiment import EarlyStopOptions
from train.stop_rules import LAG, EarlyStopping, FiniteCheck, LateValues, Patience


def test_a_value_is_read_a_fixed_number_of_steps_late() -> None:
    """In the order of the steps, each once; at the end all that are left."""
    values, read = LateValues(2), []
    for step in range(4):
        values.put(step, jnp.int32(10 * step))
        read.append(list(values.take()))
    assert read == [[], [], [(0, 0)], [(1, 10)]]
    assert list(values.take(leave=0)) == [(2, 20), (3, 30)]
    assert list(values.take(leave=0)) == []


def test_the_first_step_that_is_not_finite_is_found_late_and_kept() -> None:
    """At the same step in every process, whenever the flags arrive."""
    check = FiniteCheck(is_on=True)
    for step in range(LAG + 4):
        check.note(step, jnp.bool_(step not in (3, 5)))
        assert check.failed == (3 if step >= LAG + 3 else None)
    check.settle()
    assert check.failed == 3
    assert check.describe() == "the objective or its gradient was not finite at step 3"


def test_a_check_that_is_off_finds_nothing() -> None:
    """Whatever the flags are."""
    check = FiniteCheck(is_on=False)
    check.note(0, jnp.bool_(False))
    check.settle()
    assert (check.failed, check.describe()) == (None, "")


def test_a_question_about_patience_changes_nothing() -> None:
    """It is observed once an evaluation, however often it is asked for."""
    early = EarlyStopping(EarlyStopOptions(metric="eval/loss", patience=2))
    patience = Patience.new()
    for value, exhausted in ((1.0, False), (1.0, False), (2.0, True)):
        patience = early.observe(patience, {"loss": jnp.float32(value)})
        assert [early.is_exhausted(patience) for _ in range(3)] == [exhausted] * 3
    assert early.describe() == "eval/loss did not get better in 2 evaluations"
    never = EarlyStopping(None)
    assert never.observe(patience, {}) is patience
    assert not never.is_exhausted(patience)
