"""The workloads of the benchmark."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Any, TypeAlias

from support.children import Cannot

from . import _memory
from ._client import SMALL
from ._contestants import (
    ASYNCIO,
    BROADCAST,
    ENGINE,
    NATIVE,
    OURS,
    PEER,
    QUERIED,
    RAW,
    READ_ONLY,
    UVLOOP,
    Contestant,
)
from ._load import percentile
from ._processes import Placement, Processes
from ._results import Figure

Turn: TypeAlias = Callable[[Processes, Contestant, float], dict[str, float]]
"""Measures one contestant for some seconds. Returns the figures by metric. Raises `Failed`."""

_TIMEOUT = 60.0  # seconds for one turn, in addition to the duration of the measurement
_MARGIN = 0.5  # seconds by which the flood outlasts the quiet client
_MANY_FACTOR = 2  # turns with many requests take longer, because requests come in waves at first
_QUIET_FACTOR = 4  # turns of the quiet client take longer, because the peer answers it rarely

_FAST_UPDATES = 500  # for each second of a turn: so few that they fit into the buffers of the network
_STEADY_INTERVAL = 0.01  # seconds from one update to the next
_STEADY_FACTOR = 5  # turns at a steady pace take longer, so that there are enough updates for a percentile

_SMALL_REPLY = 1_000  # integers; its time hardly depends on the cores

_REPLIES = (OURS, ASYNCIO, UVLOOP, ENGINE, NATIVE)
_UPLOADS = (OURS, ASYNCIO, ENGINE, NATIVE)
_MEMORY = (OURS, ASYNCIO, ENGINE, NATIVE)
_SERVERS = (OURS, ENGINE, PEER)
_FAN_OUT = (OURS, ENGINE, BROADCAST)


@dataclass(frozen=True)
class Workload:
    """A task that several contestants repeat in turns.

    Attributes:
        name: the name, also for `--only`.
        contestants: the contestants that take part.
        turn: measures a contestant once.
        figures: the figures that a turn returns.
        fresh: whether each turn starts its own processes. Then no round is dropped, and fewer rounds are enough.
    """

    name: str
    contestants: tuple[Contestant, ...]
    turn: Turn
    figures: tuple[Figure, ...]
    fresh: bool = False


def _run(
    processes: Processes, contestant: Contestant, placement: Placement, seconds: float, **command: Any
) -> dict[str, float]:
    """Have the contestant's client run a command."""
    server, client = processes.server(contestant), processes.client(contestant)
    with processes.placed(placement, server, client):
        client.say(port=server.port, seconds=seconds, **command)
        return client.answer(_TIMEOUT + seconds)


def _flood_from_generator(
    processes: Processes, contestant: Contestant, placement: Placement, seconds: float
) -> dict[str, float]:
    server, generator = processes.server(contestant), processes.load_generator("load")
    with processes.placed(placement, server, generator):
        generator.say(do="flood", port=server.port, seconds=seconds)
        generator.answer(_TIMEOUT)
        return generator.answer(_TIMEOUT + seconds)


def _one_at_a_time(name: str, placement: Placement, contestants: tuple[Contestant, ...], **command: Any) -> Workload:
    label = f"{name}, {placement.value}"

    def turn(processes: Processes, contestant: Contestant, seconds: float) -> dict[str, float]:
        return _run(processes, contestant, placement, seconds, **command)

    return Workload(label, contestants, turn, (Figure(label, "time", label, "time"),))


def _in_flight() -> Workload:
    def turn(processes: Processes, contestant: Contestant, seconds: float) -> dict[str, float]:
        command = {"do": "flood", "query": SMALL, "expected": 3}
        return _run(processes, contestant, Placement.TWO_CORES, seconds * _MANY_FACTOR, **command)

    name = "in flight, many tasks"
    return Workload(name, QUERIED, turn, (Figure(name, "rate", "requests in flight, many tasks", "rate"),))


def _in_flight_from_one_task() -> Workload:
    def turn(processes: Processes, contestant: Contestant, seconds: float) -> dict[str, float]:
        seconds *= _MANY_FACTOR
        if contestant is not RAW:
            return _flood_from_generator(processes, contestant, Placement.TWO_CORES, seconds)
        command = {"do": "flood", "query": SMALL, "expected": 3}
        return _run(processes, contestant, Placement.TWO_CORES, seconds, **command)

    name = "in flight, one task"
    contestants = (OURS, ENGINE, READ_ONLY, PEER, RAW)
    return Workload(name, contestants, turn, (Figure(name, "rate", "requests in flight, one task", "rate"),))


def _connections(count: int) -> Workload:
    def turn(processes: Processes, contestant: Contestant, seconds: float) -> dict[str, float]:
        server, generator = processes.server(contestant), processes.load_generator("load")
        with processes.placed(Placement.TWO_CORES, server, generator):
            generator.say(do="load", port=server.port, connections=count, seconds=seconds * _MANY_FACTOR)
            return generator.answer(_TIMEOUT + seconds)

    name = f"{count} connections"
    figures = (
        Figure(name, "rate", name, "rate"),
        Figure(name, "p99", f"{name}, p99", "time"),
        Figure(name, "busy", f"{name}, load generator busy", "share"),
    )
    return Workload(name, _SERVERS, turn, figures)


