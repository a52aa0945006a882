"""Frames that announce much and bring little: memory must not be taken before there is something to keep in it."""

import resource
import sys
from contextlib import suppress
from random import Random

from support.exchanges import waiting_exchange

from fuzzing.frames import BINARY, CONTINUATION, PING, TEXT, frame
from rayforce_trio._protocol import NATIVE_MAX_REPLY, Header, MessageType, ProtocolViolation
from rayforce_trio._protocol._frames import announced_size
from rayforce_trio._websocket import WebSocketViolation
from rayforce_trio._websocket._reader import FrameReader

_LIMIT = 1 << 30
_ALLOWED = 256 * 1024 * 1024  # bytes more than at the beginning: a huge page or three for each connection
_KEPT = 20  # connections at a time


class _Announcing:
    """Has some connections open at once, each with a message that was announced and has not come."""

    def __init__(self) -> None:
        self._open: list[object] = []
        self._peak = 0

    def check(self, data: bytes) -> None:
        random = Random(data)
        self._open.append(random.choice([_websocket, _websocket, _in_fragments, _native])(random))
        del self._open[:-_KEPT]
        if not self._peak:
            self._peak = _peak_memory()
        assert _peak_memory() <= self._peak + _ALLOWED, "memory was taken for what has not arrived"


check = _Announcing().check


def make(random: Random) -> bytes:
    """Return an input: a seed."""
    return random.randbytes(8)


def _websocket(random: Random) -> object:
    size = random.choice([_LIMIT, _LIMIT + 1, random.randint(1 << 20, _LIMIT), 1 << 62])
    return _received(frame(random.choice([TEXT, BINARY]), bytes(100), announced=size, fin=random.random() < 0.5))


def _in_fragments(random: Random) -> object:
    """Of a message that says by its beginning how long it will be."""
    header = Header(0, MessageType.SYNC, random.randint(1 << 20, 2 * _LIMIT)).pack()
    return _received(
        frame(BINARY, header[: random.randint(0, 16)], fin=False)
        + frame(CONTINUATION, header + bytes(100), fin=False)
        + frame(PING, b"")
        + frame(CONTINUATION, bytes(10), announced=random.randint(0, _LIMIT), fin=False)
    )


def _native(random: Random) -> object:
    exchange = waiting_exchange()
    size = random.choice([random.randint(1 << 20, NATIVE_MAX_REPLY), random.randint(1 << 20, 1 << 62)])
    exchange.receive_data(Header(0, MessageType.RESPONSE, size).pack() + bytes(100))
    with suppress(ProtocolViolation):
        exchange.next_event()
    return exchange


def _received(stream: bytes) -> FrameReader:
    receiver = FrameReader(masked=False, max_message_size=_LIMIT, max_text_size=_LIMIT, expected_size=announced_size)
    receiver.feed(stream)
    try:
        while receiver.next_event() is not None:
            pass
    except WebSocketViolation:
        pass
    return receiver


def _peak_memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
