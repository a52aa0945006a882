"""Child processes that are told what to do by lines of JSON on their standard input, and answer likewise.

A child ends with its standard input, so it cannot outlive its parent.
"""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL
from typing import Any

_TESTS = Path(__file__).parents[1]
_STOP_TIMEOUT = 10.0


class Failed(Exception):
    """A turn came to nothing; the text says why."""


class Cannot(Failed):
    """A turn came to nothing because the contestant does not have what it takes; the text says what that is."""


class Child:
    """A Python module that runs in a process of its own; Ctrl-C reaches the parent alone, which then ends it.

    Args:
        module: the module's name.
        arguments: for its command line.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._module = module
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the child
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(_TESTS), os.environ.get("PYTHONPATH", "")])},
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def say(self, **command: Any) -> None:
        """Send a command."""
        assert self._process.stdin is not None
        with suppress(OSError):  # if it is gone, there will be no answer
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()

    def answer(self, timeout: float) -> dict[str, Any]:
        """Return its next answer.

        Raises:
            Failed: what it was told to do failed, or it ended, or it does not answer within `timeout` seconds.
        """
        answer: dict[str, Any] = json.loads(self.line(timeout))
        if "cannot" in answer:
            raise Cannot(answer["cannot"])
        if "failed" in answer:
            raise Failed(answer["failed"])
        return answer

    def line(self, timeout: float) -> str:
        """Return the next line that it prints. Raises `Gone`."""
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise Gone(f"no answer within {timeout:g} seconds") from None
        if line is None:
            raise Gone(f"{self._module} ended: {self._last_words()}")
        return line

    def stop(self) -> None:
        """End it, and wait for its end. Idempotent."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
        self._errors.close()

    def kill(self) -> None:
        """End it at once. Idempotent."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, SIGKILL)
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put(None)

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {code}")


class Gone(Failed):
    """A child ended, or does not answer."""


class Commander:
    """The child's side: takes commands, and keeps what libraries print from being taken for an answer."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def next(self) -> dict[str, Any] | None:
        """Return the next command, or `None` if there will be no more. Blocks."""
        line = sys.stdin.readline()
        return json.loads(line) if line else None

    def tell(self, answer: dict[str, Any]) -> None:
        """Answer a command."""
        print(json.dumps(answer), file=self._answers, flush=True)

    def tell_failure(self, error: BaseException) -> None:
        """Answer that a command failed."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, Cannot):
            self.tell({"cannot": str(error)})
        else:
            self.tell({"failed": f"{type(error).__name__}: {error}"})
