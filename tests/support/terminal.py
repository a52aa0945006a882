"""A program on a terminal: what a person sees and types there."""

import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

from support.commands import COMMAND, environment

PROMPTED = "<prompted>"
ENTERED = "<entered>"

CTRL_C = "\x03"
CTRL_D = "\x04"
ALT_ENTER = "\x1b\r"
ENTER = "\r"
PASTE_START = "\x1b[200~"
PASTE_END = "\x1b[201~"
TAB = "\t"
UP = "\x1b[A"

BOUND = 30.0

_MARKS = {"\x1b[?2004h": PROMPTED, "\x1b[?2004l": ENTERED}  # what a line editor switches on and off: bracketed paste
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\r")
_BECOME_CONTROLLED = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """One end of a pseudo terminal, with a program at the other.

    Attributes:
        process: the program.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", descriptor: int) -> None:
        self.process = process
        self._descriptor = descriptor
        self._received = b""
        self._seen = 0

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def enter(self, text: str) -> None:
        """Wait for the prompt, type a line, and wait until it was taken."""
        self.until(PROMPTED)
        self.type(text + ENTER)
        self.until(ENTERED)

    def until(self, text: str) -> str:
        """Wait until this appears after what was waited for before; returns what came before it."""
        deadline = time.monotonic() + BOUND
        while (found := self._text().find(text, self._seen)) < 0:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} does not appear; since the last text that did: {self._text()[self._seen :]!r}"
            assert self._receive(left), f"it ended before {text!r} appeared: {self._text()[self._seen :]!r}"
        before = self._text()[self._seen : found]
        self._seen = found + len(text)
        return before

    def rest(self) -> str:
        """Wait until the program has closed its terminal; returns what came after what was waited for."""
        deadline = time.monotonic() + BOUND
        while self._receive(deadline - time.monotonic()):
            assert time.monotonic() < deadline, "it does not end"
        return self._text()[self._seen :]

    def _receive(self, seconds: float) -> bool:
        """Take what comes within so many seconds; returns whether more can come."""
        if not select.select([self._descriptor], [], [], max(seconds, 0))[0]:
            return True
        try:
            data = os.read(self._descriptor, 65536)
        except OSError:  # how Linux tells that nobody has the other end
            return False
        self._received += data
        return bool(data)

    def _text(self) -> str:
        text = self._received.decode("utf-8", "replace")
        for sequence, mark in _MARKS.items():
            text = text.replace(sequence, mark)
        return _CONTROL.sub("", text)


@contextmanager
def terminal(*arguments: str, **more: str | None) -> Iterator[Terminal]:
    """Run a command on a terminal of 24 lines and 80 columns for the block; it is killed if it has not ended then."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _BECOME_CONTROLLED, *COMMAND, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment(TERM="xterm", PROMPT_TOOLKIT_NO_CPR="1", **more),
            start_new_session=True,
        )
        os.close(theirs)
        with process:
            try:
                yield Terminal(process, ours)
            finally:
                process.kill()
    finally:
        os.close(ours)
