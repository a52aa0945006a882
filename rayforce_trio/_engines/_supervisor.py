"""Run a program, and end all its descendants with it: `python _supervisor.py REPORT PROGRAM [ARGUMENT...]`.

This process stays between the server and the program. It writes the program's process id to the file descriptor
REPORT. When the program ends, it ends with the same exit code or signal. Standard input is a pipe that only the server
writes to. When the pipe becomes readable or is closed, this process kills the program. The system closes the pipe
however the server ends, so the program needs no knowledge of this, and is killed even in the middle of a query.

In either case this process kills every descendant of the program before it ends. On Linux it is a subreaper: if the
parent of a descendant ends, the descendant becomes a child of this process and not of init, even if it has left the
process group. On other systems only the process group is killed.

If this process itself is killed, the system kills the program, on Linux.
"""

import ctypes
import os
import resource
import select
import signal
import sys
import time
from contextlib import suppress

_CLEANUP_TIMEOUT = 2.0  # seconds to kill the descendants: the system does not end one that waits for a broken disk
_POLL_INTERVAL = 0.01  # seconds between two searches for new descendants, if none ends meanwhile

_MAX_DESCRIPTORS = 1024 * 1024
"""The limit on open files for the program, if the system allows as many.

Every user of the machine can open connections to an engine, which cannot serve new clients when it reaches its limit.
Some containers allow a thousand million. That would slow down programs that look at every possible descriptor.
"""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def main(report: int, command: list[str]) -> None:
    """Run the program, and end as it ended."""
    wakeups, wakeup = os.pipe()  # readable when a child has ended
    os.set_blocking(wakeups, False)
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])  # the server's mask is inherited
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    if _is_readable(sys.stdin.fileno()):  # the server has ended already
        sys.exit(1)
    os.set_inheritable(report, False)
    program = _start(command)
    with suppress(BrokenPipeError):
        os.write(report, b"%d" % program)
    os.close(report)
    status = _wait(program, wakeups)
    _end_descendants(program, wakeups)
    if os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with suppress(OSError):  # SIGKILL always has its default effect
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    sys.exit(os.WEXITSTATUS(status))


def _start(command: list[str]) -> int:
    """Start the program in a process group of its own, and return its process id."""
    supervisor = os.getpid()
    try:
        program = os.fork()
    except OSError as error:
        sys.exit(f"the system cannot start another process: {error.strerror}")
    if program:
        return program
    try:
        os.setpgid(0, 0)  # a signal to its group does not reach the supervisor
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:  # it was killed before that
            os._exit(1)
        _raise_descriptor_limit()
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.execv(command[0], command)
    except OSError as error:
        print(f"cannot execute {command[0]}: {error.strerror}", file=sys.stderr, flush=True)  # noqa: T201 - its output
    os._exit(1)


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = _MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < highest:
        with suppress(ValueError, OSError):  # macOS has further limits
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))


def _wait(program: int, wakeups: int) -> int:
    """Wait until the program ends, or kill it when the server asks for that; return the status of the program.

    Meanwhile, reap the descendants that have become children and have ended.
    """
    poll = select.poll()
    poll.register(0, select.POLLIN)
    poll.register(wakeups, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == wakeups:
                os.read(wakeups, 4096)
            else:
                os.kill(program, signal.SIGKILL)
                return os.waitpid(program, 0)[1]
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == program:
                    return ended[1]


def _end_descendants(group: int, wakeups: int) -> None:
    """Kill every descendant and the process group of the program, and wait a limited time until they have ended."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    deadline = time.monotonic() + _CLEANUP_TIMEOUT
    with suppress(ChildProcessError):  # no child is left, so no descendant is
        while time.monotonic() < deadline and _kill_all(_descendants()):
            select.select([wakeups], [], [], _POLL_INTERVAL)
            with suppress(BlockingIOError):
                os.read(wakeups, 4096)
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _kill_all(pids: list[int]) -> bool:
    """Kill processes; return whether the system allowed it for any of them, as it does not for other users'."""
    allowed = not pids  # go on: descendants that the search has missed become children
    for pid in pids:
        with suppress(PermissionError):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            allowed = True
    return allowed


def _descendants() -> list[int]:
    """Return the ids of the descendants of this process."""
    children: dict[int, list[int]] = {}
    with suppress(FileNotFoundError):  # other systems have no /proc
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                with suppress(OSError):  # it has ended meanwhile
                    children.setdefault(_parent(entry.name), []).append(int(entry.name))
    found, to_visit = list[int](), [os.getpid()]
    while to_visit:
        next_children = children.get(to_visit.pop(), [])
        found += next_children
        to_visit += next_children
    return found


def _parent(pid: str) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - pathlib would double the time to start
        return int(file.read().rpartition(b")")[2].split()[1])


def _is_readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
