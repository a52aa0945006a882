"""A load generator in its own process, the same for every server: `python -m bench._load`.

It speaks the baseline protocol over plain sockets, without a subprotocol, and sends frames that were masked in advance.
It decodes nothing; it compares the bytes of each reply with those of the first.
"""

import json
import os
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from math import ceil
from time import perf_counter, process_time, sleep
from typing import Any

from support import raw
from support.children import Cannot, Commander

from rayforce_trio._codec import encode
from rayforce_trio._protocol import SUBSCRIPTIONS, MessageType

from ._client import HOST, IN_FLIGHT, SMALL, RateMeter
from ._publishing import MESSAGE, TOPIC

_CHUNK = 65536
_TIMEOUT = 20.0  # seconds for one blocking call
_WARM_UP = 0.2  # of the duration of a turn
_OPENING_AT_ONCE = 50  # fewer than the backlog of any server
_PAUSE = 0.002  # seconds between a reply and the next request of a quiet client


def masked(payload: bytes) -> bytes:
    """Return a masked binary frame of fewer than 126 bytes."""
    mask = os.urandom(4)
    body = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return bytes([0x80 | raw.BINARY, 0x80 | len(payload)]) + mask + body


REQUEST = masked(encode(SMALL, MessageType.SYNC))
SUBSCRIBING = (
    raw.frame(raw.HELLO),
    raw.frame(json.dumps({"hello": {"features": [SUBSCRIPTIONS]}}).encode(), raw.TEXT),
    raw.frame(json.dumps({"subscribe": {"id": 1, "topic": TOPIC}}).encode(), raw.TEXT),
)
"""The messages that our subscriber sends after the opening handshake. The server answers each with a frame."""
FRAME_SIZE = len(raw.frame(MESSAGE, masked=False))


