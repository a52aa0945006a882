"""Keepalive: its arithmetic on a virtual clock, and its effect on real sockets."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest
import trio
from support.raw import BINARY, PING, PONG, RawPeer, accept_raw, frame, open_raw, raw_server
from trio.testing import MockClock

from rayforce_trio import WSClient, WSServer
from rayforce_trio._codec import decode, encode
from rayforce_trio._protocol import MessageType, Result, string_frame
from rayforce_trio._transports import KeepAlive
from rayforce_trio.errors import ConnectionLost, RayforceValueError

# The arithmetic: times are seconds of a virtual clock that begins at 0, so they are exact.


class Watched:
    """A peer under `KeepAlive`: when it was pinged, and when it last showed life."""

    def __init__(self, interval: float | None = 60.0, timeout: float | None = 30.0) -> None:
        self.keepalive = KeepAlive(interval, timeout)
        self.life = trio.current_time()
        self.pings: list[float] = []
        self.listening = True

    def ping(self) -> None:
        self.pings.append(trio.current_time())

    def live(self) -> None:
        self.life = trio.current_time()

    async def live_at(self, *times: float) -> None:
        for time in times:
            await trio.sleep_until(time)
            self.live()

    async def run(self, ping: Callable[[], None] | None = None) -> None:
        await self.keepalive.run(lambda: self.life, ping or self.ping, lambda: self.listening)

    async def run_until(self, end: float, *times_of_life: float) -> None:
        """Keep the peer, which shows life at the given times, under watch until `end`."""
        with trio.move_on_at(end):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.live_at, *times_of_life)
                await self.run()


@pytest.mark.trio
async def test_a_silent_peer_is_pinged_after_60_seconds_and_lost_30_later(autojump_clock: MockClock) -> None:
    """And one more, in which a loop that was blocked could catch up."""
    peer = Watched()
    with pytest.raises(ConnectionLost, match="the peer has not answered a ping within 30 seconds"):
        await peer.run()
    assert peer.pings == [60]
    assert trio.current_time() == 91


@pytest.mark.trio
async def test_a_peer_that_answers_is_pinged_60_seconds_later_again(autojump_clock: MockClock) -> None:
    peer = Watched()
    await peer.run_until(200, 65, 130)
    assert peer.pings == [60, 125, 190]


@pytest.mark.trio
async def test_a_peer_that_is_heard_often_is_not_pinged(autojump_clock: MockClock) -> None:
    peer = Watched()
    await peer.run_until(1000, *range(0, 1000, 59))
    assert peer.pings == []


@pytest.mark.trio
async def test_the_silence_counts_from_the_last_sign_of_life(autojump_clock: MockClock) -> None:
    peer = Watched()
    await peer.run_until(110, 50)
    assert peer.pings == []
    await peer.run_until(111)
    assert peer.pings == [110]


@pytest.mark.trio
async def test_without_an_interval_nobody_is_pinged(autojump_clock: MockClock) -> None:
    peer = Watched(interval=None)
    await peer.run_until(10_000)
    assert peer.pings == []


@pytest.mark.trio
async def test_without_a_timeout_nobody_is_lost(autojump_clock: MockClock) -> None:
    peer = Watched(timeout=None)
    await peer.run_until(250)
    assert peer.pings == [60, 120, 180, 240]


@pytest.mark.trio
async def test_a_message_that_makes_its_way_is_life_although_no_pong_arrives(autojump_clock: MockClock) -> None:
    peer = Watched()
    with trio.move_on_at(1000) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.live_at, *range(70, 1000, 80))
            await peer.run()
    assert scope.cancelled_caught


@pytest.mark.trio
async def test_a_blocked_loop_is_not_held_against_the_peer(autojump_clock: MockClock) -> None:
    """The answer lay unread while the loop was blocked; it is read just after."""
    peer = Watched()

    async def block() -> None:
        await trio.sleep_until(70)
        autojump_clock.jump(500)
        await trio.sleep(0.5)
        peer.live()

    with trio.move_on_at(600) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(block)
            await peer.run()
    assert scope.cancelled_caught
    assert peer.pings == [60]


@pytest.mark.trio
async def test_a_peer_that_is_not_listened_to_is_pinged_and_not_lost(autojump_clock: MockClock) -> None:
    peer = Watched()
    peer.listening = False
    await peer.run_until(250)
    assert peer.pings == [60, 120, 180, 240]


@pytest.mark.trio
async def test_a_ping_that_fails_ends_the_watch(autojump_clock: MockClock) -> None:
    def fail() -> None:
        raise ConnectionLost("broken")

    with pytest.raises(ConnectionLost, match="broken"):
        await Watched().run(fail)
    assert trio.current_time() == 60


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_seconds_that_make_no_sense_are_refused(seconds: float) -> None:
    with pytest.raises(
        RayforceValueError, match=r"Invalid ping_interval: .*\. Must be a number of seconds above 0, or None"
    ):
        KeepAlive(seconds, 30)
    with pytest.raises(
        RayforceValueError, match=r"Invalid ping_timeout: .*\. Must be a number of seconds above 0, or None"
    ):
        KeepAlive(60, seconds)


# The effect on real sockets

QUICK: dict[str, Any] = {"ping_interval": 0.1, "ping_timeout": 0.1}

# What the network's buffers hold is under way unseen; they have to be worked off within these.
PATIENT: dict[str, Any] = {"ping_interval": 1, "ping_timeout": 1}
LARGE = string_frame("x" * 20_000_000)
LARGE_QUERY = encode("(til 2500000)", MessageType.SYNC)  # answered with 20 MB
PIECE = 256 * 1024
PAUSE = 0.03  # seconds between the pieces: 20 MB take more than twice what a silent peer has


async def send_slowly(peer: RawPeer, data: bytes) -> None:
    for start in range(0, len(data), PIECE):
        await peer.send(data[start : start + PIECE])
        await anyio.sleep(PAUSE)


async def receive_message(peer: RawPeer, *, pause: float = 0) -> bytes:
    """Return the next binary message, though it comes in fragments, and pings between them."""
    message = bytearray()
    peer.pause = pause
    while True:
        opcode, payload = await peer.receive_frame()
        if opcode != PING:
            message += payload
            if peer.fin:
                return bytes(message)


@pytest.mark.trio
async def test_the_server_drops_a_frozen_client() -> None:
    with trio.fail_after(10):
        async with WSServer(0, host="127.0.0.1", **QUICK) as server:
            with await open_raw(server.port) as peer:
                assert (await peer.receive_frame())[0] == PING
                await peer.receive_rest()


@pytest.mark.timing
@pytest.mark.trio
async def test_the_server_keeps_a_client_that_answers() -> None:
    with trio.fail_after(20):
        async with WSServer(0, host="127.0.0.1", **QUICK) as server:
            with await open_raw(server.port) as peer:
                for _ in range(15):
                    opcode, payload = await peer.receive_frame()
                    assert opcode == PING
                    await peer.send_frame(payload, PONG)


@pytest.mark.timing
@pytest.mark.trio
async def test_the_server_keeps_a_client_that_sends_a_large_message_slowly() -> None:
    with trio.fail_after(30):
        async with WSServer(0, host="127.0.0.1", **QUICK) as server:
            with await open_raw(server.port, subprotocol=None) as peer:
                await send_slowly(peer, frame(LARGE))
                while (message := await peer.receive_frame())[0] == PING:
                    pass
                assert message[0] == BINARY


@pytest.mark.timing
@pytest.mark.trio
async def test_the_server_keeps_a_client_that_takes_a_large_message_slowly() -> None:
    with trio.fail_after(30):
        async with WSServer(0, host="127.0.0.1", **QUICK) as server:
            with await open_raw(server.port, receive_buffer=PIECE) as peer:
                await peer.send_frame(LARGE_QUERY)
                assert len(decode(Result(await receive_message(peer, pause=PAUSE)))) == 2_500_000


@pytest.mark.anyio
async def test_the_client_drops_a_frozen_server() -> None:
    async def freeze(peer: RawPeer) -> None:
        await accept_raw(peer)
        await anyio.sleep_forever()

    with anyio.fail_after(10):
        async with raw_server(freeze) as port, WSClient("127.0.0.1", port, **QUICK).connect() as connection:
            with pytest.raises(ConnectionLost, match=r"the peer has not answered a ping within 0\.1 seconds"):
                await connection.execute("(+ 1 2)")
            assert type(connection.closed) is ConnectionLost


@pytest.mark.timing
@pytest.mark.anyio
async def test_the_client_keeps_a_server_that_answers() -> None:
    async def answer(peer: RawPeer) -> None:
        await accept_raw(peer)
        for _ in range(15):
            opcode, payload = await peer.receive_frame()
            assert opcode == PING
            await peer.send_frame(payload, PONG)
        answered.set()
        with suppress(EOFError):
            await peer.send_close(await peer.receive_close())

    answered = anyio.Event()
    with anyio.fail_after(20):
        async with raw_server(answer) as port, WSClient("127.0.0.1", port, **QUICK).connect() as connection:
            await answered.wait()
            assert connection.closed is False


@pytest.mark.timing
@pytest.mark.anyio
async def test_the_client_keeps_a_server_that_sends_a_large_reply_slowly() -> None:
    async def reply_slowly(peer: RawPeer) -> None:
        await accept_raw(peer)
        await peer.receive_frame()
        await send_slowly(peer, frame(LARGE, masked=False))
        await peer.send_close(await peer.receive_close())

    with anyio.fail_after(30):
        async with raw_server(reply_slowly) as port, WSClient("127.0.0.1", port, **QUICK).connect() as connection:
            assert len((await connection.execute("(+ 1 2)")).to_python()) == 20_000_000


@pytest.mark.timing
@pytest.mark.anyio
async def test_the_client_keeps_a_server_that_takes_a_large_query_slowly() -> None:
    async def take_slowly(peer: RawPeer) -> None:
        await accept_raw(peer)
        assert len(await receive_message(peer, pause=PAUSE)) > 40_000_000
        await peer.send_frame(string_frame("taken"))
        await peer.send_close(await peer.receive_close())

    with anyio.fail_after(30):
        async with raw_server(take_slowly) as port, WSClient("127.0.0.1", port, **PATIENT).connect() as connection:
            reply = await connection.execute(f'(count "{"x" * 40_000_000}")')
            assert reply.to_python() == "taken"
