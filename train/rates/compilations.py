"""Compilations of this process, by JAX's monitoring."""

from types import TracebackType
from typing import Any, Self

import jax.monitoring

_COMPILED = "/jax/core/compile/backend_compile_duration"


class Compilations:
    """Count compilations, those read from the cache on disk included, while it is entered.

    Attributes:
        count: programs so far.
        seconds: their time, without that of tracing.
    """

    def __init__(self) -> None:
        self.count, self.seconds = 0, 0.0

    def __enter__(self) -> Self:
        jax.monitoring.register_event_duration_secs_listener(self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        jax.monitoring.unregister_event_duration_listener(self._note)

    def _note(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == _COMPILED:
            self.count += 1
            self.seconds += duration_secs
