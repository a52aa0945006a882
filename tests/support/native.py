"""Native Rayforce servers, as child processes of the tests."""

import os
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rayforce_trio._codec import native_server as native_program

HOST = "127.0.0.1"

_START_TIMEOUT = 30.0
_PORT_ATTEMPTS = 10
_PORT_TAKEN = "Address already in use"


class NativeServer:
    """A `rayforce -p` that listens on a port of the loopback interface.

    Attributes:
        port: where it listens.
        pid: its process id.
        output: the lines it has printed so far.
    """

    def __init__(self, port: int, arguments: list[str], directory: Path | None = None) -> None:
        self.port = port
        self.output: list[str] = []
        self._process = subprocess.Popen(
            [native_program(), "-p", f"{HOST}:{port}", *arguments],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._listens = False
        self._decided = threading.Event()
        self._reader = threading.Thread(target=self._read_output, daemon=True)
        self._reader.start()

    def wait_until_it_listens(self) -> bool:
        """Wait until it is known whether the server listens; return that."""
        assert self._decided.wait(_START_TIMEOUT), f"it says nothing of listening: {self.output}"
        return self._listens

    def stop(self) -> None:
        """Suspend the process until `resume`; return once it is suspended."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill it and what it has started, and wait for its end. Idempotent."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read_output(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.output.append(line.rstrip("\n"))
            if line.startswith("listening on "):
                self._listens = True
                self._decided.set()
        self._decided.set()


@contextmanager
def native_server(*options: str, script: str | None = None, directory: Path | None = None) -> Iterator[NativeServer]:
    """Run a native server on a free port; it is killed in the end.

    Args:
        options: for its command line, such as `"-u", "password"`.
        script: Rayfall code that it runs before it answers anyone; it listens already.
        directory: its working directory; default: that of this process.
    """
    with tempfile.TemporaryDirectory() as scripts:
        arguments = list(options)
        if script is not None:
            file = Path(scripts, "script.rfl")
            file.write_text(script, encoding="utf-8")
            arguments.append(str(file))
        for _ in range(_PORT_ATTEMPTS):
            server = NativeServer(free_port(), arguments, directory)
            try:
                if server.wait_until_it_listens():
                    yield server
                    return
            finally:
                server.kill()
            assert any(_PORT_TAKEN in line for line in server.output), f"it ended: {server.output}"
    raise AssertionError("every port was taken that had just been free")


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
