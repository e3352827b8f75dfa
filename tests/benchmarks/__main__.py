"""`python -m tests.benchmarks [NAME ...]` measures and prints tables of ratios."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks import (
    collecting,
    compile_time,
    disk_bytes,
    distributions,
    log_latency,
    memory,
    program,
    reading,
    sinks,
    sowing,
    step_time,
    steps,
    writer_cost,
)
from tests.benchmarks.measure import FULL, SMOKE, Line, Size
from tests.benchmarks.report import describe_machine, table


class Benchmark(NamedTuple):
    """A table to measure.

    Attributes:
        title: the title of the table.
        measure: the function that measures its lines.
        place: the function that binds the process to its cores first, if any.
    """

    title: str
    measure: Callable[[Size], list[Line]]
    place: Callable[[], None] | None = None


BENCHMARKS = {
    "step_device": Benchmark(
        "Step time, device busy and host free", step_time.measure_device_busy, steps.separate_device
    ),
    "step_host": Benchmark(
        "Step time, computed on the core that Python runs on",
        step_time.measure_host_bound,
        steps.share_one_core,
    ),
    "nonfinite": Benchmark(
        "Where a NaN began, looked for in each record", step_time.measure_nonfinite, steps.share_one_core
    ),
    "log_latency": Benchmark(
        "Training thread, per `log` call", log_latency.measure_log_latency, steps.separate_device
    ),
    "writer_cost": Benchmark("All CPU of writing, per scalar", writer_cost.measure_writer_cost),
    "sinks": Benchmark("All CPU of a writer, per record, beside the sink's own client", sinks.measure_sinks),
    "disk_bytes": Benchmark("Disk, per scalar", disk_bytes.measure_disk_bytes),
    "compile_time": Benchmark("Compile time added by metrics", compile_time.measure_compile_time),
    "collecting": Benchmark(
        "Collecting in a real model", collecting.measure_collecting, collecting.two_devices
    ),
    "sowing": Benchmark("Sows in a deep model, and sows that are not collected", sowing.measure_sowing),
    "program": Benchmark("The program's loop", program.measure_program),
    "distributions": Benchmark(
        "Distributions, on the device", distributions.measure_distributions, steps.share_one_core
    ),
    "memory": Benchmark("Memory", memory.measure_memory),
    "reading": Benchmark("Reading back", reading.measure_reading),
}


def main(argv: list[str]) -> int:
    """Measure the named benchmarks (all by default) and print each table at once."""
    options = _parse(argv)
    # A compilation found in a cache would not be measured.
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    size = SMOKE if options.smoke else FULL
    machine = describe_machine()
    print(machine, flush=True)
    results: dict[str, list[Line]] = {}
    for name in options.names or BENCHMARKS:
        results[name] = measure_apart(BENCHMARKS[name], size)
        print(f"\n{BENCHMARKS[name].title} ({name})\n\n{table(results[name])}", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": machine, "results": _as_json(results)}, indent=1))
    return 0


def measure_apart(benchmark: Benchmark, size: Size) -> list[Line]:
    """Measure in a child process, so that no benchmark meets another's threads, caches or memory."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context, initializer=benchmark.place) as pool:
        return pool.submit(benchmark.measure, size).result()


def _as_json(results: dict[str, list[Line]]) -> dict[str, list[dict[str, object]]]:
    return {
        name: [
            {
                **line.__dict__,
                "measured": line.measured and line.measured._asdict(),
                "ratio": line.ratio and line.ratio._asdict(),
                "met": line.met,
                "sure": line.sure,
            }
            for line in lines
        ]
        for name, lines in results.items()
    }


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}")
    parser.add_argument("--smoke", action="store_true", help="the smallest size, which measures nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args(argv)
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"no benchmark is named {', '.join(unknown)}: choose from {', '.join(BENCHMARKS)}")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
