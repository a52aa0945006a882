"""Keep a server under a mixed load, and look whether it stays what it was. Fails if it does not."""

import argparse
import sys
from functools import partial

import trio

from ._run import Soak, soak
from ._server import ENGINES


def show(result: Soak) -> None:
    """Print what the run has come to so far."""
    tally, held = result.tally, result.samples[-1]
    print(
        f"{tally.requests:>10,} {tally.cancelled:>10,} {tally.sessions:>9,} {tally.killed:>7,} {tally.frozen:>7,} "
        f"{held.memory / 1e6:>8.1f} MB {held.descriptors:>12} {held.tasks:>6}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="for each engine (%(default)g)")
    parser.add_argument("--clients", type=int, default=100, help="at the same time (%(default)s)")
    parser.add_argument("--engine", choices=ENGINES, help="one of them only")
    options = parser.parse_args()
    complaints = []
    for engine in [options.engine] if options.engine else ENGINES:
        seconds = options.minutes * 60
        print(f"{engine}: {options.clients} clients, {options.minutes:g} minutes")
        print(f"{'requests':>10} {'cancelled':>10} {'sessions':>9} {'killed':>7} {'frozen':>7} {'memory':>11} ", end="")
        print(f"{'descriptors':>12} {'tasks':>6}", flush=True)
        result = trio.run(partial(soak, engine, options.clients, seconds, max(seconds / 60, 1), show))
        print(f"before: {result.before}\nafter: {result.after}\nmemory grew by {result.growth / 1e6:.1f} MB")
        complaints += [f"{engine}: {complaint}" for complaint in result.complaints]
    if complaints:
        sys.exit("\n".join(complaints[:20]))


if __name__ == "__main__":
    main()
