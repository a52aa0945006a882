"""The processes of the contestants, and the cores that they run on."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType

from support.children import Cannot, Child

from ._contestants import Contestant

_START_TIMEOUT = 30.0  # seconds
_PUBLISHING = ("in-process", "broadcast")


class Placement(Enum):
    """Which cores the processes of a turn run on. The value is the text for tables."""

    FREE = "free"
    """The operating system decides."""
    ONE_CORE = "one core"
    """All processes on the same core."""
    TWO_CORES = "two cores"
    """The clients on one core, the server on another. An engine that the server has started may run on either."""


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        port: the port it listens on.
        pid: the id of the process that answers requests.
        child: the process to stop. It may have started other processes.
    """

    port: int
    pid: int
    child: Child


class Processes:
    """Servers, clients and load generators. Each starts when it is first needed, and sleeps between its turns.

    The context manager stops them.
    """

    def __init__(self) -> None:
        self._servers: dict[str, Server] = {}
        self._clients: dict[str, Child] = {}

    def server(self, contestant: Contestant) -> Server:
        """Return the contestant's server. Raises `Failed` if it does not start."""
        if contestant.server not in self._servers:
            self._servers[contestant.server] = _start(contestant.server)
        return self._servers[contestant.server]

    def client(self, contestant: Contestant) -> Child:
        """Return the contestant's client."""
        return self._child(contestant.client, "_client", contestant.client)

    def load_generator(self, name: str) -> Child:
        """Return the load generator of that name, which contains "load"."""
        return self._child(name, "_load")

    def discard(self, contestant: Contestant) -> None:
        """End the contestant's processes and all load generators. After a failure, their state is unknown."""
        for name in [name for name in self._clients if name == contestant.client or "load" in name]:
            self._clients.pop(name).kill()
        if contestant.server in self._servers:
            self._servers.pop(contestant.server).child.stop()

    @contextmanager
    def placed(self, placement: Placement, server: Server, *clients: Child) -> Iterator[None]:
        """Keep the processes of a turn on the cores that `placement` says.

        Raises:
            Cannot: the machine has too few cores, or the operating system does not let programs choose one.
        """
        if placement is Placement.FREE:
            yield
            return
        if not hasattr(os, "sched_setaffinity"):
            raise Cannot("this system does not pin processes to cores")
        cores = os.sched_getaffinity(0)
        if placement is Placement.TWO_CORES and len(cores) == 1:
            raise Cannot("this machine has one core")
        client_core = max(cores) if placement is Placement.ONE_CORE else min(cores)
        server_pids = [server.pid] if placement is Placement.TWO_CORES else _descendants(server.child.pid)
        client_pids = [pid for client in clients for pid in _descendants(client.pid)]
        try:
            _pin(server_pids, {max(cores)})
            _pin(client_pids, {client_core})
            yield
        finally:
            _pin([*server_pids, *client_pids], cores)

    def __enter__(self) -> "Processes":
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with ExitStack() as stack:
            for server in self._servers.values():
                stack.callback(server.child.stop)
            for client in self._clients.values():
                stack.callback(client.stop if exc is None else client.kill)

    def _child(self, name: str, module: str, *arguments: str) -> Child:
        if name not in self._clients:
            self._clients[name] = Child(f"{__package__}.{module}", *arguments)
        return self._clients[name]


def _start(kind: str) -> Server:
    if kind == "native":
        child = Child(f"{__package__}._native")
    elif kind in _PUBLISHING:
        child = Child(f"{__package__}._publishing", kind)
    else:
        child = Child("support.serve", kind)
    try:
        while not (line := child.line(_START_TIMEOUT))[0].isdigit():
            pass
    except BaseException:
        child.stop()
        raise
    port, *pid = map(int, line.split())
    return Server(port, pid[0] if pid else child.pid, child)


def _descendants(pid: int) -> list[int]:
    """Return the ids of a process and of all processes that it has started, directly or not."""
    pids = [pid]
    for parent in pids:
        with suppress(OSError):  # the process has ended
            for thread in Path(f"/proc/{parent}/task").iterdir():
                pids += map(int, Path(thread, "children").read_text().split())
    return pids


def _pin(pids: list[int], cores: set[int]) -> None:
    for pid in pids:
        with suppress(OSError):  # the process has ended
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), cores)
