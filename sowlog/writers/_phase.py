"""The phase of a record, for services that show the last values of a run."""

from collections.abc import Sequence
from typing import Literal

_HELD_OUT = "eval/"


def phase_of(tags: Sequence[str]) -> Literal["eval", "train"]:
    """Return "eval" if all tags of a record are of held-out data, else "train"."""
    return "eval" if all(tag.startswith(_HELD_OUT) for tag in tags) else "train"
