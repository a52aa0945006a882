"""Child processes of the tests."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TESTS = Path(__file__).parents[1]


class ServerProcess:
    """A server in a child process, ours or rayforce-py's. For its arguments, see `support.serve`.

    Attributes:
        port: its port.
    """

    def __init__(self, *whose: str) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "support.serve", *whose],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(TESTS)},
        )
        assert self._child.stdout is not None
        try:
            self.port = int(next(line for line in self._child.stdout if line.strip().isdigit()))
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Have the server stop in good order, and wait for that. Idempotent."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        try:
            self._child.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.kill()
        self._close_output()

    def kill(self) -> None:
        """End the process at once, and wait for that. Idempotent."""
        self._child.kill()
        self._child.wait()
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._close_output()

    def _close_output(self) -> None:
        assert self._child.stdout is not None
        self._child.stdout.close()


@contextmanager
def server_process(*whose: str) -> Iterator[int]:
    """Run a server in a child process, as `ServerProcess`; yields its port."""
    server = ServerProcess(*whose)
    try:
        yield server.port
    finally:
        server.stop()
