"""Child processes of the tests."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SERVE = Path(__file__).with_name("serve.py")


@contextmanager
def server_process(whose: str) -> Iterator[int]:
    """Run a server in a child process, ours or rayforce-py's; yields its port."""
    child = subprocess.Popen(
        [sys.executable, str(SERVE), whose], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
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
