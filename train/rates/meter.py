"""The meter of a run: its rates, waits, memory and compilations, every so many steps."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from train.config.errors import RunWarning, one_line
from train.config.experiment import RatesOptions
from train.rates.compilations import Compilations
from train.rates.peaks import peak_of
from train.system import memory

_GIB = 2**30

Rates = dict[str, dict[str, float]]
"""Values by folder and name, as the logger takes them."""


@dataclass(frozen=True)
class Work:
    """The work of a training step, of all devices together.

    Attributes:
        examples: examples of the batch.
        tokens: tokens that are predicted; 0 for a batch without any.
        count_flops: returns the model FLOPs; a trace of the forward pass, in which nothing is computed.
    """

    examples: int
    tokens: int
    count_flops: Callable[[], float]


class Stopwatch:
    """Add up the seconds for which it is entered.

    Attributes:
        seconds: the sum so far.
    """

    def __init__(self, clock: Callable[[], float]):
        self.seconds = 0.0
        self._clock = clock
        self._entered = 0.0

    def __enter__(self) -> None:
        self._entered = self._clock()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds += self._clock() - self._entered


class Meter:
    """Measure a run on the host's clock, without a wait for the device.

    The loop dispatches steps and runs ahead of the device, by a bounded number of steps. So the rate of
    dispatch over a window is the rate of the device, but for that number at the begin of a run. Evaluations
    and checkpoints within the window count in its time.

    Args:
        options: the section `rates`; None measures nothing.
        work: the work of a step.
        devices: JAX's devices of the whole run.
        local: those of this process, whose memory is read.
        compilations: the compilations so far.
        clock: the seconds of a clock that never goes back.

    Attributes:
        data: to be entered while the loop waits for a batch.
        logger: to be entered while the loop hands metrics to the logger.
    """

    def __init__(
        self,
        options: RatesOptions | None,
        work: Work,
        *,
        devices: Sequence[Any],
        local: Sequence[Any],
        compilations: Compilations,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.data, self.logger = Stopwatch(clock), Stopwatch(clock)
        self._every = None if options is None else options.every
        self._work, self._local, self._compilations, self._clock = work, local, compilations, clock
        self._peak = _peak(devices)
        self._flops: float | None = None
        self._begun: tuple[int, float] | None = None

    def prepare(self, step: int, steps: int) -> None:
        """Count the FLOPs, while the device computes the first step, if any rates follow.

        Args:
            step: the first step.
            steps: length of the run.
        """
        if self._every is None or (step // self._every + 1) * self._every >= steps:
            return
        try:
            self._flops = self._work.count_flops()
        except Exception as error:  # A number for a chart ends no run.
            warnings.warn(
                f"the FLOPs of the model are not counted: {type(error).__name__}: {one_line(error)}",
                RunWarning,
                stacklevel=2,
            )

    def begin(self, step: int) -> None:
        """Begin a window after the update made at a step."""
        self._begun = step, self._clock()
        self.data.seconds = self.logger.seconds = 0.0

    def measure(self, step: int) -> Rates:
        """Return the values of the window that ends with the update made at a step; empty if none does."""
        if self._begun is None or self._every is None or step % self._every:
            return {}
        begun, then = self._begun
        seconds = self._clock() - then
        rates = self._rates((step - begun) / seconds)
        rates["data_wait"] = self.data.seconds / seconds
        rates["logger_wait"] = self.logger.seconds / seconds
        self.begin(step)
        rates["compilations"] = float(self._compilations.count)
        rates["compile_seconds"] = self._compilations.seconds
        return {"rates": rates, "memory": _memory(self._local)}

    def _rates(self, steps_per_s: float) -> dict[str, float]:
        rates = {"steps_per_s": steps_per_s, "examples_per_s": self._work.examples * steps_per_s}
        if self._work.tokens:
            rates["tokens_per_s"] = self._work.tokens * steps_per_s
        if self._flops is not None:
            rates["model_flops_per_s"] = self._flops * steps_per_s
            if self._peak is not None:
                rates["share_of_peak"] = self._flops * steps_per_s / self._peak
        return rates


def _peak(devices: Sequence[Any]) -> float | None:
    """Return the peak of all devices together; None if one of them is unknown."""
    peaks = [peak_of(device.device_kind) for device in devices]
    known = [peak for peak in peaks if peak is not None]
    return sum(known) if len(known) == len(peaks) else None


def _memory(devices: Sequence[Any]) -> dict[str, float]:
    """Return the memory of the fullest device, where the backend reports it, and of this process, in GiB."""
    found: dict[str, float] = {}
    reports = [report for device in devices if (report := device.memory_stats())]
    for name, key in (("device_in_use", "bytes_in_use"), ("device_peak", "peak_bytes_in_use")):
        sizes = [report[key] for report in reports if key in report]
        if sizes:
            found[name] = max(sizes) / _GIB
    if (host := memory.resident()) is not None:
        found["host"] = host / _GIB
    return found