def _quiet() -> Workload:
    def turn(processes: Processes, contestant: Contestant, seconds: float) -> dict[str, float]:
        seconds *= _QUIET_FACTOR
        server = processes.server(contestant)
        flooding, quiet = processes.load_generator("flooding load"), processes.load_generator("quiet load")
        with processes.placed(Placement.FREE, server, flooding, quiet):
            quiet.say(do="quiet", port=server.port, seconds=seconds)
            quiet.answer(_TIMEOUT)
            flooding.say(do="flood", port=server.port, seconds=seconds + _MARGIN)
            flooding.answer(_TIMEOUT)
            quiet.say(do="begin")
            figures = quiet.answer(_TIMEOUT + seconds)
            return figures | flooding.answer(_TIMEOUT + seconds)

    name = "quiet client beside a flood"
    figures = (
        Figure(name, "p99", f"{name}, p99", "time"),
        Figure(name, "p50", f"{name}, median", "time"),
        Figure(name, "rate", "rate of the flood", "rate"),
    )
    return Workload(name, _SERVERS, turn, figures)


def _fan_out(
    processes: Processes, contestant: Contestant, subscribers: int, updates: int, interval: float = 0
) -> tuple[dict[str, Any], list[float]]:
    """Have updates published, and one process receive them for all subscribers.

    Returns:
        What the subscribers answer, and when each update was published.
    """
    server, generator = processes.server(contestant), processes.load_generator("load")
    publisher = processes.client(contestant) if contestant is ENGINE else server.child
    with processes.placed(Placement.TWO_CORES, server, generator, *([publisher] if contestant is ENGINE else [])):
        subscribing = {"connections": subscribers, "updates": updates, "subscribes": contestant is not BROADCAST}
        generator.say(do="subscribe", port=server.port, **subscribing)
        generator.answer(_TIMEOUT)
        publisher.say(do="publish", port=server.port, updates=updates, interval=interval)
        return generator.answer(_TIMEOUT), publisher.answer(_TIMEOUT)["published"]


def _fast_fan_out() -> Workload:
    def turn(processes: Processes, contestant: Contestant, seconds: float) -> dict[str, float]:
        updates = ceil(seconds * _FAST_UPDATES)
        received, published = _fan_out(processes, contestant, 1000, updates)
        return {"rate": 1000 * updates / (received["arrived"][-1] - published[0]), "busy": received["busy"]}

    name = "fan-out to 1,000 subscribers"
    figures = (
        Figure(name, "rate", name, "rate"),
        Figure(name, "busy", "fan-out to 1,000, load generator busy", "share"),
    )
    return Workload(name, _FAN_OUT, turn, figures)


def _steady_fan_out() -> Workload:
    def turn(processes: Processes, contestant: Contestant, seconds: float) -> dict[str, float]:
        updates = ceil(seconds * _STEADY_FACTOR / _STEADY_INTERVAL)
        received, published = _fan_out(processes, contestant, 100, updates, _STEADY_INTERVAL)
        return {"p99": percentile([b - a for a, b in zip(published, received["arrived"], strict=True)], 99)}

    name = "fan-out to 100 subscribers"
    return Workload(name, _FAN_OUT, turn, (Figure(name, "p99", f"{name}, p99", "time"),))


def _memory_for(size: str, count: int) -> Workload:
    def turn(processes: Processes, contestant: Contestant, seconds: float) -> dict[str, float]:
        if not _memory.AVAILABLE:
            raise Cannot("only Linux reports the peak memory of a process")
        with Processes() as fresh:
            server = fresh.server(contestant).pid
            command = {"do": "memory", "server": server, "query": f"(til {count})", "expected": count}
            return _run(fresh, contestant, Placement.FREE, 0, **command)

    name = f"memory {size}"
    figures = (
        Figure(name, "server", f"memory of the server, {size} reply", "memory"),
        Figure(name, "client", f"memory of the client, {size} reply", "memory"),
    )
    return Workload(name, _MEMORY, turn, figures, fresh=True)


def _workloads() -> tuple[Workload, ...]:
    free, one, two = Placement.FREE, Placement.ONE_CORE, Placement.TWO_CORES
    small: dict[str, Any] = {"do": "ask", "query": SMALL, "expected": 3}
    replies = {"8 KB": 1_000, "0.8 MB": 100_000, "8 MB": 1_000_000, "80 MB": 10_000_000}
    uploads = {"0.8 MB": 100_000, "8 MB": 1_000_000}
    return (
        *(_one_at_a_time("round trip", placement, QUERIED, **small) for placement in (one, free)),
        _one_at_a_time("opening a connection", one, (OURS, ASYNCIO, ENGINE, PEER), do="open"),
        _in_flight(),
        _in_flight_from_one_task(),
        *(
            _one_at_a_time(f"reply {size}", placement, contestants, do="ask", query=f"(til {count})", expected=count)
            for placement, contestants in ((one, (*_REPLIES, PEER)), (two, _REPLIES))
            for size, count in replies.items()
            if placement is one or count > _SMALL_REPLY
        ),
        *(
            _one_at_a_time(f"upload {size}", placement, contestants, do="ask", upload=count, expected=count)
            for placement, contestants in ((one, (*_UPLOADS, PEER)), (two, _UPLOADS))
            for size, count in uploads.items()
        ),
        *map(_connections, (10, 100, 500)),
        _quiet(),
        _fast_fan_out(),
        _steady_fan_out(),
        *(_memory_for(size, replies[size]) for size in ("8 MB", "80 MB")),
    )


WORKLOADS = _workloads()
