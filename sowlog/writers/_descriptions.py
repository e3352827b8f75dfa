"""The descriptions of tags in an event file, each in the first event of its tag, where TensorBoard looks."""

from __future__ import annotations

from collections.abc import Iterable

from sowlog._tree.sites import site_of


class Descriptions:
    """Which tags of a file are yet to be described.

    A description is as long as ten points, so only the first event of a tag has it.
    """

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._pending: dict[str, str] = {}
        self._taken: dict[str, str] = {}

    def add(self, tags: Iterable[str], *, is_histogram: bool = False) -> None:
        """Look up the descriptions of the tags that are new."""
        for tag in tags:
            if tag in self._seen:
                continue
            self._seen.add(tag)
            site = site_of(tag)
            if text := site and str(site.description(is_histogram=is_histogram)):
                self._pending[tag] = text

    @property
    def are_pending(self) -> bool:
        """Whether an event is yet to have a text."""
        return bool(self._pending)

    def take(self, tags: Iterable[str]) -> dict[str, str]:
        """Return the texts by tag that no event of these tags has yet, for the next event."""
        if not self._pending:
            return {}
        texts = {tag: self._pending.pop(tag) for tag in tags if tag in self._pending}
        self._taken |= texts
        return texts

    def end(self, *, is_written: bool) -> None:
        """Note whether the events with the texts that were taken are in the file."""
        if not is_written:
            self._pending |= self._taken
        self._taken = {}
