"""Steps that go back, at which TensorBoard's default server hides the points written before."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, final

from sowlog._events.file import is_open
from sowlog._events.framing import read_head, read_tail
from sowlog._events.parsing import parse_event
from sowlog.writers._warnings import LossWarning, warn_user

# The last steps of an earlier run's tags are in its last records, so only these are read. In bytes, of a file
# and of all files of a folder.
_TAIL, _TAILS = 1 << 20, 1 << 22
_PARSED, _PARSED_OF_SIZE = 64, 4
# Sets of tags whose last steps are kept per set; beyond it they are kept per tag.
_LAYOUTS = 64
# The number of tags that a warning names.
_NAMED = 5


class StepBack(NamedTuple):
    """A step that is not above an earlier step of the same tag.

    Attributes:
        tag: the tag.
        step: the step.
        last: the earlier step.
        is_earlier_run: whether the earlier step was in the folder before.
        is_concurrent: whether another logger, still open, had written the earlier step.
    """

    tag: str
    step: int
    last: int
    is_earlier_run: bool
    is_concurrent: bool = False


@final
class StepOrder:
    """Finds the first step that is not above the last step of the same tag.

    Args:
        earlier: returns the last steps by tag of earlier runs in the folder; called at the first record.
        concurrent: the last steps by tag of open loggers, when this one began.
    """

    def __init__(
        self, earlier: Callable[[], Mapping[str, int]], concurrent: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        self._load_earlier = earlier
        self._concurrent = concurrent
        self._earlier: Mapping[str, int] | None = None
        self._reported = False
        self._highest = 0
        # The set of tags written last, while its steps are the highest of all.
        self._recent: tuple[str, ...] | None = None
        # Steps of one layout share their tuple of tags, whose hash would cost as much as the event.
        self._layouts: dict[int, tuple[tuple[str, ...], int]] = {}
        self._by_tag: dict[str, int] = {}
        self._overlaps: dict[tuple[int, int], str | None] = {}

    def check(self, tags: tuple[str, ...], step: int) -> StepBack | None:
        """Note the next step of some tags; return the first step that goes back, once."""
        if tags is self._recent and step > self._highest:
            self._highest = step
            return None
        return self._check(tags, step)

    def follow(self, tags: tuple[str, ...], steps: Sequence[int]) -> bool:
        """Note the next steps of some tags, if these were the last and all steps go up; else return False."""
        if tags is not self._recent or not all(map(operator.lt, [self._highest, *steps], steps)):
            return False
        self._highest = steps[-1]
        return True

    def _check(self, tags: tuple[str, ...], step: int) -> StepBack | None:
        if self._reported or not tags:
            return None
        if self._recent is not None:
            # The steps of the recent set were the highest, and only the last one is noted.
            self._layouts[id(self._recent)] = self._recent, self._highest
            self._recent = None
        if self._earlier is None:
            self._earlier = self._load_earlier()
            self._highest = max((*self._earlier.values(), *self._concurrent.values()), default=step - 1)
        if step > self._highest:
            self._highest, self._recent = step, tags
        elif back := self._find_back(tags, step):
            self._reported = True
            return back
        if len(self._layouts) >= _LAYOUTS:
            self._fold_layouts()
        self._layouts[id(tags)] = tags, step
        return None

    def _find_back(self, tags: tuple[str, ...], step: int) -> StepBack | None:
        for known, last in self._layouts.values():
            if last >= step and (tag := self._shared_tag(known, tags)) is not None:
                return StepBack(tag, step, last, is_earlier_run=False)
        for steps in (self._by_tag, self._concurrent, self._earlier or {}):
            is_earlier_run = steps is not self._by_tag
            for tag in tags if steps else ():
                if steps.get(tag, step - 1) >= step and not (is_earlier_run and self._was_logged(tag)):
                    return StepBack(tag, step, steps[tag], is_earlier_run, steps is self._concurrent)
        return None

    def _was_logged(self, tag: str) -> bool:
        """Return whether this run has logged the tag, so that only the order of its own steps matters."""
        return tag in self._by_tag or any(tag in tags for tags, _ in self._layouts.values())

    def _shared_tag(self, first: tuple[str, ...], second: tuple[str, ...]) -> str | None:
        if first is second:
            return first[0]
        key = id(first), id(second)
        if key not in self._overlaps:
            self._overlaps[key] = next(iter(set(first).intersection(second)), None)
        return self._overlaps[key]

    def logged(self) -> dict[str, int]:
        """Return the last steps by tag of this run, up to the first step that goes back."""
        self._fold_layouts()
        return self._by_tag | dict.fromkeys(self._recent or (), self._highest)

    def _fold_layouts(self) -> None:
        for tags, step in self._layouts.values():
            self._by_tag.update((tag, max(step, self._by_tag.get(tag, step))) for tag in tags)
        self._layouts.clear()
        self._overlaps.clear()


def last_steps(files: Iterable[Path], *, resume_from: int | None) -> dict[str, int]:
    """Return the last step of each tag in the last records of event files.

    Args:
        files: paths of event files, some of which may be damaged or not regular files.
        resume_from: the step from which a new file supersedes them, or None.
    """
    last: dict[str, int] = {}
    for end in _file_ends(files):
        last = _clip(last, end.restart) | end.steps
    return _clip(last, resume_from)


class _FileEnd(NamedTuple):
    """The last steps by tag in an event file, and the step from which the file supersedes older ones."""

    restart: int | None
    steps: dict[str, int]


def _file_ends(files: Iterable[Path]) -> list[_FileEnd]:
    """Return the ends of event files in the order of their names, without the oldest beyond the bound."""
    left, read = _TAILS, list[_FileEnd]()
    for file in sorted(files, reverse=True):
        try:
            size = min(_TAIL, left, file.stat().st_size)
            read.append(_FileEnd(_restart(read_head(file, 2)), _last_steps_of(read_tail(file, size))))
        except OSError:
            continue
        left -= size
        if left <= 0:
            break
    return read[::-1]


def _clip(steps: dict[str, int], restart: int | None) -> dict[str, int]:
    if restart is None:
        return steps
    return {tag: min(step, restart - 1) for tag, step in steps.items()}


def warn_of_overlap(logdir: Path, step: int) -> bool:
    """Warn if older points stay visible, because a restart would hide the points of an open writer.

    Returns:
        Whether the warning was issued.
    """
    files = [file for file in logdir.glob("*tfevents*") if is_open(file)]
    starts = [start for start in map(_restart_of, files) if start is not None]
    is_overlap = bool(files) and not any(start <= step for start in starts)
    if is_overlap:
        message = (
            f"{files[0].name} in {logdir} is being written, and a restart at step {step} would hide its "
            f"points from there on. So no restart is written, and the points of older files from step {step} "
            f"on are shown beside the new ones. Write: resume_from={step} for the first Logger of the folder "
            f"as well, or use a folder for each Logger."
        )
        warn_user(LossWarning(message))
    return is_overlap


def find_hidden(
    own: Path, older: Iterable[Path], *, resume_from: int, logged: Mapping[str, int]
) -> LossWarning | None:
    """Return the warning for points of another logger that a restart hides and no new points replace.

    A resumed run logs the tags of its earlier files again. So a file belongs to another logger if none of its
    tags was logged again, although the run went past its steps.

    Args:
        own: the file that begins with the restart.
        older: the event files that were in the folder before.
        resume_from: the step of the restart.
        logged: the last steps by tag of the file itself.
    """
    later = [file for file in own.parent.glob("*tfevents*") if file.name > own.name]
    if not logged or any(map(is_open, later)):
        # A concurrent logger may still write the points that replace the hidden ones.
        return None
    again, reached = set(logged).union(*(end.steps for end in _file_ends(later))), max(logged.values())
    hidden: dict[str, int] = {}
    restarts = [resume_from]
    for end in reversed(_file_ends(older)):
        # A restart between the two files has hidden its points before, and has been reported.
        shown = _clip(end.steps, min(restarts[1:], default=None))
        if again.isdisjoint(shown):
            hidden |= {tag: step for tag, step in shown.items() if resume_from <= step <= reached}
        restarts += [] if end.restart is None else [end.restart]
    if not hidden:
        return None
    tags = f"{', '.join(sorted(hidden)[:_NAMED])}{' and others' * (len(hidden) > _NAMED)}"
    return LossWarning(
        f"the points of {tags} in {own.parent}, from step {resume_from} to step {max(hidden.values())}, are "
        f"hidden from sowlog.read and TensorBoard's Python reader by Logger(logdir, "
        f"resume_from={resume_from}), which supersedes all earlier points from that step on, and logged none "
        f"of these tags again. If two loggers continue one run, make both, each with "
        f"resume_from={resume_from}, before the first is closed; or use a folder for each."
    )


def _restart_of(file: Path) -> int | None:
    """Return the step of the restart in the first records of a file, or None."""
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


def _last_steps_of(payloads: Iterable[bytes]) -> dict[str, int]:
    """Return the last steps by tag, of values of every kind; a payload that is no Event is skipped.

    Events of one size mostly have the same tags, so only the last few of each size are parsed.
    """
    steps: dict[str, int] = {}
    parsed = Counter[int]()
    for number, payload in enumerate(reversed(list(payloads)), 1):
        parsed[len(payload)] += 1
        if number > _PARSED and parsed[len(payload)] > _PARSED_OF_SIZE:
            continue
        try:
            event = parse_event(payload)
        except ValueError:
            continue
        for tag in event.tags:
            steps.setdefault(tag, event.step)
    return steps
