"""A server with a `NativeEngine` in a process of its own, watched from outside: `python -m support.gateway PORT`.

PORT is the native server's. Prints its own port once it listens. Ends with its standard input, so it cannot outlive the
tests. The facts come from Linux's `/proc`.
"""

import itertools
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import trio

from rayforce_trio import NativeEngine, WSServer

_TESTS = Path(__file__).parents[1]


class Gateway:
    """Attributes: `port`, where it listens; `pid`, its process id."""

    def __init__(self, port: int, pid: int) -> None:
        self.port = port
        self.pid = pid

    @property
    def memory(self) -> int:
        """Its current memory, in bytes."""
        return self._status("VmRSS")

    @property
    def peak_memory(self) -> int:
        """Its peak memory, in bytes."""
        return self._status("VmHWM")

    @property
    def descriptors(self) -> int:
        """The number of its open files and sockets."""
        return descriptors_of(self.pid)

    def leave_descriptors(self, count: int) -> None:
        """Let it open this number of further files and sockets, and no more."""
        taken = {int(entry.name) for entry in Path(f"/proc/{self.pid}/fd").iterdir()}
        free = (number for number in itertools.count() if number not in taken)
        limit = next(itertools.islice(free, count, None))
        _, hard = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (limit, hard))

    def _status(self, field: str) -> int:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def descriptors_of(pid: int) -> int:
    """Return the number of open files and sockets of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@contextmanager
def gateway(native_port: int, log: Path | None = None) -> Iterator[Gateway]:
    """Run one in front of a native server; it ends with the block. Its warnings go to `log`."""
    with nullcontext() if log is None else log.open("w") as stderr:
        child = subprocess.Popen(
            [sys.executable, "-m", "support.gateway", str(native_port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, "PYTHONPATH": str(_TESTS)},
        )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        yield Gateway(int(child.stdout.readline()), child.pid)
    finally:
        child.stdin.close()
        try:
            child.wait(timeout=15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()


async def serve(native_port: int) -> None:
    async with WSServer(port=0, host="127.0.0.1", engine=NativeEngine("127.0.0.1", native_port)) as server:
        print(server.port, flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


if __name__ == "__main__":
    trio.run(serve, int(sys.argv[1]))
