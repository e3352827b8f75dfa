"""Steps that go back: TensorBoard's default server then hides the points that came before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, final

from sowlog._event_file import is_open
from sowlog._events import read_head, read_tail
from sowlog._points import parse_event
from sowlog._warnings import LossWarning, warn_user

# Of an earlier run the last records are read: what its tags' last steps are is there. In bytes, of a file and
# of all files of a folder.
_TAIL, _TAILS = 1 << 20, 1 << 22
_PARSED, _PARSED_OF_SIZE = 64, 4
# Sets of tags whose last steps are known by set; beyond it they are known by tag.
_LAYOUTS = 64


class StepBack(NamedTuple):
    """A step that is not above an earlier one of the same tag.

    Attributes:
        tag: the tag.
        step: the step.
        last: the earlier one.
        is_earlier_run: whether it was in the folder before.
    """

    tag: str
    step: int
    last: int
    is_earlier_run: bool


@final
class StepOrder:
    """Finds the first step that is not above the last one of the same tag.

    Args:
        held: returns the last steps by tag of what is in the folder; called at the first record.
    """

    def __init__(self, held: Callable[[], Mapping[str, int]]) -> None:
        self._load = held
        self._held: Mapping[str, int] | None = None
        self._found = False
        self._highest = 0
        # The last set of tags, while its steps are the highest of all.
        self._recent: tuple[str, ...] | None = None
        # Steps of one layout share their tuple of tags, whose hash would cost as much as the event.
        self._layouts: dict[int, tuple[tuple[str, ...], int]] = {}
        self._by_tag: dict[str, int] = {}
        self._overlaps: dict[tuple[int, int], str | None] = {}

    def check(self, tags: tuple[str, ...], step: int) -> StepBack | None:
        """Take the next step of some tags; return how it goes back, at the first that does."""
        if tags is self._recent and step > self._highest:
            self._highest = step
            return None
        return self._check(tags, step)

    def _check(self, tags: tuple[str, ...], step: int) -> StepBack | None:
        if self._found or not tags:
            return None
        if self._recent is not None:
            # Its steps were the highest, and were not noted one by one.
            self._layouts[id(self._recent)] = self._recent, self._highest
            self._recent = None
        if self._held is None:
            self._held = self._load()
            self._highest = max(self._held.values(), default=step - 1)
        if step > self._highest:
            self._highest, self._recent = step, tags
        elif back := self._find(tags, step):
            self._found = True
            return back
        if len(self._layouts) >= _LAYOUTS:
            self._fold()
        self._layouts[id(tags)] = tags, step
        return None

    def _find(self, tags: tuple[str, ...], step: int) -> StepBack | None:
        for known, last in self._layouts.values():
            if last >= step and (tag := self._shared(known, tags)) is not None:
                return StepBack(tag, step, last, is_earlier_run=False)
        for steps, is_earlier_run in ((self._by_tag, False), (self._held or {}, True)):
            for tag in tags if steps else ():
                if steps.get(tag, step - 1) >= step and not (is_earlier_run and self._is_known(tag)):
                    return StepBack(tag, step, steps[tag], is_earlier_run)
        return None

    def _is_known(self, tag: str) -> bool:
        """Return whether this run has had the tag: then the order of its own steps is what counts."""
        return tag in self._by_tag or any(tag in tags for tags, _ in self._layouts.values())

    def _shared(self, first: tuple[str, ...], second: tuple[str, ...]) -> str | None:
        if first is second:
            return first[0]
        key = id(first), id(second)
        if key not in self._overlaps:
            self._overlaps[key] = next(iter(set(first).intersection(second)), None)
        return self._overlaps[key]

    def _fold(self) -> None:
        for tags, step in self._layouts.values():
            self._by_tag.update((tag, max(step, self._by_tag.get(tag, step))) for tag in tags)
        self._layouts.clear()
        self._overlaps.clear()


def last_steps(files: Iterable[Path], *, resume_from: int | None) -> dict[str, int]:
    """Return the last step of each tag that event files hold, as far as their last records show.

    Args:
        files: event files of runs that ended, some of which may be damaged or no files at all.
        resume_from: the step from which on a new file supersedes them, if it does.
    """
    left, read = _TAILS, list[tuple[int | None, dict[str, int]]]()
    for file in sorted(files, reverse=True):
        try:
            size = min(_TAIL, left, file.stat().st_size)
            read.append((_restart(read_head(file, 2)), _steps(read_tail(file, size))))
        except OSError:
            continue
        left -= size
        if left <= 0:
            break
    last: dict[str, int] = {}
    for restart, steps in reversed(read):
        last = _below(last, restart) | steps
    return _below(last, resume_from)


def _below(steps: dict[str, int], restart: int | None) -> dict[str, int]:
    if restart is None:
        return steps
    return {tag: min(step, restart - 1) for tag, step in steps.items()}


def warn_of_overlap(logdir: Path, step: int) -> None:
    """Warn where older points stay visible, as a restart would hide those of a writer at work."""
    files = [file for file in logdir.glob("*tfevents*") if is_open(file)]
    starts = [start for start in map(_restart_of, files) if start is not None]
    if files and not any(start <= step for start in starts):
        message = (
            f"{files[0].name} in {logdir} is being written, and a restart at step {step} would hide its "
            f"points from there on. So there is none, and what older files hold from step {step} on shows "
            f"beside what is logged now. Write: resume_from={step} for the first Logger of the folder as "
            f"well, or give each Logger a folder."
        )
        warn_user(LossWarning(message))


def _restart_of(file: Path) -> int | None:
    """Return the step from which on a file supersedes the older ones, as its opening says."""
    try:
        return _restart(read_head(file, 2))
    except OSError:
        return None


def _restart(payloads: Iterable[bytes]) -> int | None:
    restarts: list[int] = []
    for payload in payloads:
        try:
            restart = parse_event(payload).restart
        except ValueError:
            continue
        if restart is not None:
            restarts.append(restart)
    return restarts[-1] if restarts else None


def _steps(payloads: Iterable[bytes]) -> dict[str, int]:
    """Return the last steps by tag; what is no Event holds none.

    Of events of one size, which mostly have the same tags, only the last few are parsed.
    """
    steps: dict[str, int] = {}
    parsed = Counter[int]()
    for number, payload in enumerate(reversed(list(payloads)), 1):
        parsed[len(payload)] += 1
        if number > _PARSED and parsed[len(payload)] > _PARSED_OF_SIZE:
            continue
        try:
            points = parse_event(payload).points
        except ValueError:
            continue
        for point in points:
            steps.setdefault(point.tag, point.step)
    return steps
