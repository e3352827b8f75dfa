"""Pictures of curves and heat maps, drawn by Matplotlib, an optional dependency."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sowlog._events.whole_file import write_whole
from sowlog._extras import import_extra

Values = NDArray[np.float64]
_COLUMNS = 3
# Width and height of a panel, in inches.
_PANEL = 4.6, 2.9
# Characters of a line of a title.
_TITLE = 56


class Band(NamedTuple):
    """The edges of a band around a line."""

    low: Values
    high: Values


class Line(NamedTuple):
    """A curve.

    Attributes:
        label: its name.
        steps: int64, shape [n].
        values: float64, shape [n].
        raw: the values before they were smoothed, if they are.
        band: the band around it, if it is a mean.
    """

    label: str
    steps: NDArray[np.int64]
    values: Values
    raw: Values | None
    band: Band | None


class HeatMap(NamedTuple):
    """The values of a family.

    Attributes:
        steps: int64, shape [steps].
        rows: float64, shape [members, steps], NaN where there is none.
        limits: the values of the first and the last colour; None for the least and the largest.
    """

    steps: NDArray[np.int64]
    rows: Values
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class Panel:
    """A part of a picture: lines, or a heat map of a family.

    Attributes:
        title: its title.
        lines: the lines.
        heat_map: the heat map.
        family: the family of a heat map; all maps of one family have one scale.
    """

    title: str
    lines: list[Line] = field(default_factory=list[Line])
    heat_map: HeatMap | None = None
    family: str = ""

    @property
    def kind(self) -> str:
        """The kind of the panel: "lines" or "heat map"."""
        return "lines" if self.heat_map is None else "heat map"


def write_figure(panels: Sequence[Panel], path: Path) -> None:
    """Write panels as a picture, whose format is that of the suffix; it has its name once it is complete.

    Raises:
        ModuleNotFoundError: Matplotlib is not installed.
        OSError: The file cannot be written.
    """
    columns = min(len(panels), _COLUMNS)
    rows = -(-len(panels) // columns)
    figure = _matplotlib("figure").Figure(
        figsize=(_PANEL[0] * columns, _PANEL[1] * rows), layout="constrained"
    )
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, panel in zip(places, panels, strict=False):
        # A dollar sign would begin a formula.
        title = "\n".join(textwrap.wrap(panel.title, _TITLE)[:2])
        axes.set_title(title.replace("$", r"\$"), fontsize=9)
        if panel.heat_map is None:
            _draw_lines(axes, panel.lines)
        else:
            _draw_heat_map(figure, axes, panel.heat_map)
    # The panels above have the steps of those below.
    for axes in places[max(0, len(panels) - columns) : len(panels)]:
        axes.set_xlabel("step", fontsize=8)
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    kind = path.suffix[1:].lower()
    write_whole(path, lambda file: figure.savefig(file, format=kind, dpi=110), is_shared=True)


def _draw_lines(axes: Any, lines: Sequence[Line]) -> None:
    for line in lines:
        label = line.label.replace("$", r"\$")
        # A name that begins with an underscore would have no entry in the legend.
        (drawn,) = axes.plot(line.steps, line.values, linewidth=1.2, label=label.lstrip("_") or "run")
        if len(line.steps) == 1:
            drawn.set_marker("o")
        if line.raw is not None:
            axes.plot(line.steps, line.raw, linewidth=0.8, alpha=0.3, color=drawn.get_color())
        if line.band is not None:
            axes.fill_between(line.steps, *line.band, alpha=0.25, color=drawn.get_color(), linewidth=0)
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        axes.legend(frameon=False, fontsize=7)


def _draw_heat_map(figure: Any, axes: Any, heat_map: HeatMap) -> None:
    values = np.ma.masked_invalid(heat_map.rows)
    steps = heat_map.steps.astype(np.float64)
    low, high = heat_map.limits or (None, None)
    drawn = axes.pcolormesh(
        steps,
        np.arange(len(heat_map.rows)),
        values,
        shading="nearest",
        cmap="viridis",
        vmin=low,
        vmax=high,
    )
    figure.colorbar(drawn, ax=axes)


def _matplotlib(name: str) -> Any:
    """Import a module of Matplotlib where it is first used, which takes a second."""
    need, otherwise = "sowlog plot -o draws with Matplotlib", "without -o it draws in the terminal"
    return import_extra(f"matplotlib.{name}", need, extra="figures", otherwise=otherwise)
