"""What the contestants are asked to do."""

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

from support.children import Cannot

from . import _memory
from ._client import SMALL
from ._contestants import ASYNCIO, CONTESTANTS, ENGINE, NATIVE, OURS, PEER, RAW, READ_ONLY, Arena, Contestant
from ._results import Figure

TimeSlice: TypeAlias = Callable[[Arena, Contestant, float], dict[str, float]]
"""Takes the contestant whose turn it is, and how many seconds to measure; returns figures. Raises `Failed`."""

_PATIENCE = 60.0  # with one turn, beyond the time it measures; in seconds
_MARGIN = 0.5  # for which a flood goes on longer than who suffers from it; in seconds
_MANY_FACTOR = 2  # longer than other turns: many requests come in waves at first
_QUIET_FACTOR = 4  # longer than other turns: the peer answers a quiet client seldom

_TALKERS = (OURS, ASYNCIO, ENGINE, PEER, NATIVE)
_SERVERS = (OURS, ENGINE, PEER)


@dataclass(frozen=True)
class Workload:
    """Something to do, again and again, by several contestants in turns.

    Attributes:
        name: what it is called.
        contestants: who takes part.
        turn: what each does in its turn.
        figures: what it measures.
        is_fresh: each turn has processes of its own, so that there is no first round to drop, and few are enough.
    """

    name: str
    contestants: tuple[Contestant, ...]
    turn: TimeSlice
    figures: tuple[Figure, ...]
    is_fresh: bool = False


def _tell(arena: Arena, contestant: Contestant, seconds: float, **command: Any) -> dict[str, float]:
    """Have the contestant's client do something."""
    server, client = arena.server(contestant), arena.client(contestant)
    client.say(port=server.port, seconds=seconds, **command)
    return client.answer(_PATIENCE + seconds)


def _asking(
    name: str, contestants: tuple[Contestant, ...] = _TALKERS, *, pinned: bool = False, **command: Any
) -> Workload:
    """One request after the other."""

    def turn(arena: Arena, contestant: Contestant, seconds: float) -> dict[str, float]:
        if pinned and not hasattr(os, "sched_setaffinity"):
            raise Cannot("a choice of cores: this system has none")
        with arena.on_one_core(contestant) if pinned else nullcontext():
            return _tell(arena, contestant, seconds, do="ask", **command)

    return Workload(name, contestants, turn, (Figure(name, "time", name, "time"),))


def _opening() -> Workload:
    name = "opening a connection"

    def turn(arena: Arena, contestant: Contestant, seconds: float) -> dict[str, float]:
        with arena.on_one_core(contestant):
            return _tell(arena, contestant, seconds, do="open")

    return Workload(name, (OURS, ASYNCIO, PEER), turn, (Figure(name, "time", name, "time"),))


def _in_flight() -> Workload:
    def turn(arena: Arena, contestant: Contestant, seconds: float) -> dict[str, float]:
        return _tell(arena, contestant, seconds * _MANY_FACTOR, do="flood", query=SMALL, expected=3)

    name = "in flight"
    return Workload(name, CONTESTANTS, turn, (Figure(name, "rate", "requests in flight", "rate"),))


def _flooded() -> Workload:
    def turn(arena: Arena, contestant: Contestant, seconds: float) -> dict[str, float]:
        if contestant is RAW:
            return _tell(arena, contestant, seconds * _MANY_FACTOR, do="flood", query=SMALL, expected=3)
        port, generator = arena.server(contestant).port, arena.load_generator("load")
        generator.say(do="flood", port=port, seconds=seconds * _MANY_FACTOR)
        generator.answer(_PATIENCE)
        return generator.answer(_PATIENCE + seconds)

    name = "in flight, from one task"
    return Workload(
        name, (*_SERVERS, READ_ONLY, RAW), turn, (Figure(name, "rate", "requests in flight, from one task", "rate"),)
    )


def _connections(count: int) -> Workload:
    def turn(arena: Arena, contestant: Contestant, seconds: float) -> dict[str, float]:
        server, generator = arena.server(contestant), arena.load_generator("load")
        generator.say(do="load", port=server.port, connections=count, seconds=seconds * _MANY_FACTOR)
        return generator.answer(_PATIENCE + seconds)

    name = f"{count} connections"
    figures = (
        Figure(name, "rate", name, "rate"),
        Figure(name, "p99", f"{name}, p99", "time"),
        Figure(name, "busy", f"{name}, load generator busy", "share"),
    )
    return Workload(name, _SERVERS, turn, figures)


def _quiet() -> Workload:
    def turn(arena: Arena, contestant: Contestant, seconds: float) -> dict[str, float]:
        seconds *= _QUIET_FACTOR
        port = arena.server(contestant).port
        flooding, quiet = arena.load_generator("flooding load"), arena.load_generator("quiet load")
        quiet.say(do="quiet", port=port, seconds=seconds)
        quiet.answer(_PATIENCE)
        flooding.say(do="flood", port=port, seconds=seconds + _MARGIN)
        flooding.answer(_PATIENCE)
        quiet.say(do="begin")
        figures = quiet.answer(_PATIENCE + seconds)
        return figures | flooding.answer(_PATIENCE + seconds)

    name = "quiet beside a flood"
    figures = (
        Figure(name, "p99", "quiet client beside a flood, p99", "time"),
        Figure(name, "p50", "quiet client beside a flood, median", "time"),
        Figure(name, "rate", "the flood meanwhile", "rate"),
    )
    return Workload(name, _SERVERS, turn, figures)


def _memory_of(size: str, count: int) -> Workload:
    def turn(arena: Arena, contestant: Contestant, seconds: float) -> dict[str, float]:
        if not _memory.AVAILABLE:
            raise Cannot("peak memory of a process: that is Linux's")
        with Arena() as fresh:
            server = fresh.server(contestant).pid
            return _tell(fresh, contestant, 0, do="memory", server=server, query=f"(til {count})", expected=count)

    name = f"memory {size}"
    figures = (
        Figure(name, "server", f"memory of the server, {size} reply", "memory"),
        Figure(name, "client", f"memory of the client, {size} reply", "memory"),
    )
    return Workload(name, _TALKERS, turn, figures, is_fresh=True)


def _workloads() -> tuple[Workload, ...]:
    round_trip: dict[str, Any] = {"query": SMALL, "expected": 3}
    replies = {"8 KB": 1_000, "0.8 MB": 100_000, "8 MB": 1_000_000, "80 MB": 10_000_000}
    uploads = {"0.8 MB": 100_000, "8 MB": 1_000_000}
    return (
        _asking("round trip, one core", CONTESTANTS, pinned=True, **round_trip),
        _asking("round trip, free", CONTESTANTS, **round_trip),
        _opening(),
        _in_flight(),
        _flooded(),
        *(_asking(f"reply {size}", query=f"(til {count})", expected=count) for size, count in replies.items()),
        *(_asking(f"upload {size}", upload=count, expected=count) for size, count in uploads.items()),
        *map(_connections, (10, 100, 500)),
        _quiet(),
        *(_memory_of(size, replies[size]) for size in ("8 MB", "80 MB")),
    )


WORKLOADS = _workloads()