class Connection:
    """A WebSocket connection. Call `open` before anything else.

    Args:
        port: the server's port.
        subprotocol: the one to ask for; `None`: the baseline protocol.

    Attributes:
        socket: the blocking socket.
        reply: the frame with which the server answers `REQUEST`.
        sent_at: when the last request was sent, by `perf_counter`.
    """

    def __init__(self, port: int, subprotocol: str | None = None) -> None:
        self.socket = socket.create_connection((HOST, port), _TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(raw.upgrade({"Sec-WebSocket-Protocol": subprotocol}))
        self.reply = b""
        self._received = b""
        self.sent_at = 0.0

    def open(self) -> None:
        """Complete both handshakes, and check the reply to a request."""
        self._receive_head()
        self.socket.sendall(masked(raw.HELLO))
        if (hello := self._receive_frame()) != raw.frame(raw.HELLO_REPLY, masked=False):
            raise ConnectionError(f"not a Rayforce server: {hello!r}")
        self.socket.sendall(REQUEST)
        self.reply = self._receive_frame()
        if int.from_bytes(self.reply[-8:], "little") != 3:
            raise ConnectionError(f"wrong reply: {self.reply!r}")

    def subscribe(self, messages: tuple[bytes, ...]) -> None:
        """Complete the opening handshake, and send messages that are answered with one frame each."""
        self._receive_head()
        for message in messages:
            self.socket.sendall(message)
            self._receive_frame()

    def ask(self) -> None:
        """Send a request."""
        self.sent_at = perf_counter()
        self.socket.send(REQUEST)

    def answered(self) -> bool:
        """Receive bytes. Returns whether the reply is complete."""
        self._received += self.receive()
        if self._received == self.reply:
            self._received = b""
            return True
        if self.reply.startswith(self._received):
            return False
        raise ConnectionError(f"wrong reply: {self._received!r}")

    def receive(self) -> bytes:
        """Return the bytes that have arrived. Raises `ConnectionError` at the end of the stream."""
        data = self.socket.recv(_CHUNK)
        if not data:
            raise ConnectionError("the server closed the connection")
        return data

    def _receive_head(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.receive()

    def _receive_frame(self) -> bytes:
        """Return a frame whose payload is shorter than 126 bytes."""
        frame = b""
        while len(frame) < 2 or len(frame) < 2 + frame[1]:
            frame += self.receive()
        return frame


@contextmanager
def connections(
    port: int, count: int, subprotocol: str | None = None, begin: Callable[[Connection], None] = Connection.open
) -> Iterator[list[Connection]]:
    """Open connections, and call `begin` with each. They are closed at the end of the context."""
    with ExitStack() as stack:
        opened: list[Connection] = []
        while len(opened) < count:
            opening = [Connection(port, subprotocol) for _ in range(min(_OPENING_AT_ONCE, count - len(opened)))]
            for connection in opening:
                stack.enter_context(connection.socket)
            for connection in opening:
                begin(connection)
            opened += opening
        yield opened


def percentile(values: list[float], percent: int) -> float:
    """Return the smallest value that `percent` of all values do not exceed."""
    return sorted(values)[ceil(len(values) * percent / 100) - 1]


def load(command: dict[str, Any]) -> dict[str, float]:
    """Keep one request in flight on each of many connections.

    Returns:
        `rate`, in replies per second; `p99`, the 99th percentile of the response times, in seconds; and `busy`, the
        share of the time in which this process used its core. If `busy` is near 1, the load generator is the limit.
    """
    if not hasattr(select, "epoll"):
        raise Cannot("the load generator needs epoll, which only Linux has")
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
    """Send a request on each connection whose reply has arrived, for some seconds. Returns the response times."""
    times: list[float] = []
    end = perf_counter() + seconds
    while perf_counter() < end or not times:
        ready = poll.poll(_TIMEOUT)
        if not ready:
            raise TimeoutError(f"no reply within {_TIMEOUT:g} seconds")
        for descriptor, _ in ready:
            connection = by_descriptor[descriptor]
            if connection.answered():
                times.append(perf_counter() - connection.sent_at)
                connection.ask()
    return times


def flood(command: dict[str, Any], commander: Commander) -> dict[str, float]:
    """Keep `IN_FLIGHT` requests in flight on one connection. Tells the parent process when the first are sent.

    Returns:
        `rate`, in replies per second.
    """
    with connections(command["port"], 1) as (connection,):
        reply_size = len(connection.reply)
        connection.socket.sendall(REQUEST * IN_FLIGHT)
        commander.tell({"started": True})
        meter, received = RateMeter(command["seconds"]), 0
        while not meter.done:
            received += len(connection.receive())
            replies, received = divmod(received, reply_size)
            connection.socket.sendall(REQUEST * replies)
            meter.count(replies)
        while received < IN_FLIGHT * reply_size:
            received += len(connection.receive())
    return {"rate": meter.rate}


def quiet(command: dict[str, Any], commander: Commander) -> dict[str, float]:
    """Connect, tell the parent process, wait for its next command, then send a request every few milliseconds.

    Returns:
        `p99` and `p50`, the 99th percentile and the median of the response times, in seconds.
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


def subscribe(command: dict[str, Any], commander: Commander) -> dict[str, Any]:
    """Play all subscribers of a topic. Tells the parent process when they have subscribed.

    Returns:
        `arrived`, when the last subscriber had each update, by `perf_counter`; and `busy` as `load` does, from the
        first byte to the last.
    """
    if not hasattr(select, "epoll"):
        raise Cannot("the load generator needs epoll, which only Linux has")
    count, updates = command["connections"], command["updates"]
    messages = SUBSCRIBING if command["subscribes"] else ()
    opened = connections(command["port"], count, raw.SUBPROTOCOL, lambda connection: connection.subscribe(messages))
    with opened as subscribers, select.epoll() as poll:
        received = {subscriber.socket.fileno(): 0 for subscriber in subscribers}
        receive = {subscriber.socket.fileno(): subscriber.socket.recv_into for subscriber in subscribers}
        for descriptor in received:
            poll.register(descriptor, select.EPOLLIN)
        commander.tell({"subscribed": True})
        buffer, missing, arrived = bytearray(_CHUNK), [count] * updates, [0.0] * updates
        ready = poll.poll(_TIMEOUT)
        start, busy_before = perf_counter(), process_time()
        while missing[-1]:
            if not ready:
                raise TimeoutError(f"no update within {_TIMEOUT:g} seconds")
            for descriptor, _ in ready:
                before = received[descriptor]
                after = received[descriptor] = before + receive[descriptor](buffer)
                if after == before:
                    raise ConnectionError("the server closed a connection")
                for update in range(before // FRAME_SIZE, after // FRAME_SIZE):
                    missing[update] -= 1
                    if not missing[update]:
                        arrived[update] = perf_counter()
            ready = poll.poll(_TIMEOUT) if missing[-1] else []
        return {"arrived": arrived, "busy": (process_time() - busy_before) / (perf_counter() - start)}


def run_commands() -> None:
    """Run the commands of the standard input until it ends."""
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
                case "subscribe":
                    answer = subscribe(command, commander)
        except Exception as error:  # noqa: BLE001 - the parent process reports the error
            commander.tell_failure(error)
        else:
            commander.tell(answer)


if __name__ == "__main__":
    run_commands()
