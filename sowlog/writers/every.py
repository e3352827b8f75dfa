"""A cadence for any writer."""

from __future__ import annotations

from sowlog.writers._arguments import check_count, check_writer
from sowlog.writers.protocol import WarningWriter, Writer
from sowlog.writers.record import Record


class Every:
    """A writer that forwards the records of each n-th step to another writer.

    Records that the logger makes itself are forwarded at any step, as they are few and not repeated: alerts,
    the origins of NaN, and the heat maps of folded families.

    Args:
        steps: the cadence; a record is forwarded if its step is a multiple of it.
        writer: the other writer.

    Raises:
        TypeError: `steps` is not an integer, or `writer` is not a writer.
        ValueError: `steps` is less than 1.

    Example:
        >>> import sowlog, sowlog.testing
        >>> from sowlog.writers import Every
        >>> all_steps, some = sowlog.testing.MemoryWriter(), sowlog.testing.MemoryWriter()
        >>> with sowlog.Logger("unused", writers=[all_steps, Every(10, some)]) as log:
        ...     for step in range(25):
        ...         log(step, {"loss": 1.0})
        >>> len(all_steps.records), [record.step for record in some.records]
        (25, [0, 10, 20])
    """

    def __init__(self, steps: int, writer: Writer) -> None:
        check_writer(writer)
        self._steps = check_count(steps, "steps", "the cadence of Every must be 1 step or more")
        self._writer = writer
        self._warner = writer if isinstance(writer, WarningWriter) else None

    def write(self, record: Record) -> None:
        """Forward the record if its step is a multiple of the cadence, or the logger made it."""
        if record.is_of_logger or record.step % self._steps == 0:
            self._writer.write(record)

    def take_warning(self) -> Warning | None:
        """Return the warning of the other writer."""
        return None if self._warner is None else self._warner.take_warning()

    def flush(self) -> None:
        """Flush the other writer."""
        self._writer.flush()

    def close(self) -> None:
        """Close the other writer."""
        self._writer.close()
