"""The kind of each tag of a logger: metric, image, text or PR curve."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal

from sowlog._tree.identity import ByIdentity
from sowlog._tree.layout import Layout, Packed

Kind = Literal["a metric", "an image", "text", "a PR curve"]

_METRIC: Kind = "a metric"


class TagKinds:
    """Finds a tag of two kinds, of which TensorBoard shows the first alone.

    Scalars and histograms are both metrics, since a reducer decides between them.
    """

    def __init__(self) -> None:
        self._metrics: set[str] = set()
        self._others: dict[str, Kind] = {}
        self._layouts = ByIdentity[Layout, None]()

    def note_metrics(self, packed: Packed | None, numbers: Collection[str]) -> None:
        """Note the tags of one `log` call, at the cost of a look-up if they are known.

        Raises:
            ValueError: A tag is that of an image, a text or a PR curve.
        """
        if packed is not None and packed.layout not in self._layouts:
            self._note_layout(packed.layout)
        if numbers and not self._metrics.issuperset(numbers):
            self._add_metrics(numbers)

    def _note_layout(self, layout: Layout) -> None:
        self._add_metrics((*layout.scalars, *(slot.tag for slot in layout.histograms)))
        self._layouts[layout] = None

    def _add_metrics(self, tags: Collection[str]) -> None:
        for tag in self._others.keys() & set(tags):
            raise _two_kinds(tag, _METRIC, self._others[tag])
        self._metrics.update(tags)

    def note(self, kind: Kind, tags: Iterable[str]) -> None:
        """Note the tags of images, or that of a text or a PR curve.

        Raises:
            ValueError: A tag is that of a value of another kind.
        """
        for tag in tags:
            known = _METRIC if tag in self._metrics else self._others.setdefault(tag, kind)
            if known != kind:
                raise _two_kinds(tag, kind, known)


def _two_kinds(tag: str, kind: Kind, known: Kind) -> ValueError:
    return ValueError(
        f"{tag} is logged as {kind} and was {known} before, and TensorBoard shows the first kind of a tag "
        f"alone: use another tag for one of them."
    )
