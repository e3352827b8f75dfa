"""`python -m train.demonstration [key=value ...]`: the effect of a model's auxiliary losses.

It trains the default experiment with its load-balance and router losses and without them, on three seeds
each, and shows metrics of held-out text as a table and as curves: bits per byte, the share of the
routers' choices that found their expert full, and the busiest expert. The same command goes on where it
stopped.

Exit status: 0 when all is shown, 1 when a run failed, 2 for a mistake in the command, 130 after Ctrl-C and
143 after SIGTERM.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sowlog
from train.config.errors import ConfigError
from train.runs.folder import RunFolderError
from train.show import lines, tables
from train.sweep import command as sweep_command
from train.sweep import run as sweep
from train.sweep import workers
from train.sweep.plan import Point, plan
from train.sweep.view import SweepLines

FILE = Path(__file__).parent.parent / "configs" / "moe_lm.yaml"
VARIANTS = {
    "with": (),
    "without": ("task.load_balance=0", "task.router_z=0"),
}


@dataclass(frozen=True)
class Quantity:
    """A quantity that is compared.

    Attributes:
        title: the heading.
        tags: the beginning of the tags that it is computed from.
        join: makes one number of those of several layers.
        show: makes text of a number.
    """

    title: str
    tags: str
    join: Callable[..., NDArray[np.float32]]
    show: Callable[[float], str]


QUANTITIES = (
    Quantity("bits per held-out byte", "eval/bits_per_byte", np.mean, "{:.3f}".format),
    Quantity("choices dropped", "eval/blocks/moe/dropped", np.mean, "{:.1%}".format),
    Quantity("busiest expert, of its fair share", "eval/blocks/moe/busiest", np.max, "{:.1f}".format),
)


@dataclass(frozen=True)
class Curve:
    """One quantity of one run: its values at the evaluations.

    Attributes:
        steps: int64, shape [evaluations].
        values: float32, shape [evaluations].
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float32]


Curves = dict[str, list[Curve]]
"""By variant, a curve of each seed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Train the runs that are not finished, show all, and return the exit status."""
    options = _parser().parse_args(argv)
    try:
        return _run(options)
    except (ConfigError, RunFolderError) as error:
        lines.error(str(error))
        return 2


def _run(options: argparse.Namespace) -> int:
    folder = Path(options.workdir)
    jobs = sweep_command.parse_jobs(options.jobs) or 1
    given = {name: [*options.overrides, *settings] for name, settings in VARIANTS.items()}
    points = {
        name: plan(FILE, overrides, [f"seed={options.seeds}"], folder / name)
        for name, overrides in given.items()
    }
    for name, own in points.items():
        lines.text(f"{name} the auxiliary losses, in {folder / name}")
        if status := _train(own, given[name], jobs=jobs):
            return status
    _show(points, folder / "demonstration.png")
    return 0


def _train(points: Sequence[Point], overrides: Sequence[str], *, jobs: int) -> int:
    def start(point: Point) -> sweep.Worker:
        return workers.Process(sweep_command.command(FILE, overrides, point), point.log)

    running = sweep.Sweep(points, start, SweepLines(), jobs=jobs)
    running.run()
    return 128 + running.signal if running.signal else int(bool(running.unfinished))


def _show(points: Mapping[str, Sequence[Point]], picture: Path) -> None:
    runs = {name: [sowlog.read(point.path) for point in own] for name, own in points.items()}
    curves = {
        quantity: {name: [curve(run, quantity) for run in own] for name, own in runs.items()}
        for quantity in QUANTITIES
    }
    rows = {name: [_last(quantity, curves[quantity][name]) for quantity in QUANTITIES] for name in points}
    tables.compared(["losses", *(quantity.title for quantity in QUANTITIES)], rows)
    draw(curves, picture)
    lines.text(str(picture))


def curve(run: sowlog.Run, quantity: Quantity) -> Curve:
    """Read a quantity, of all layers, at every evaluation of a run.

    Raises:
        KeyError: The run has no such tags.
    """
    found = [series for tag, series in run.scalars.items() if _belongs(tag, quantity.tags)]
    if not found:
        raise KeyError(f"{run.path} has no {quantity.tags}: was it trained by another version?")
    return Curve(found[0].steps, quantity.join(np.stack([series.values for series in found]), axis=0))


def _belongs(tag: str, beginning: str) -> bool:
    return tag == beginning or tag.startswith(f"{beginning}/")


def _last(quantity: Quantity, curves: Sequence[Curve]) -> str:
    return ", ".join(quantity.show(float(curve.values[-1])) for curve in curves)


def draw(curves: Mapping[Quantity, Curves], file: Path) -> None:
    """Draw a panel for each quantity, a line for each run, into a PNG."""
    # Imported here: only this draws, and without a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(1, len(curves))
    for axes, (quantity, own) in zip(panels, curves.items(), strict=True):
        _draw_panel(axes, quantity, own)
    panels[0].legend(frameon=False)
    figure.savefig(file, dpi=110)


def _draw_panel(axes: Any, quantity: Quantity, curves: Curves) -> None:
    for color, (name, own) in zip(("tab:blue", "tab:red"), curves.items(), strict=True):
        for seed, each in enumerate(own):
            label = f"{name} the auxiliary losses" if seed == 0 else None
            # The first evaluation is of the random model, off the scale of all others.
            axes.plot(each.steps[1:], each.values[1:], color=color, alpha=0.8, label=label)
    axes.set_title(quantity.title, fontsize=10)
    axes.set_xlabel("step")
    axes.yaxis.set_major_formatter(lambda value, _: quantity.show(value))
    axes.spines[["top", "right"]].set_visible(False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m train.demonstration", description="Shows the effect of a model's auxiliary losses."
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="a setting of all runs")
    parser.add_argument("--workdir", default="runs/demonstration", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--seeds", default="0..2", metavar="A..B", help="default: %(default)s")
    parser.add_argument("--jobs", metavar="N", help="how many runs at a time (default: 1)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
