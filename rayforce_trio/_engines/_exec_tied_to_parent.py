"""Run a program that cannot outlive its parent: `python _exec_tied_to_parent.py PROGRAM [ARGUMENT...]`.

Standard input is a pipe. Only the parent process holds its other end, and it never writes to it. However the parent
ends, the system closes the pipe. This script asks the system to send SIGKILL to this process group when that happens,
and then replaces itself with the program. The program needs no knowledge of this, and is killed even in the middle of a
query.

The parent-death signal cannot be used: the system sends it when the thread that started the program ends, and trio
starts programs in short-lived threads. On systems without `F_SETSIG`, such as macOS, the program runs without this
protection.
"""

import fcntl
import os
import select
import signal
import sys

if __name__ == "__main__":
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(0, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(0, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([0], [], [], 0)[0]:  # the parent ended before the request
        sys.exit(1)
    os.execv(sys.argv[1], sys.argv[1:])
