"""A load generator in a process of its own, the same for every server: `python -m bench._load`.

It speaks plain WebSocket over non-blocking sockets: the baseline protocol, no subprotocol, masked frames made
beforehand. It decodes nothing; that a reply is the right one shows in its bytes.
"""

import os
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import ceil
from time import perf_counter, process_time, sleep
from typing import Any

from support import raw
from support.children import Cannot, Commander

from rayforce_trio._codec import encode
from rayforce_trio._protocol import MessageType

from ._client import HOST, IN_FLIGHT, SMALL, Meter

_CHUNK = 65536
_TIMEOUT = 20.0  # for one blocking call
_WARM_UP = 0.2  # of the time of a turn
_OPENING_AT_ONCE = 50  # fewer than any server lets wait to be accepted
_PAUSE = 0.002  # of a quiet client, between a reply and the next request; in seconds


def masked(payload: bytes) -> bytes:
    """Return a short binary frame as a client sends it."""
    mask = os.urandom(4)
    body = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return bytes([0x80 | raw.BINARY, 0x80 | len(payload)]) + mask + body


REQUEST = masked(encode(SMALL, MessageType.SYNC))


class Connection:
    """An open connection; it has shaken hands, and has had its first reply.

    Attributes:
        socket: not blocking yet.
        reply: what the server answers to `REQUEST`, each time.
    """

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((HOST, port), _TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(raw.upgrade())
        self.reply = b""
        self.received = b""
        self.sent_at = 0.0

    def open(self) -> None:
        """Shake hands, and check the reply to a request."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.receive()
        self.socket.sendall(masked(raw.HELLO))
        if (hello := self._receive_frame()) != raw.frame(raw.HELLO_REPLY, masked=False):
            raise ConnectionError(f"not a Rayforce server: {hello!r}")
        self.socket.sendall(REQUEST)
        self.reply = self._receive_frame()
        if int.from_bytes(self.reply[-8:], "little") != 3:
            raise ConnectionError(f"wrong answer: {self.reply!r}")

    def ask(self) -> None:
        self.sent_at = perf_counter()
        self.socket.send(REQUEST)

    def answered(self) -> bool:
        """Read; whether the reply is there."""
        self.received += self.receive()
        if self.received == self.reply:
            self.received = b""
            return True
        if self.reply.startswith(self.received):
            return False
        raise ConnectionError(f"wrong answer: {self.received!r}")

    def receive(self) -> bytes:
        data = self.socket.recv(_CHUNK)
        if not data:
            raise ConnectionError("the server closed the connection")
        return data

    def _receive_frame(self) -> bytes:
        """Return a frame with less than 126 bytes in it."""
        frame = b""
        while len(frame) < 2 or len(frame) < 2 + frame[1]:
            frame += self.receive()
        return frame


@contextmanager
def connections(port: int, count: int) -> Iterator[list[Connection]]:
    """Open so many connections; they are closed in the end."""
    with ExitStack() as stack:
        opened: list[Connection] = []
        while len(opened) < count:
            opening = [Connection(port) for _ in range(min(_OPENING_AT_ONCE, count - len(opened)))]
            for connection in opening:
                stack.enter_context(connection.socket)
            for connection in opening:
                connection.open()
            opened += opening
        yield opened


def percentile(values: list[float], percent: int) -> float:
    """Return the value that so many of a hundred do not exceed."""
    return sorted(values)[ceil(len(values) * percent / 100) - 1]


def load(command: dict[str, Any]) -> dict[str, float]:
    """Keep one request in flight on each of many connections.

    Returns:
        How many were answered a second, the 99th percentile of their times in seconds, and the share of its time that
        this process was busy: near 1, and it is the load generator that was measured.
    """
    if not hasattr(select, "epoll"):
        raise Cannot("the load generator's epoll: it is Linux's")
    with connections(command["port"], command["connections"]) as opened, select.epoll() as poll:
        by_descriptor = {connection.socket.fileno(): connection for connection in opened}
        for descriptor, connection in by_descriptor.items():
            connection.socket.setblocking(False)
            poll.register(descriptor, select.EPOLLIN)
            connection.ask()
        _drive(poll, by_descriptor, command["seconds"] * _WARM_UP)
        before, busy_before = perf_counter(), process_time()
        times = _drive(poll, by_descriptor, command["seconds"])
        seconds = perf_counter() - before
        busy = process_time() - busy_before
    return {"rate": len(times) / seconds, "p99": percentile(times, 99), "busy": busy / seconds}


def _drive(poll: select.epoll, by_descriptor: dict[int, Connection], seconds: float) -> list[float]:
    """Ask again wherever a reply comes, for so long; returns how long each took."""
    times: list[float] = []
    end = perf_counter() + seconds
    while perf_counter() < end or not times:
        ready = poll.poll(_TIMEOUT)
        if not ready:
            raise TimeoutError("no reply")
        for descriptor, _ in ready:
            connection = by_descriptor[descriptor]
            if connection.answered():
                times.append(perf_counter() - connection.sent_at)
                connection.ask()
    return times


def flood(command: dict[str, Any], commander: Commander) -> dict[str, float]:
    """Keep `IN_FLIGHT` requests in flight on one connection; says when it begins. How many were answered a second."""
    with connections(command["port"], 1) as (connection,):
        reply_size = len(connection.reply)
        connection.socket.sendall(REQUEST * IN_FLIGHT)
        commander.tell({"begun": True})
        meter, received = Meter(command["seconds"]), 0
        while not meter.is_over:
            received += len(connection.receive())
            replies, received = divmod(received, reply_size)
            connection.socket.sendall(REQUEST * replies)
            meter.count(replies)
        while received < IN_FLIGHT * reply_size:
            received += len(connection.receive())
    return {"rate": meter.rate}


def quiet(command: dict[str, Any], commander: Commander) -> dict[str, float]:
    """Connect, say so, and wait for the next command: begin. Then ask now and then.

    Returns:
        The 99th percentile and the median of the times, in seconds.
    """
    with connections(command["port"], 1) as (connection,):
        commander.tell({"connected": True})
        commander.next()
        times: list[float] = []
        end = perf_counter() + command["seconds"]
        while perf_counter() < end:
            connection.ask()
            while not connection.answered():
                pass
            times.append(perf_counter() - connection.sent_at)
            sleep(_PAUSE)
    return {"p99": percentile(times, 99), "p50": percentile(times, 50)}


def obey() -> None:
    """Do what the standard input says, until it ends."""
    commander = Commander()
    while (command := commander.next()) is not None:
        try:
            match command["do"]:
                case "load":
                    answer = load(command)
                case "flood":
                    answer = flood(command, commander)
                case "quiet":
                    answer = quiet(command, commander)
        except Exception as error:  # noqa: BLE001 - whatever went wrong is told
            commander.tell_failure(error)
        else:
            commander.tell(answer)


if __name__ == "__main__":
    obey()
