"""The report's picture: a panel for each of the figures that matter most, a bar for each contestant."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ._contestants import CONTESTANTS, NATIVE, OURS, PEER, RAW
from ._report import cell
from ._results import Figure, Results

_COLUMNS = 2
_PANELS = (
    ("round trip, free", "time"),
    ("in flight", "rate"),
    ("reply 0.8 MB", "time"),
    ("reply 8 MB", "time"),
    ("100 connections", "rate"),
    ("quiet beside a flood", "p99"),
)
_COLOURS = {PEER: "#b04a3a", NATIVE: "#8a8a8a", RAW: "#b8b8b8"}
_OUR_COLOUR = "#2f6f9f"
_BAR = 0.13  # of a panel with one bar, which makes them equally thick in all
_LOG_FROM = 50  # times the smallest value: on a linear scale that would be no bar at all


def plot(results: Results, figures: Sequence[Figure], path: Path) -> None:
    """Draw it, as an SVG file."""
    # By name: this is the one thing that needs matplotlib, which only those have who draw.
    matplotlib = import_module("matplotlib")
    picture = import_module("matplotlib.figure").Figure(figsize=(10, 8), layout="constrained")
    by_key = {(figure.workload, figure.metric): figure for figure in figures}
    shown = [by_key[panel] for panel in _PANELS if results.has(panel[0])]
    for place, figure in enumerate(shown, start=1):
        _panel(picture.add_subplot((len(shown) + 1) // _COLUMNS, _COLUMNS, place), results, figure)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": OURS.name}):
        picture.savefig(path, format="svg", metadata={"Date": None})


def _panel(axes: Any, results: Results, figure: Figure) -> None:
    contestants = [who for who in CONTESTANTS if results.shows(figure, who)]
    values = [results.median(figure, who) for who in contestants]
    known = [value for value in values if value is not None]
    highest, lowest = max(known, default=1), min(known, default=1)
    is_log = highest > _LOG_FROM * lowest
    left, right = (lowest / 3, highest * 5) if is_log else (0, highest * 1.3)
    bars = axes.barh(
        [who.name for who in contestants],
        [value or left for value in values],
        height=_BAR * len(contestants),
        color=[_COLOURS.get(who, _OUR_COLOUR) for who in contestants],
    )
    if is_log:
        axes.set_xscale("log")
    axes.set_xlim(left, right)
    axes.bar_label(bars, [cell(results, figure, who) for who in contestants], padding=3)
    axes.invert_yaxis()
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.set_xticks([])
    axes.set_xticks([], minor=True)
    note = "more is better" if figure.more_is_better else "less is better"
    axes.set_title(f"{figure.label} ({note}{', log scale' if is_log else ''})", loc="left", fontsize=10)
