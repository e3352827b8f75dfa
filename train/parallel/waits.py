"""Leaving a wait for data together: all processes of a run, if each of them waits for the same batch."""

import signal
from typing import Any, Protocol

import jax
from jax._src import distributed

from train.system.signals import SignalFlag

_GO_ON, _LEAVE = "go on", "leave"


class Store(Protocol):
    """Texts by key, seen by all processes, each written once, as in the store of JAX's coordinator."""

    def key_value_set(self, key: str, value: str) -> None:
        """Write a text; RuntimeError if the key has one."""
        ...

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        """Return the keys in a folder, and their texts."""
        ...


class Waits:
    """Agree to leave a wait for the batch of a step.

    A process whose batch came has begun the step, which it cannot take back: the others then have to make it,
    and wait for their batch. So each process that waits notes it once one is signalled, and they leave once
    all have noted it. If the batch of one comes meanwhile, the first text under one key decides.

    Args:
        stop: the signal of this process.
        store: the texts that the processes share.
        number: the number of this process.
        count: the number of processes.
    """

    def __init__(self, stop: SignalFlag, store: Store, *, number: int, count: int):
        self._stop, self._store, self._number, self._count = stop, store, number, count
        self._step: int | None = None
        self._is_noted = False

    def begin(self, step: int) -> None:
        """Wait from now on for the batch of a step. Before the first, no wait is left."""
        self._step, self._is_noted = step, False

    def leave(self) -> signal.Signals | None:
        """Return the signal by which all processes leave this wait; None to go on waiting."""
        if self._step is None:
            return None
        noted = self._read("signals")
        if not self._is_noted and (self._stop.signal is not None or noted):
            self._write("signals", str(self._number), str(int(self._stop.signal or 0)))
            self._is_noted, noted = True, self._read("signals")
        return self._decide(_LEAVE) if self._is_noted and len(noted) == self._count else None

    def arrive(self) -> signal.Signals | None:
        """Return the signal by which all processes have left this wait, although the batch has come."""
        return self._decide(_GO_ON) if self._is_noted else None

    def _decide(self, wish: str) -> signal.Signals | None:
        try:
            self._write("ends", "first", wish)
        except RuntimeError:
            if not self._read("ends"):  # It failed for another reason than that a process was first.
                raise
        if self._read("ends") != [_LEAVE]:
            return None
        return signal.Signals(max(map(int, self._read("signals"))))

    def _write(self, folder: str, name: str, text: str) -> None:
        self._store.key_value_set(f"train/waits/{self._step}/{folder}/{name}", text)

    def _read(self, folder: str) -> list[str]:
        return [text for _, text in self._store.key_value_dir_get(f"train/waits/{self._step}/{folder}/")]


def waits_of(stop: SignalFlag) -> Waits:
    """Return the waits of this process, in the run that it has joined."""
    # It has no public name; a public collective would need the device, which may be in another one.
    store: Any = distributed.global_state.client
    return Waits(stop, store, number=jax.process_index(), count=jax.process_count())
