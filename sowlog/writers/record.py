"""The record of one `log` call, the only input of a writer."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from sowlog._reduce.distributions import HistogramValue

Ending = Literal["success", "failure"]

Charts = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Charts by category and title: regular expressions of the tags in each."""

# Scalars that the repr of a record shows.
_SHOWN = 4


@dataclass(frozen=True, slots=True)
class HParams:
    """The hyperparameters of a run, and the metrics it is compared by.

    Attributes:
        values: a number, text or bool by dotted name, read-only.
        metrics: tags of scalars of the same run; an empty tuple means all of them.

    Example:
        >>> import sowlog, sowlog.testing
        >>> memory = sowlog.testing.MemoryWriter()
        >>> with sowlog.Logger("unused", writers=[memory]) as log:
        ...     log.hparams({"optimizer": {"learning_rate": 0.1}}, metrics=["eval/loss"])
        >>> memory.records[0].hparams
        HParams(values={'optimizer.learning_rate': 0.1}, metrics=('eval/loss',))
    """

    values: Mapping[str, bool | float | str]
    metrics: tuple[str, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return HParams, _fields_of(self)

    def __repr__(self) -> str:
        return f"HParams(values={dict(self.values)!r}, metrics={self.metrics!r})"


_NOTHING: Mapping[str, Any] = MappingProxyType({})


def _nothing() -> Mapping[str, Any]:
    return _NOTHING


def _fields_of(value: Any) -> tuple[Any, ...]:
    """Return the fields of a dataclass for pickle and deepcopy, which know no read-only mapping."""
    return tuple(_plain(getattr(value, each.name)) for each in fields(value))


def _plain(value: Any) -> Any:
    if isinstance(value, MappingProxyType):
        return {key: _plain(part) for key, part in cast(Mapping[Any, Any], value).items()}
    return value


def _no_values() -> NDArray[np.float32]:
    values = np.empty(0, np.float32)
    values.flags.writeable = False
    return values


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """The contents of one `log` call, complete and immutable: for most calls, the results of a step.

    Attributes:
        step: the step passed to `log`, within int64; 0 for values of the run and of no step: hyperparameters,
            ending and layout.
        wall_time: seconds since the epoch at the `log` call.
        tags: the tags that have a value at this step. Steps of one layout without absent values share one
            tuple object, so a writer may cache by identity; a step with absent values has its own tuple. The
            tag of a sown value is of a subclass of str.
        values: float32 of shape `[len(tags)]`, read-only.
        histograms: the histograms of the step by tag, as NumPy arrays.
        images: uint8 arrays of shape [H, W, 1, 3 or 4] by tag, read-only.
        hparams: the hyperparameters, in one record of the run.
        ending: the ending of a run with hyperparameters, in its last record.
        texts: Markdown by tag.
        layout: the charts of the run, which replace those of an earlier record.
        pr_curves: precision-recall curves by tag, read-only float32 of shape [6, thresholds]: true positives,
            false positives, true negatives, false negatives, precision and recall at thresholds from 0 to 1.
        is_of_logger: whether the logger made the record, and no call: the text of an alert or of a NaN, or
            the heat maps of families. `Every` forwards it at any step.
        unfolded: the record with the scalars of each layer, if families are folded; else None.

    Example:
        >>> import numpy as np
        >>> from sowlog.writers import Record
        >>> record = Record(3, 1.5, tags=("loss", "lr"), values=np.array([0.5, 0.125], np.float32))
        >>> record
        <Record at step 3: loss=0.5, lr=0.125>
        >>> dict(zip(record.tags, record.values.tolist()))
        {'loss': 0.5, 'lr': 0.125}
    """

    step: int
    wall_time: float
    tags: tuple[str, ...] = ()
    values: NDArray[np.float32] = field(default_factory=_no_values)
    histograms: Mapping[str, HistogramValue] = field(default_factory=_nothing)
    images: Mapping[str, NDArray[np.uint8]] = field(default_factory=_nothing)
    hparams: HParams | None = None
    ending: Ending | None = None
    texts: Mapping[str, str] = field(default_factory=_nothing)
    layout: Charts | None = None
    pr_curves: Mapping[str, NDArray[np.float32]] = field(default_factory=_nothing)
    is_of_logger: bool = False
    unfolded: "Record | None" = None

    @property
    def is_of_run(self) -> bool:
        """Whether the record holds values of the run and of no step, which a bounded queue keeps."""
        return self.hparams is not None or self.layout is not None

    def __reduce__(self) -> tuple[Any, ...]:
        return Record, _fields_of(self)

    def __repr__(self) -> str:
        scalars = zip(self.tags[:_SHOWN], self.values[:_SHOWN].tolist(), strict=True)
        parts = [f"{tag}={value:.6g}" for tag, value in scalars]
        hidden = len(self.tags) - len(parts)
        parts += [f"{hidden} more"] * (hidden > 0)
        parts += [f"histogram {tag}" for tag in self.histograms]
        parts += [f"image {tag} {list(image.shape)}" for tag, image in self.images.items()]
        parts += [f"text {tag}" for tag in self.texts]
        parts += [f"PR curve {tag}" for tag in self.pr_curves]
        parts += [] if self.layout is None else [f"layout {list(self.layout)}"]
        parts += [] if self.hparams is None else [repr(self.hparams)]
        parts += [] if self.ending is None else [f"ending={self.ending!r}"]
        return f"<Record at step {self.step}: {', '.join(parts) or 'empty'}>"
