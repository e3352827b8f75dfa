"""Event loops that end after all of their tasks, for libraries that leave some when one fails."""

import asyncio
import contextlib
from collections.abc import Generator


class _Draining(asyncio.SelectorEventLoop):
    def close(self) -> None:
        """Close the loop when its tasks have ended, whatever their results."""
        if not self.is_closed() and (tasks := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        super().close()


class _Policy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """Return a loop that ends after all of its tasks."""
        return _Draining()


@contextlib.contextmanager
def draining() -> Generator[None]:
    """Let loops that are made in this context, in any thread, end after all of their tasks.

    Orbax closes a loop at the first error of a write. TensorStore's threads then write on, into a folder that
    is given up, and come back to a loop that is closed, which Python prints as an ignored error.
    """
    # Deprecated, and the only public way: orbax takes no loop.
    before = asyncio.get_event_loop_policy()  # pyright: ignore[reportDeprecated]
    asyncio.set_event_loop_policy(_Policy())  # pyright: ignore[reportDeprecated]
    try:
        yield
    finally:
        asyncio.set_event_loop_policy(before)  # pyright: ignore[reportDeprecated]
