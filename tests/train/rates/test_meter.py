"""Rates and health of a run."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from tests.support.tensorboard_reading import tensorboard_scalars
from tests.train.running import digits, moe, points, run
from train.config.errors import RunWarning
from train.config.experiment import RatesOptions
from train.rates.compilations import Compilations
from train.rates.meter import Meter, Work
from train.rates.peaks import peak_of
from train.system import memory

CPU = SimpleNamespace(device_kind="cpu", memory_stats=lambda: None)


def gpu(in_use: float, peak: float) -> Any:
    """Return a device with so many GiB."""
    stats = {"bytes_in_use": in_use * 2**30, "peak_bytes_in_use": peak * 2**30}
    return SimpleNamespace(device_kind="NVIDIA H200", memory_stats=lambda: stats)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def meter_of(clock: Clock, devices: list[Any], *, every: int = 10, tokens: int = 0) -> Meter:
    return Meter(
        RatesOptions(every=every),
        Work(4, tokens, lambda: 1e12),
        devices=devices,
        local=devices,
        compilations=Compilations(),
        clock=clock,
    )


def test_a_window_has_its_rates_and_shares_of_time() -> None:
    """The first begins after the first step, and each later one where the last one ended."""
    clock = Clock()
    meter = meter_of(clock, [gpu(1, 2), gpu(3, 4)], tokens=64)
    meter.prepare(0, 100)
    clock.now = 100.0
    meter.begin(0)
    for _ in range(10):
        with meter.data:
            clock.now += 0.3
        with meter.logger:
            clock.now += 0.1
        clock.now += 0.1
    assert meter.measure(9) == {}
    found = meter.measure(10)
    assert found["rates"] == pytest.approx(
        {
            "steps_per_s": 2,
            "examples_per_s": 8,
            "tokens_per_s": 128,
            "model_flops_per_s": 2e12,
            "share_of_peak": 2e12 / (2 * 989.4e12),
            "data_wait": 0.6,
            "logger_wait": 0.2,
            "compilations": 0,
            "compile_seconds": 0,
        }
    )
    assert found["memory"] == {"device_in_use": 3, "device_peak": 4, "host": found["memory"]["host"]}
    clock.now += 20
    again = meter.measure(20)["rates"]
    assert (again["steps_per_s"], again["data_wait"]) == (0.5, 0)


def test_what_is_unknown_is_absent() -> None:
    """The peak of one of the devices, the memory of a CPU, tokens, FLOPs that are not counted."""
    clock = Clock()
    meter = meter_of(clock, [gpu(1, 2), CPU])
    meter.prepare(95, 100)  # No point follows.
    meter.begin(0)
    clock.now = 5.0
    always = {"steps_per_s", "examples_per_s", "data_wait", "logger_wait", "compilations", "compile_seconds"}
    assert set(meter.measure(10)["rates"]) == always
    alone = meter_of(clock, [CPU])
    alone.prepare(0, 100)
    alone.begin(0)
    clock.now = 10.0
    found = alone.measure(10)
    assert {"model_flops_per_s"} == {name for name in found["rates"] if "flops" in name or "peak" in name}
    assert set(found["memory"]) <= {"host"}


def test_flops_that_cannot_be_counted_are_a_warning() -> None:
    """A chart ends no run."""

    def fail() -> float:
        raise KeyError("no such parameter")

    work = Work(4, 0, fail)
    meter = Meter(RatesOptions(), work, devices=[CPU], local=[CPU], compilations=Compilations())
    with pytest.warns(RunWarning, match="the FLOPs of the model are not counted: KeyError: 'no such"):
        meter.prepare(0, 100)


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("cpu", None),
        ("NVIDIA A10", None),
    ],
)
def test_the_longest_beginning_of_a_kind_has_its_peak(kind: str, peak: float | None) -> None:
    """A beginning ends at a word."""
    assert peak_of(kind) == peak


def test_compilations_are_counted_while_the_counter_is_entered() -> None:
    """Its listener is taken off again."""
    with Compilations() as compilations:
        jax.jit(lambda x: jnp.sin(x) * 3.5)(jnp.ones(17))
        count = compilations.count
        assert count > 0
        assert compilations.seconds > 0
    jax.jit(lambda x: jnp.cos(x) * 3.5)(jnp.ones(18))
    assert compilations.count == count


def test_the_resident_memory_is_that_of_the_process() -> None:
    """It grows by an array that is filled."""
    before = memory.resident()
    assert before is not None
    kept = bytearray(b"x" * 2**26)
    after = memory.resident()
    assert after is not None
    assert after - before > 2**25
    assert len(kept) == 2**26


def test_a_run_logs_its_rates_at_their_cadence(tmp_path: Path) -> None:
    """Finite and positive, and absent where the backend does not report them; the other points stay."""
    run(moe("rates.every=2"), tmp_path / "with")
    run(moe("rates=null"), tmp_path / "without")
    series = tensorboard_scalars(tmp_path / "with")
    measured = {tag for tag in series if tag.startswith(("rates/", "memory/"))}
    assert measured == {
        *(f"rates/{name}" for name in ("steps_per_s", "examples_per_s", "tokens_per_s")),
        *("rates/model_flops_per_s", "rates/data_wait", "rates/logger_wait"),
        *("memory/host", "rates/compilations", "rates/compile_seconds"),
    }
    for tag in measured:
        assert series[tag].steps == [2, 4, 6], tag
        assert all(math.isfinite(value) for value in series[tag].values), tag
        if "compil" not in tag:  # Another test may have compiled the programs.
            assert all(value > 0 for value in series[tag].values), tag
    steps, tokens = (series[f"rates/{name}"].values[0] for name in ("steps_per_s", "tokens_per_s"))
    assert tokens == pytest.approx(4 * 16 * steps)
    assert points(tmp_path / "with") == points(tmp_path / "without")
    assert not {tag for tag in tensorboard_scalars(tmp_path / "without") if tag.startswith("rates/")}


def test_images_have_no_tokens(tmp_path: Path) -> None:
    """Of a batch without the array `tokens`."""
    run(digits("rates.every=3"), tmp_path)
    assert "rates/tokens_per_s" not in tensorboard_scalars(tmp_path)
