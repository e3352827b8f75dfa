"""A thread that runs all of a user's loader: some objects, such as SQLite's, work in one thread only."""

import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class OneThread:
    """A thread that runs calls one after the other, each when it is asked for.

    It is a daemon, as a call that never returns is to hold up no exit (those of a `ThreadPoolExecutor` are
    waited for). It ends once it is closed, or nothing refers to this object any more.
    """

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=_serve, args=(self._asked,), name="train data", daemon=True)
        self._thread.start()
        self._end = weakref.finalize(self, self._asked.put, None)

    def ask(self, call: Callable[[], T]) -> Future[T]:
        """Return the future of a call, which begins after all earlier ones.

        Raises:
            RuntimeError: The thread was closed.
        """
        if not self._end.alive:
            raise RuntimeError("the thread that draws this data has ended with its run: load the data again.")
        future = Future[T]()
        self._asked.put(lambda: _answer(future, call))
        return future

    def run(self, call: Callable[[], T]) -> T:
        """Return the result of a call in this thread, which may be that of the caller."""
        return call() if threading.current_thread() is self._thread else self.ask(call).result()

    def close(self) -> None:
        """End the thread after the calls that were asked for."""
        self._end()


def _serve(asked: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (call := asked.get()) is not None:
        call()
        del call  # It refers to the data, which is to be freed while this thread waits.


def _answer(future: Future[T], call: Callable[[], T]) -> None:
    try:
        value = call()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(value)
