"""Measure honest clients of a server, first without and then beside an attack.

The server, the honest clients and the attackers are separate processes. The server has one core of the machine for
itself, and the others share the rest. Attackers have a low priority; if root runs this, the server and the honest
clients have a high one. So this measures the fairness of the server, not that of the machine.
"""

import json
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.children import Child
from support.usage import Held, child_processes

from rayforce_trio import WSServer

from . import _honest

_START_TIMEOUT = 60.0
_SLACK = 60.0  # seconds that a process may take longer than it was told
_LOW_PRIORITY, _NORMAL_PRIORITY, _HIGH_PRIORITY = 5, 0, -10


@dataclass(frozen=True)
class Timing:
    """Round trips of one kind, in seconds.

    Attributes:
        count: how many there were.
        errors: up to three different errors of round trips that failed.
    """

    p50: float
    p99: float
    longest: float
    count: int
    errors: list[str]

    def __str__(self) -> str:
        text = f"p50 {self.p50 * 1000:.1f} ms, p99 {self.p99 * 1000:.1f} ms, longest {self.longest * 1000:.1f} ms"
        return f"{text} of {self.count}" + (f", errors: {self.errors}" if self.errors else "")


class ServerProcess:
    """A server in a process of its own, with honest clients in another.

    Attributes:
        port: of the server.
        pid: of its process.
    """

    def __init__(self, server: Child, clients: Child) -> None:
        self.port: int = server.answer(_START_TIMEOUT)["port"]
        self.pid = server.pid
        clients.answer(_START_TIMEOUT)
        self._server, self._clients = server, clients

    def measure(
        self, *kinds: str, clients: int = 4, seconds: float = 5.0, port: int | None = None
    ) -> dict[str, Timing]:
        """Have honest clients make round trips at a steady rate, and return their times by kind.

        Clients keep their connections from one call to the next.

        Args:
            kinds: `requests`, `pings`, or `connects`. Default: requests and pings.
            clients: how many there are of each kind. Each makes round trips at the rate of `_honest.RATES`.
            seconds: how long.
            port: the port that the clients connect to, if that is not the server's: that of a proxy.
        """
        self.pin()
        kinds = kinds or ("requests", "pings")
        self._clients.say(port=port or self.port, kinds=kinds, clients=clients, seconds=seconds)
        answer = self._clients.answer(seconds + _SLACK)
        return {kind: Timing(**fields) for kind, fields in answer.items()}

    def held(self) -> Held:
        """Return the memory, descriptors and tasks of the server's process."""
        self._server.say(do="tell")
        return Held(**self._server.answer(_SLACK))

    def engine_pid(self) -> int:
        """Return the id of the engine's process. Its supervisor is the only child of the server's process."""
        (supervisor,) = child_processes(self.pid)
        return child_processes(supervisor)[0]  # programs of queries can follow

    def logged(self) -> int:
        """Return how many bytes the server has logged."""
        return self._server.error_size()

    def pin(self) -> None:
        """Move the server to its core, and its engine processes to the others. `measure` does it."""
        own, others = _cores()
        _set_cores(self.pid, own)
        for supervisor in child_processes(self.pid):
            for pid in supervisor, *child_processes(supervisor):
                _set_cores(pid, others)
                _set_priority(pid, _NORMAL_PRIORITY)


@contextmanager
def served(make: Callable[..., WSServer], **arguments: Any) -> Iterator[ServerProcess]:
    """Run a server for the block.

    Args:
        make: a function of a module, such as those of `_servers`. It returns the server.
        arguments: its arguments, which JSON can express.
    """
    with _child("server", make, **arguments) as server, _child("honest", _honest.measure) as clients:
        for one in (server, clients):
            _set_priority(one.pid, _HIGH_PRIORITY)
        process = ServerProcess(server, clients)
        process.pin()
        yield process


@contextmanager
def attacked(
    script: Callable[..., Awaitable[None]],
    server: ServerProcess,
    *,
    port: int | None = None,
    processes: int = 1,
    **arguments: Any,
) -> Iterator[None]:
    """Attack a server from separate processes during the block, which begins when every attack has begun.

    Args:
        script: an async function of a module. It is started as by `trio.Nursery.start`, attacks until it is
            cancelled, and fails the test if it raises.
        port: the port to attack, if that is not the server's: that of a proxy.
        processes: how many processes run it.
        arguments: its arguments besides `port`, which JSON can express.
    """
    with ExitStack() as stack:
        attackers = [
            stack.enter_context(_child("attacker", script, port=port or server.port, **arguments))
            for _ in range(processes)
        ]
        for attacker in attackers:
            attacker.answer(_START_TIMEOUT)
        yield
        for attacker in attackers:
            attacker.say(do="tell")
            attacker.answer(_SLACK)


def assert_added_delay(
    undisturbed: dict[str, Timing], disturbed: dict[str, Timing], seconds: float, *, quantile: str = "p99"
) -> None:
    """Fail if an attack delayed a kind of round trip by more than `seconds`, or made it fail.

    Args:
        quantile: `p50`, `p99` or `longest`.
    """
    for kind, timing in disturbed.items():
        text = f"{kind}: undisturbed {undisturbed[kind]}; beside the attack {timing}"
        print(text)
        assert not timing.errors, text
        added = getattr(timing, quantile) - getattr(undisturbed[kind], quantile)
        assert added <= seconds, f"{quantile} grew by {added * 1000:.1f} ms, more than {seconds * 1000:.1f} ms: {text}"


@contextmanager
def _child(role: str, function: Callable[..., Any], **arguments: Any) -> Iterator[Child]:
    reference = f"{function.__module__}:{function.__qualname__}"
    child = Child("withstand._child", role, reference, json.dumps(arguments))
    _set_cores(child.pid, _cores()[0 if role == "server" else 1])
    if role == "attacker":
        _set_priority(child.pid, _LOW_PRIORITY)
    try:
        yield child
    finally:
        child.stop()


def _cores() -> tuple[set[int], set[int]]:
    """Return the core of the server and those of all others; both are all cores if there is only one."""
    first, *others = sorted(os.sched_getaffinity(0))
    return {first}, set(others) or {first}


def _set_priority(pid: int, priority: int) -> None:
    """Set the priority of every thread of a process, and that of its session, if that is allowed."""
    for thread in _threads(pid):
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, priority)
    with suppress(OSError):  # where Linux shares a core between sessions first, priorities count within a session only
        Path(f"/proc/{pid}/autogroup").write_text(str(priority))


def _set_cores(pid: int, cores: set[int]) -> None:
    """Pin every thread of a process."""
    for thread in _threads(pid):
        with suppress(OSError):
            os.sched_setaffinity(thread, cores)


def _threads(pid: int) -> list[int]:
    """Return the threads of a process; none if it has ended."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]  # noqa: PTH208 - the names alone
    except OSError:
        return []
