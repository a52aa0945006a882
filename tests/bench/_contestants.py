"""Who is measured, and the processes that takes: started when first needed, ended with the arena."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from support.children import Child

_START_TIMEOUT = 30.0


@dataclass(frozen=True)
class Contestant:
    """A server and a client.

    Attributes:
        name: for tables.
        server: `"in-process"` or `"child"` for ours with that engine, `"theirs"` for rayforce-py's `WSServer`,
            `"native"` for the native server.
        client: as `bench._client` has it.
    """

    name: str
    server: str
    client: str


OURS = Contestant("ours, trio", "in-process", "trio")
ASYNCIO = Contestant("ours, asyncio", "in-process", "asyncio")
ENGINE = Contestant("ours, native engine", "child", "trio")
READ_ONLY = Contestant("ours, read-only engine", "read-only", "trio")
PEER = Contestant("rayforce-py WebSocket", "theirs", "peer")
NATIVE = Contestant("rayforce-py TCPClient", "native", "native")
RAW = Contestant("raw native socket", "native", "raw")

CONTESTANTS = (OURS, ASYNCIO, ENGINE, READ_ONLY, PEER, NATIVE, RAW)


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        port: where it listens.
        pid: of the process that answers there.
        child: what is to be stopped; it may have started other processes.
    """

    port: int
    pid: int
    child: Child


class Arena:
    """The processes of the contestants. They wait for their turns, asleep."""

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
        """Return the load generator of that name."""
        return self._child(name, "_load")

    def forget(self, contestant: Contestant) -> None:
        """End what belongs to a contestant, and all load generators: after a failure nobody knows what they do."""
        for name in [name for name in self._clients if name == contestant.client or "load" in name]:
            self._clients.pop(name).kill()
        if contestant.server in self._servers:
            self._servers.pop(contestant.server).child.stop()

    @contextmanager
    def on_one_core(self, contestant: Contestant) -> Iterator[None]:
        """Keep all processes of a contestant on the same core."""
        cores = os.sched_getaffinity(0)
        pids = [*_family(self.server(contestant).child.pid), *_family(self.client(contestant).pid)]
        try:
            _pin(pids, {max(cores)})
            yield
        finally:
            _pin(pids, cores)

    def __enter__(self) -> "Arena":
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
    child = Child(f"{__package__}._native") if kind == "native" else Child("support.serve", kind)
    try:
        while not (line := child.line(_START_TIMEOUT))[0].isdigit():
            pass
    except BaseException:
        child.stop()
        raise
    port, *pid = map(int, line.split())
    return Server(port, pid[0] if pid else child.pid, child)


def _family(pid: int) -> list[int]:
    """Return a process and all it has started."""
    family = [pid]
    for parent in family:
        with suppress(OSError):  # it ended meanwhile
            for task in Path(f"/proc/{parent}/task").iterdir():
                family += map(int, Path(task, "children").read_text().split())
    return family


def _pin(pids: list[int], cores: set[int]) -> None:
    for pid in pids:
        with suppress(OSError):  # it ended meanwhile
            for task in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), cores)
