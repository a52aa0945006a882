import socket
from math import inf

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from rayforce_trio._streams._trio_tcp import TrioTcpStream
from rayforce_trio._transports import KeepAlive
from rayforce_trio._transports._websocket import WebSocketTransport
from rayforce_trio._transports._write_rate import MIN_RATE, WriteRate
from rayforce_trio.errors import ConnectionLost

TIMEOUT = 30.0


@pytest.mark.parametrize(
    ("waits", "left"),
    [
        ([], 30.0),
        ([(29.0, 0)], 1.0),
        ([(29.0, 1)], pytest.approx(1.0, abs=0.001)),
        ([(10.0, 0), (10.0, 0)], 10.0),
        ([(10.0, 10 * MIN_RATE)], 30.0),
        ([(10.0, 4 * MIN_RATE)], 24.0),
        ([(1.0, 1000 * MIN_RATE), (29.0, 0)], 1.0),  # what was taken before gives no more than the whole time
    ],
)
def test_waiting_uses_up_time_and_taken_bytes_give_it_back(waits: list[tuple[float, int]], left: float) -> None:
    rate, now, taken = WriteRate(TIMEOUT), 1000.0, 0
    for waited, taken_then in waits:
        rate.wait(now, taken)
        now += waited
        rate.resume(now)
        taken = taken_then
        now += 500.0  # nothing waits meanwhile
    assert rate.wait(now, taken) - now == left


def test_without_a_timeout_there_is_any_time() -> None:
    rate = WriteRate(inf)
    assert rate.wait(0.0, 0) == inf
    rate.resume(1e9)
    assert rate.wait(1e9, 0) == inf


def served(rate: float, step: float, seconds: float) -> float:
    """Return for how long a peer is served that takes `rate` bytes a second, noticed every `step` seconds."""
    write_rate, now, taken = WriteRate(TIMEOUT), 0.0, 0
    while now < seconds:
        deadline = write_rate.wait(now, taken)
        if now + step >= deadline:
            return deadline
        now += step
        write_rate.resume(now)
        taken = int(rate * step)
    return now


@given(st.floats(1.1, 100.0), st.floats(0.01, 25.0))
def test_a_peer_above_the_rate_is_served(factor: float, step: float) -> None:
    assert served(factor * MIN_RATE, step, 1000.0) >= 1000.0


@given(st.floats(0.0, 0.9), st.floats(0.01, 25.0))
def test_a_peer_below_the_rate_is_cut(factor: float, step: float) -> None:
    assert served(factor * MIN_RATE, step, 1000.0) <= TIMEOUT / (1 - factor) + 2 * step


class TricklingStream(TrioTcpStream):
    """The peer of this stream takes `size` bytes every `pause` seconds."""

    def __init__(self, sock: socket.socket, size: int, pause: float) -> None:
        super().__init__(sock)
        self._size = self._room = size
        self._pause = pause

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        count = min(len(data), self._room)
        self._room -= count
        return count

    async def wait_writable(self) -> None:
        await trio.sleep(self._pause)
        self._room = self._size


@pytest.mark.trio
@pytest.mark.parametrize("part", [20_000, 300_000, 10_000_000])
@pytest.mark.parametrize("pause", [0.5, 5.0, 29.0])
@pytest.mark.parametrize("factor", [0.0001, 0.5, 2.0])
async def test_a_trickling_reader_is_cut_however_its_reply_is_divided(
    autojump_clock: trio.testing.MockClock, part: int, pause: float, factor: float
) -> None:
    """The time does not begin anew with each byte, nor with each part of a reply."""
    ours, theirs = socket.socketpair()
    with theirs:
        stream = TricklingStream(ours, max(1, int(factor * MIN_RATE * pause)), pause)
        transport = WebSocketTransport(
            stream,
            client=False,
            leftover=b"",
            subprotocol=None,
            peer="",
            max_message_size=1,
            keepalive=KeepAlive(None, None),
            write_timeout=TIMEOUT,
        )
        started, error = trio.current_time(), None
        try:
            for _ in range(20_000_000 // part):
                await transport.send_part(bytes(part), last=False)
        except ConnectionLost as lost:
            error = str(lost)
        transport.abort()
    if factor > 1:
        assert error is None
    else:
        assert error == "the peer has read less than 16 KiB per second for 30 seconds"
        assert trio.current_time() - started <= 2 * TIMEOUT + pause
