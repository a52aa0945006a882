"""Start a program as systemd starts one with socket activation: with sockets at the file descriptors from 3."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

BOUND = 20  # seconds

_EXEC = """
import json, os, sys
numbers, names, command = json.loads(sys.argv[1])
for target, number in enumerate(numbers, 3):
    os.dup2(number, target)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(numbers)), "LISTEN_FDNAMES": names}
os.execv(command[0], command)
"""


@contextmanager
def activated(sockets: Sequence[socket.socket], *command: str, names: str = "") -> Iterator["subprocess.Popen[str]"]:
    """Run a program for the block, with sockets from "systemd". Its standard input ends with the block.

    Args:
        sockets: stays with the caller, as systemd keeps its sockets.
        command: an absolute path and the arguments.
        names: the names of the sockets, separated by colons.
    """
    numbers = [one.fileno() for one in sockets]
    assert min(numbers) >= 3 + len(numbers), "the program's descriptors must not overwrite these"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", _EXEC, json.dumps([numbers, names, command])],
        pass_fds=numbers,
        env=os.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        try:
            yield process
            process.communicate(timeout=BOUND)
        finally:
            process.kill()
