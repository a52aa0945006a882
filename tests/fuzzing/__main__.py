"""Try made-up inputs on everything that reads what strangers send: `python -m fuzzing --help`."""

import argparse
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random, randrange
from types import FrameType

from fuzzing.targets import TARGETS, Target

_STEPS = 20  # reports of progress
_BOUND = 20.0  # seconds of processor time


def finds(target: Target, seed: int, count: int) -> Iterator[bytes | int]:
    """Try `count` inputs; yields each one on which something is wrong, and now and then how many were tried."""
    random = Random(seed)
    for number in range(1, count + 1):
        data = target.make(random)
        try:
            with _bounded():
                target.check(data)
        except Exception:  # noqa: BLE001 - that is what is looked for
            yield data
        if number % max(1, count // _STEPS) == 0:
            yield number


@contextmanager
def _bounded() -> Iterator[None]:
    """Raise a `TimeoutError` in a block that takes more than `_BOUND`."""
    signal.signal(signal.SIGVTALRM, _give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, _BOUND)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _give_up(number: int, frame: FrameType | None) -> None:
    raise TimeoutError("it does not come to an end")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzzing", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all, if none is named")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="for each target (%(default)s)")
    parser.add_argument("--seed", type=int, default=randrange(1 << 32), help="the same seed makes the same inputs")
    parser.add_argument("--input", metavar="HEX", help="try this one input only, and show what it raises")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    names = options.targets or list(TARGETS)
    if options.input is not None:
        for name in names:
            with _bounded():
                TARGETS[name].check(bytes.fromhex(options.input))
        return 0
    return max([_fuzz(name, options.seed, options.inputs) for name in names])


def _fuzz(name: str, seed: int, count: int) -> int:
    """Fuzz one target, and tell how it goes; returns 1 at the first find."""
    begun = time.monotonic()
    print(f"{name}: seed {seed}", flush=True)
    for found in finds(TARGETS[name], seed, count):
        if isinstance(found, bytes):
            print(f"{name}: FOUND, try: python -m fuzzing {name} --input {found.hex()}")
            try:
                with _bounded():
                    TARGETS[name].check(found)
            except Exception:  # noqa: BLE001 - shown
                traceback.print_exc()
            return 1
        print(f"{name}: {found:,} inputs, {time.monotonic() - begun:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
