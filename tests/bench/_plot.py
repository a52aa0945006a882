"""The plot of a run: one panel for each main figure, one bar for each contestant."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ._contestants import CONTESTANTS, NATIVE, OURS, PEER, RAW, Contestant
from ._report import cell
from ._results import Figure, Results

_COLUMNS = 2
_WIDTH, _BAR, _GAP = 11, 0.33, 0.75  # inches: of the plot, of a bar with its margin, between rows of panels
_PANELS = (
    ("round trip, one core", "time"),
    ("opening a connection, one core", "time"),
    ("in flight, many tasks", "rate"),
    ("in flight, one task", "rate"),
    ("reply 0.8 MB, one core", "time"),
    ("reply 80 MB, one core", "time"),
    ("100 connections", "rate"),
    ("quiet client beside a flood", "p99"),
)
_COLOURS = {PEER: "#b04a3a", NATIVE: "#8a8a8a", RAW: "#b8b8b8"}
_OUR_COLOUR = "#2f6f9f"
_LOG_FROM = 50  # a linear scale would hide a bar that is so many times shorter than the longest
_LOG_SPACE, _SPACE = 12, 1.4  # room for the text at the end of the longest bar, as a factor of its length


def panels(results: Results, figures: Sequence[Figure]) -> list[Figure]:
    """Return the figures that a plot of these results shows."""
    by_key = {(figure.workload, figure.metric): figure for figure in figures}
    return [by_key[panel] for panel in _PANELS if results.has(panel[0])]


def plot(results: Results, shown: Sequence[Figure], path: Path) -> None:
    """Draw a plot of at least one figure as an SVG file. Raises `ValueError` if a text does not fit into the plot."""
    # Imported by name, because only the dependency group `bench` contains matplotlib.
    matplotlib = import_module("matplotlib")
    rows = [shown[at : at + _COLUMNS] for at in range(0, len(shown), _COLUMNS)]
    bars = [max(len(_contestants(results, figure)) for figure in row) for row in rows]
    size = (_WIDTH, sum(bars) * _BAR + len(rows) * _GAP)
    picture = import_module("matplotlib.figure").Figure(figsize=size, layout="constrained")
    picture.get_layout_engine().set(w_pad=0.15, h_pad=0.1)
    grid = picture.add_gridspec(len(rows), _COLUMNS, height_ratios=bars)
    for place, row in enumerate(rows):
        for column, figure in enumerate(row):
            _panel(picture.add_subplot(grid[place, column]), results, figure, bars[place])
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": OURS.name}):
        picture.savefig(path, format="svg", metadata={"Date": None})
    clipped = [text.get_text() for text in _clipped(picture)]
    if clipped:
        raise ValueError(f"texts that do not fit into the plot: {clipped}; shorten them or enlarge the plot")


def _contestants(results: Results, figure: Figure) -> list[Contestant]:
    return [who for who in CONTESTANTS if results.shows(figure, who)]


def _panel(axes: Any, results: Results, figure: Figure, room: int) -> None:
    """Draw a panel that has room for a number of bars."""
    contestants = _contestants(results, figure)
    values = [results.median(figure, who) for who in contestants]
    known = [value for value in values if value is not None]
    highest, lowest = max(known, default=1), min(known, default=1)
    logarithmic = highest > _LOG_FROM * lowest
    left, right = (lowest / 3, highest * _LOG_SPACE) if logarithmic else (0, highest * _SPACE)
    bars = axes.barh(
        [who.name for who in contestants],
        [value or left for value in values],
        height=0.8,
        color=[_COLOURS.get(who, _OUR_COLOUR) for who in contestants],
    )
    if logarithmic:
        axes.set_xscale("log")
    axes.set_xlim(left, right)
    axes.bar_label(bars, [cell(results, figure, who) for who in contestants], padding=3)
    axes.set_ylim(room - 0.5, -0.5)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_bounds(-0.5, len(contestants) - 0.5)
    axes.set_xticks([])
    axes.set_xticks([], minor=True)
    note = "more is better" if figure.more_is_better else "less is better"
    axes.set_title(f"{figure.label}\n({note}{', log scale' if logarithmic else ''})", loc="left", fontsize=10)


def _clipped(picture: Any) -> list[Any]:
    """Return the texts that extend beyond the plot or into the next column."""
    renderer = import_module("matplotlib.backends.backend_agg").FigureCanvasAgg(picture).get_renderer()
    clipped = []
    for axes in picture.axes:
        right = picture.bbox.width * axes.get_subplotspec().colspan.stop / _COLUMNS
        for text in axes.findobj(import_module("matplotlib.text").Text):
            box = text.get_window_extent(renderer)
            if text.get_text() and not (
                box.x0 >= 0 and box.x1 <= right and box.y0 >= 0 and box.y1 <= picture.bbox.height
            ):
                clipped.append(text)
    return clipped
