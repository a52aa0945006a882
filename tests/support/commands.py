"""The command line, run in this process or in child processes."""

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from rayforce_trio._cli import main

COMMAND = [sys.executable, "-W", "error", "-m", "rayforce_trio"]
BOUND = 60  # seconds
FAREWELL = "\nRayforce WebSocket Server stopped.\n"

_BANNER = re.compile(r"Rayforce WebSocket served on wss?://(?P<host>\S+):(?P<port>\d+)\n")
_ROOT = Path(__file__).parents[2]


def environment(**more: str | None) -> dict[str, str]:
    """Return the environment for a command: this very package, and the variables of a test; `None` removes one."""
    variables = {**os.environ, "PYTHONPATH": str(_ROOT), "PYTHONIOENCODING": "utf-8", **more}
    return {name: value for name, value in variables.items() if value is not None}


def command(*arguments: str, given: str = "", **more: str) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end in this process, without the start of an interpreter.

    Args:
        given: its standard input, a pipe; at most 64 KiB.
        more: variables added to its environment. PYTHONIOENCODING is the encoding of its standard output.
    """
    out = io.TextIOWrapper(io.BytesIO(), encoding=more.get("PYTHONIOENCODING", "utf-8"))
    err = io.StringIO()
    with _standard_input(given), redirect_stdout(out), redirect_stderr(err), patch.dict(os.environ, more):
        try:
            code = main(arguments)
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    out.flush()
    return subprocess.CompletedProcess(arguments, code, out.buffer.getvalue().decode("utf-8"), err.getvalue())


@contextmanager
def _standard_input(given: str) -> Iterator[None]:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)  # more than a pipe holds is an error, not a deadlock
    with os.fdopen(writing, "w", encoding="utf-8") as pipe:
        pipe.write(given)
    with os.fdopen(reading, encoding="utf-8") as pipe, patch.object(sys, "stdin", pipe):
        yield


def command_in_child(*arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end in a child process, with `more` in its environment."""
    return subprocess.run(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        env=environment(**more),
        capture_output=True,
        encoding="utf-8",
        timeout=BOUND,
        check=False,
    )


def started(*arguments: str, **more: str) -> "subprocess.Popen[str]":
    """Start a command, with `more` in its environment; its standard input is empty."""
    return _started(arguments, subprocess.DEVNULL, more)


def started_with_input(*arguments: str) -> "subprocess.Popen[str]":
    """Start a command whose standard input is a pipe."""
    return _started(arguments, subprocess.PIPE, {})


def _started(arguments: Sequence[str], stdin: int, more: Mapping[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment(**more),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def wrong_usage(*arguments: str) -> str:
    """Return the error for wrong arguments; it must be one line on standard error, and the exit code 2."""
    done = command(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith("error: ")
    return done.stderr.removeprefix("error: ").removesuffix("\n")


class Serving:
    """The command `serve`, since its banner.

    Attributes:
        port: where it listens.
        process: its process.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        self.process = process
        banner = _BANNER.fullmatch(process.stdout.readline())
        assert banner is not None, process.communicate(timeout=BOUND)
        self.port = int(banner["port"])

    @property
    def url(self) -> str:
        return f":{self.port}"

    def end(self, signal_: signal.Signals = signal.SIGINT) -> tuple[str, str]:
        """Send it a signal, and return what it still wrote to standard output, and all it wrote to standard error."""
        self.process.send_signal(signal_)
        return self.process.communicate(timeout=BOUND)


@contextmanager
def serving(*arguments: str, **more: str) -> Iterator[Serving]:
    """Run `serve` on a free port for the block, with `more` in its environment; it is killed if it has not ended."""
    with started("serve", "--port", "0", *arguments, **more) as process:
        try:
            yield Serving(process)
        finally:
            process.terminate()
            try:
                process.communicate(timeout=BOUND)
            except (subprocess.TimeoutExpired, ValueError):
                process.kill()
