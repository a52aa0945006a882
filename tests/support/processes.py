"""Child processes of the tests."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TESTS = Path(__file__).parents[1]


@contextmanager
def server_process(*whose: str) -> Iterator[int]:
    """Run a server in a child process, ours or rayforce-py's; yields its port. What it takes: `support.serve`."""
    child = subprocess.Popen(
        [sys.executable, "-m", "support.serve", *whose],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        lines = iter(child.stdout)
        port = next(line for line in lines if line.strip().isdigit())
        yield int(port)
    finally:
        child.stdin.close()
        try:
            child.wait(timeout=15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()
