"""Assertions on the scalars of runs: see `sowlog.testing`."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sowlog._events.reading import Run, Series, read
from sowlog._tree.globs import check_globs, pattern_of
from sowlog._tree.nearest import nearest

_COMPARISONS = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
}
_SHOWN_TAGS = 5


def assert_metric(
    run: Run | str | PathLike[str],
    tag: str,
    comparison: Literal["<", "<=", ">", ">=", "=="],
    limit: float,
    *,
    at: Literal["last", "best"] | int = "last",
) -> float:
    """Assert that a scalar of a run is below, above or at a limit.

    Values and limit are compared in float32, which event files hold. A NaN meets no limit.

    Args:
        run: the result of `sowlog.read`, or the path of a run.
        tag: the tag of a scalar.
        comparison: the comparison of the value with the limit: "<", "<=", ">", ">=" or "==".
        limit: the limit.
        at: the compared point. "last": the last one. "best": the smallest value for "<" and "<=", the largest
            for ">" and ">="; NaN is left out. An integer: that step, of which the last value counts.

    Returns:
        The compared value.

    Raises:
        AssertionError: The value does not meet the limit, or the run has no such tag or step. The message has
            the tag, the step and the value, or the nearest tags or steps.
        FileNotFoundError: The path has no event file.
        TypeError: `run` is no run and no path, or `at` is none of these.
        ValueError: The comparison is unknown, or it is "==" and `at` is "best".

    Example:
        >>> import tempfile, sowlog, sowlog.testing
        >>> logdir = tempfile.mkdtemp()
        >>> with sowlog.Logger(logdir) as log:
        ...     for step in range(3):
        ...         log(step, {"eval": {"loss": 1.0 / 2**step}})
        >>> sowlog.testing.assert_metric(logdir, "eval/loss", "<", 0.3)
        0.25
        >>> sowlog.testing.assert_metric(logdir, "eval/loss", "<", 0.3, at=1)
        Traceback (most recent call last):
            ...
        AssertionError: eval/loss is 0.5 at step 1 in ..., and should be < 0.3.
    """
    if comparison not in _COMPARISONS:
        raise ValueError(f"the comparison is {comparison!r}; it must be one of {', '.join(_COMPARISONS)}.")
    run = _as_run(run)
    row = _row_of(run, tag, comparison, at)
    steps, values = run.scalars[tag]
    if not _COMPARISONS[comparison](values[row], np.float32(limit)):
        raise AssertionError(
            f"{tag} is {_text(values[row])} at step {steps[row]} in {run.path}, and should be {comparison} "
            f"{limit}{_that_is_best(at)}."
        )
    return float(values[row])


def assert_same_curves(
    a: Run | str | PathLike[str],
    b: Run | str | PathLike[str],
    *,
    rtol: float = 0.0,
    atol: float = 0.0,
    tags: str | Iterable[str] = "**",
    ignore: str | Iterable[str] = (),
) -> None:
    """Assert that two runs have the same scalar tags, the same steps, and equal or close values.

    Of a step that was written twice, the last value counts. Two NaNs are equal.

    Args:
        a: the result of `sowlog.read`, or the path of a run.
        b: the other run.
        rtol: the allowed difference relative to the value of `b`; 0 for equal values.
        atol: the allowed difference.
        tags: globs of the compared tags, such as "eval/**"; all by default.
        ignore: globs of tags to leave out, such as "rates/**", whose values depend on the machine.

    Raises:
        AssertionError: The runs differ. The message has the first step at which they do, its tag and both
            values; or the tag that only one run has, and the nearest tags of the other.
        FileNotFoundError: A path has no event file.
        TypeError: A run is no run and no path, or a glob is no str.
        ValueError: A glob of `tags` matches no tag of either run, or a glob has an empty part.

    Example:
        >>> import tempfile, sowlog, sowlog.testing
        >>> logdir = tempfile.mkdtemp()
        >>> for name, last in (("a", 0.5), ("b", 0.25)):
        ...     with sowlog.Logger(f"{logdir}/{name}") as log:
        ...         log(0, {"loss": 1.0})
        ...         log(1, {"loss": last})
        >>> sowlog.testing.assert_same_curves(f"{logdir}/a", f"{logdir}/b", rtol=1.0)
        >>> sowlog.testing.assert_same_curves(f"{logdir}/a", f"{logdir}/b", rtol=1e-3)
        Traceback (most recent call last):
            ...
        AssertionError: loss is 0.5 at step 1 in .../a and 0.25 in .../b, beyond rtol=0.001 and atol=0.0.
    """
    a, b = _as_run(a), _as_run(b)
    chosen = _choose({**a.scalars, **b.scalars}, tags, ignore)
    for tag in chosen:
        _check_in_both(tag, a, b)
    differences = {
        tag: found
        for tag in chosen
        if (found := _first_difference(a.scalars[tag], b.scalars[tag], rtol, atol)) is not None
    }
    if not differences:
        return
    tag = min(differences, key=lambda each: differences[each].step)
    step, one, other = differences.pop(tag)
    if one is None or other is None:
        with_step, without = (a, b) if other is None else (b, a)
        message = f"{tag} has step {step} in {with_step.path} and not in {without.path}"
    else:
        message = (
            f"{tag} is {_text(one)} at step {step} in {a.path} and {_text(other)} in {b.path}, beyond "
            f"{rtol=} and {atol=}"
        )
    raise AssertionError(f"{message}{_others(list(differences))}.")


class _Difference(NamedTuple):
    """The first step at which two curves differ, and the value of each; None where it has no such step."""

    step: int
    a: np.float32 | None
    b: np.float32 | None


def _as_run(run: Run | str | PathLike[str]) -> Run:
    if isinstance(run, Run):
        return run
    if not isinstance(run, str | PathLike):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
        raise TypeError(
            f"a run is of type {type(run).__name__}: pass the result of sowlog.read, or the path of a run; "
            "of sowlog.read_all, one of the values."
        )
    return read(run)


def _row_of(run: Run, tag: str, comparison: str, at: Any) -> int:
    """Return the row of the compared point."""
    if tag not in run.scalars:
        raise AssertionError(f"{run.path} has no scalar {tag}: {nearest(tag, run.scalars)}")
    steps, values = run.scalars[tag]
    match at:
        case "last":
            return len(steps) - 1
        case "best":
            return _best(values, comparison)
        case int() | np.integer() if not isinstance(at, bool):
            rows = np.flatnonzero(steps == at)
            if not len(rows):
                raise AssertionError(
                    f"{tag} has no point at step {at} in {run.path}: {_nearest_steps(int(at), steps)}."
                )
            return int(rows[-1])
        case _:
            raise TypeError(f'at is {at!r}; it must be "last", "best" or a step.')


def _best(values: NDArray[np.float32], comparison: str) -> int:
    if comparison == "==":
        raise ValueError('"==" has no best value: pass at="last" or a step, or compare by "<" or ">".')
    if np.isnan(values).all():
        return len(values) - 1
    return int(np.nanargmin(values) if comparison.startswith("<") else np.nanargmax(values))


def _nearest_steps(step: int, steps: NDArray[np.int64]) -> str:
    near = [*np.sort(steps[steps < step])[-1:], *np.sort(steps[steps > step])[:1]]
    return f"the nearest {'are' if len(near) > 1 else 'is'} {' and '.join(map(str, near))}"


def _choose(known: Mapping[str, Series], tags: str | Iterable[str], ignore: str | Iterable[str]) -> list[str]:
    wanted, left_out = _patterns("tags", tags), _patterns("ignore", ignore)
    for glob, pattern in wanted.items():
        if not any(map(pattern.match, known)):
            raise ValueError(f"no scalar of either run matches {glob}: {nearest(glob, known)}")
    return [tag for tag in sorted(known) if _matches(tag, wanted) and not _matches(tag, left_out)]


def _patterns(name: str, globs: str | Iterable[str]) -> dict[str, re.Pattern[str]]:
    return {glob: pattern_of(glob) for glob in check_globs(name, globs)}


def _matches(tag: str, patterns: Mapping[str, re.Pattern[str]]) -> bool:
    return any(pattern.match(tag) for pattern in patterns.values())


def _check_in_both(tag: str, a: Run, b: Run) -> None:
    for here, there in ((a, b), (b, a)):
        if tag not in there.scalars:
            raise AssertionError(
                f"{tag} is a scalar of {here.path} and not of {there.path}: {nearest(tag, there.scalars)}"
            )


def _first_difference(a: Series, b: Series, rtol: float, atol: float) -> _Difference | None:
    one, other = (dict(zip(each.steps.tolist(), each.values, strict=True)) for each in (a, b))
    for step in sorted(one.keys() | other.keys()):
        if step not in one or step not in other:
            return _Difference(step, one.get(step), other.get(step))
        if not np.isclose(one[step], other[step], rtol=rtol, atol=atol, equal_nan=True):
            return _Difference(step, one[step], other[step])
    return None


def _text(value: np.float32) -> str:
    """Return a value with the digits that distinguish it in float32."""
    return str(value)


def _that_is_best(at: Any) -> str:
    return "; no other value is better" if at == "best" else ""


def _others(tags: list[str]) -> str:
    if not tags:
        return ""
    more = f" and {len(tags) - _SHOWN_TAGS} more" if len(tags) > _SHOWN_TAGS else ""
    return f"; {', '.join(tags[:_SHOWN_TAGS])}{more} differ as well"
