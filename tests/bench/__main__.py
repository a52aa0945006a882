"""Measure rayforce_trio, rayforce-py's WebSocket client and server, and its native protocol, all in one run."""

import argparse
import platform
import signal
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from support.machine import facts

from ._comparisons import COMPARISONS
from ._goals import goal_lines
from ._plot import panels, plot
from ._processes import Processes
from ._report import comparison_row, heading, page, row
from ._results import Results
from ._run import compare, run
from ._summary import update
from ._workloads import WORKLOADS, Workload

_DOCS = Path(__file__).parents[2] / "docs" / "explanation"
_FULL = (7, 0.4)  # rounds that count, and seconds of a turn
_QUICK = (3, 0.12)
_PYTHON = ".".join(platform.python_version_tuple()[:2])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: less than four minutes")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="run the workloads whose name contains NAME; can be repeated"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the workloads")
    parser.add_argument("--goals", action="store_true", help="compare the figures with the developers' goals")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIRECTORY",
        help="write the page and the plot of this Python version into DIRECTORY, and the table of its performance.md; "
        "default: docs/explanation, or no files with --quick or --only",
    )
    return parser.parse_args()


def chosen(names: list[str] | None) -> list[Workload]:
    """Return the workloads that `--only` selects."""
    return [workload for workload in WORKLOADS if names is None or any(name in workload.name for name in names)]


def show(text: str) -> None:
    """Replace the last line of the terminal. Does nothing if the output is not a terminal."""
    if sys.stdout.isatty():
        print(f"\r\x1b[K{text}", end="", flush=True)


def main() -> None:
    options = arguments()
    if options.list:
        print("\n".join([*(workload.name for workload in WORKLOADS), *(pair.label for pair in COMPARISONS)]))
        return
    workloads = chosen(options.only)
    pairs = [pair for pair in COMPARISONS if options.only is None or any(name in pair.label for name in options.only)]
    if not workloads and not pairs:
        sys.exit("no workload has such a name; --list prints the names")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    rounds, seconds = _QUICK if options.quick else _FULL
    output = options.output or (None if options.quick or options.only else _DOCS)
    if output is not None and find_spec("matplotlib") is None:
        sys.exit("the plot needs matplotlib; install it, or use --quick without --output")
    results = Results()
    start = time.monotonic()
    print(f"Python {_PYTHON}\n{heading()}", flush=True)
    with Processes() as processes:
        for workload in workloads:
            run(workload, results, processes, rounds, seconds, show)
            show("")
            for figure in workload.figures:
                print(row(results, figure), flush=True)
    compared = {}
    for pair in pairs:
        show(pair.label)
        compared[pair.label] = compare(pair, rounds)
        show("")
        print(comparison_row(pair, compared[pair.label]), flush=True)
    figures = [figure for workload in WORKLOADS for figure in workload.figures]
    minutes = (time.monotonic() - start) / 60
    about = facts() | {"Run": f"{rounds} rounds of {seconds:g} s for each turn, {minutes:.1f} minutes in total"}
    if output is not None:
        pages = output / "benchmark"
        pages.mkdir(parents=True, exist_ok=True)
        picture = f"python-{_PYTHON}.svg"
        shown = panels(results, figures)
        text = page(results, figures, about, compared, title=f"Python {_PYTHON}", plot=picture if shown else None)
        (pages / f"python-{_PYTHON}.md").write_text(text, encoding="utf-8")
        if (performance := output / "performance.md").exists():
            update(performance, pages)
        if shown:
            plot(results, shown, pages / picture)
    print(f"\n{page(results, figures, about, compared)}")
    if options.goals:
        print("\n".join(goal_lines(results, figures, compared, _PYTHON)) or f"no goals for Python {_PYTHON}")
    if failures := [*results.failures(), *(label for label, measured in compared.items() if isinstance(measured, str))]:
        sys.exit(f"failed: {', '.join(failures)}; the page has the reasons")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
