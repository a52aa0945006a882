"""Run a program that cannot outlive its parent: `python _exec_tied_to_parent.py PROGRAM [ARGUMENT...]`.

Standard input is a pipe whose other end that process alone holds, and on which it never writes. However it ends, the
system closes the pipe; and the system is asked here to send SIGKILL, to this process group, when that happens. The
program, which takes this one's place, need not know, and need not be listening: a query without end is killed, too.

(The parent-death signal would not do: it is sent when the thread ends that started the program, which is one of trio's
short-lived ones.) Where the system has no such thing, as on macOS, the program is run all the same.
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
    if select.select([0], [], [], 0)[0]:  # it was closed before the system was asked
        sys.exit(1)
    os.execv(sys.argv[1], sys.argv[1:])
