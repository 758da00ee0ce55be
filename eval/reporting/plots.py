"""Plots of a report: panels with lines and error bars, side by side in one PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Line:
    """One line of a plot.

    Attributes:
        label: the name in the legend.
        x: the places of the points.
        y: the heights of the points.
        low: the lower ends of error bars, if the line has error bars.
        high: the upper ends of error bars.
        color: the colour; None takes the next colour of the palette.
        marker: the marker of the points.
        style: the style of the line between the points.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    _: KW_ONLY
    color: str | None = None
    marker: str = "o"
    style: str = "-"


@dataclass(frozen=True)
class Panel:
    """One plot. The y axis starts at 0 unless it is logarithmic.

    Args:
        ticks: marks of the x axis; with them the x values are places among the marks.
        top: upper end of the y axis.
    """

    x_label: str
    y_label: str
    lines: Sequence[Line]
    ticks: Sequence[str] | None = None
    log_x: bool = False
    log_y: bool = False
    top: float | None = None


def cell_lines(
    cells: Sequence[Mapping[str, Any]],
    group: str,
    labels: Mapping[str, str],
    x: str,
    y: str,
    unit: float = 1.0,
    least: float = 0.0,
) -> list[Line]:
    """A line for each group of a report's cells; a group without cells has no line.

    Args:
        cells: entries of a report.
        group: the key that names the group of a cell.
        labels: groups in the order of the legend, with their labels.
        x: the key of the place on the x axis.
        y: the key of the height.
        unit: heights are divided by it.
        least: the lowest height that is drawn.
    """
    lines = []
    for name, label in labels.items():
        mine = sorted((cell for cell in cells if cell[group] == name), key=lambda cell: cell[x])
        if mine:
            heights = [max(cell[y] / unit, least) for cell in mine]
            lines.append(Line(label, [cell[x] for cell in mine], heights))
    return lines


def colors(count: int) -> list[tuple[float, ...]]:
    """Colours for `count` lines; up to twenty lines have different colours."""
    from matplotlib import colormaps

    found: Any = colormaps["tab10" if count <= 10 else "tab20"]
    return [found.colors[place % len(found.colors)] for place in range(count)]


def draw(path: Path, title: str, panels: Sequence[Panel]) -> None:
    """Draws panels side by side into a PNG."""
    # pyplot would open a window and keep state
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(panels) + 1.5, 4.2), layout="constrained")
    figure.suptitle(title, fontsize=11)
    labels = {tuple(line.label for line in panel.lines) for panel in panels}
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.set_prop_cycle(color=colors(len(panel.lines)))
        for line in panel.lines:
            bars = None
            if line.low is not None and line.high is not None:
                # rounding can put the end of a bar on the wrong side of its value
                bars = [
                    [max(0.0, y - low) for y, low in zip(line.y, line.low, strict=True)],
                    [max(0.0, high - y) for y, high in zip(line.y, line.high, strict=True)],
                ]
            axes.errorbar(
                line.x,
                line.y,
                yerr=bars,
                marker=line.marker,
                markersize=4,
                capsize=3,
                label=line.label,
                color=line.color,
                linestyle=line.style,
            )
        if panel.ticks is not None:
            axes.set_xticks(range(len(panel.ticks)), panel.ticks)
        elif panel.log_x:
            axes.set_xscale("log", base=2)
            places = sorted({x for line in panel.lines for x in line.x})
            axes.set_xticks(places, [f"{x:,.0f}" for x in places], rotation=30)
            axes.minorticks_off()
        if panel.log_y:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0, top=panel.top)
        axes.set_xlabel(panel.x_label)
        axes.set_ylabel(panel.y_label)
        axes.grid(alpha=0.3)
        if len(labels) > 1:
            axes.legend(fontsize=8)
    if len(labels) == 1:  # one legend for all panels, beside them
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
