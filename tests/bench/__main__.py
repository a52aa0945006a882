"""Measure how fast this is, beside rayforce-py's own WebSocket pair and its native protocol, all in one run."""

import argparse
import signal
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from support.machine import facts

from ._comparisons import COMPARISONS
from ._contestants import Arena
from ._plot import plot
from ._report import comparison_row, heading, markdown, row
from ._results import Results
from ._run import compare, run
from ._workloads import WORKLOADS, Workload

_DOCS = Path(__file__).parents[2] / "docs"
_WHOLE = (7, 0.4)  # rounds that count, and seconds of a turn
_QUICK = (3, 0.15)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: a minute or two")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="workloads whose name has NAME in it; can be repeated"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the workloads")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIRECTORY",
        help="where to write benchmark.md and _static/benchmark.svg; default: docs for a whole run, else nowhere",
    )
    return parser.parse_args()


def chosen(names: list[str] | None) -> list[Workload]:
    """Return the workloads that are asked for."""
    return [workload for workload in WORKLOADS if names is None or any(name in workload.name for name in names)]


def show(text: str) -> None:
    """Say what happens now, on the terminal's last line; nothing where there is no terminal."""
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
        sys.exit("no workload has such a name; --list tells the names")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    rounds, seconds = _QUICK if options.quick else _WHOLE
    output = options.output or (None if options.quick or options.only else _DOCS)
    if output is not None and find_spec("matplotlib") is None:
        sys.exit("the plot needs matplotlib")
    results = Results()
    begun = time.monotonic()
    print(heading(), flush=True)
    with Arena() as arena:
        for workload in workloads:
            run(workload, results, arena, rounds, seconds, show)
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
    took = f"{rounds} rounds of {seconds:g} s a turn, {(time.monotonic() - begun) / 60:.0f} minutes in all"
    report = markdown(results, figures, facts() | {"Run": took}, compared)
    if output is not None:
        (output / "_static").mkdir(parents=True, exist_ok=True)
        (output / "benchmark.md").write_text(report, encoding="utf-8")
        plot(results, figures, output / "_static" / "benchmark.svg")
    print(f"\n{report}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
