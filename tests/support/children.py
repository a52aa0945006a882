"""Child processes that receive commands as lines of JSON on their standard input, and answer in the same form.

A child ends with its standard input, so it cannot outlive its parent.
"""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL
from typing import Any

_TESTS = Path(__file__).parents[1]
_STOP_TIMEOUT = 10.0


class Failed(Exception):
    """A command failed. The text is the reason."""


class Cannot(Failed):
    """A command is not supported. The text names what is missing."""


class Child:
    """A Python module that runs in its own process. Ctrl-C reaches only the parent, which then ends the child.

    Args:
        module: the module's name.
        arguments: the arguments of its command line.
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
        with suppress(OSError):  # if the child has ended, `answer` reports it
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()

    def answer(self, timeout: float) -> dict[str, Any]:
        """Return the next answer.

        Raises:
            Failed: the command failed, the child ended, or it did not answer within `timeout` seconds.
        """
        answer: dict[str, Any] = json.loads(self.line(timeout))
        if "cannot" in answer:
            raise Cannot(answer["cannot"])
        if "failed" in answer:
            raise Failed(answer["failed"])
        return answer

    def line(self, timeout: float) -> str:
        """Return the next line that the child prints. Raises `Gone`."""
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise Gone(f"no answer within {timeout:g} seconds") from None
        if line is None:
            raise Gone(f"{self._module} ended: {self._last_words()}")
        return line

    def error_size(self) -> int:
        """Return how many bytes the child has written to its standard error."""
        return os.fstat(self._errors.fileno()).st_size

    def stop(self) -> None:
        """Close the standard input, and wait for the end of the child. Kills it after a while. Idempotent."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
        self._errors.close()

    def kill(self) -> None:
        """Kill the child and its process group. Idempotent."""
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
    """A child ended or did not answer."""


class Commander:
    """The child's side: receives commands and answers them. What libraries print goes to the standard error."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def next(self) -> dict[str, Any] | None:
        """Return the next command, or `None` at the end of the standard input. Blocks."""
        line = sys.stdin.readline()
        return json.loads(line) if line else None

    def tell(self, answer: Mapping[str, Any]) -> None:
        """Answer a command."""
        print(json.dumps(answer), file=self._answers, flush=True)

    def tell_failure(self, error: BaseException) -> None:
        """Answer a command with the reason why it failed."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, Cannot):
            self.tell({"cannot": str(error)})
        else:
            self.tell({"failed": f"{type(error).__name__}: {error}"})
