"""Hostile and broken peers: whatever one of them sends, or stops sending, ends at most its own connection."""

import gc
import logging
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from support.engines import GateEngine
from support.leaks import descriptors
from support.raw import (
    BINARY,
    CLOSE,
    CONTINUATION,
    HELLO,
    HELLO_REPLY,
    PING,
    PONG,
    TEXT,
    RawPeer,
    accept_raw,
    close_frame,
    connect_raw,
    frame,
    open_raw,
    raw_server,
    response,
    upgrade,
    upgraded,
)

from rayforce_trio import InProcessEngine, WSClient, WSClientConnection, WSServer
from rayforce_trio._codec import decode, encode
from rayforce_trio._engines import Session
from rayforce_trio._protocol import Failure, Frame, MessageType, Reply, Result, is_null, string_frame
from rayforce_trio._transports._base import BODY_LIMIT
from rayforce_trio.errors import (
    ConnectError,
    ConnectionClosed,
    ConnectionLost,
    ConnectionRejected,
    HandshakeError,
    MessageTooLarge,
    ProtocolError,
    RayforceConversionError,
    RayforceWSError,
)

pytestmark = pytest.mark.usefixtures("each_engine")

QUERY = encode("(+ 1 2)", MessageType.SYNC)
OTHER_QUERY = encode("(+ 2 2)", MessageType.SYNC)
POST = encode("(+ 1 2)", MessageType.ASYNC)
COMPRESSED = 1
BIG = 104_000_000  # bytes of the reply to BIG_QUERY
BIG_QUERY = encode("(til 13000000)", MessageType.SYNC)
EIGHT_GB = 8 * 1024**3
SHORT = 0.5
"""How long a peer may take to open its connection, or to read on, where it does not; in seconds."""

CLIENT_PROGRAM = """
import sys
import trio
from rayforce_trio import WSClient

async def main():
    async with WSClient("127.0.0.1", int(sys.argv[1])).connect() as connection:
        print(await connection.execute("(+ 1 2)"), flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@pytest.fixture(autouse=True)
def _no_internal_error(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No peer can make this package log a bug of its own."""
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.fixture
def short_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait but shortly for a peer that does not close."""
    monkeypatch.setattr("rayforce_trio._transports._trio_websocket.CLOSE_TIMEOUT", 0.3)


# The server


class Siege:
    """A server, and the peers it has to survive."""

    def __init__(self, port: int, peers: ExitStack) -> None:
        self.port = port
        self._idle = len(descriptors())
        self._peers = peers
        self._sockets: list[RawPeer] = []

    def connect(self) -> RawPeer:
        return self._with(connect_raw(self.port))

    async def open(self, *, receive_buffer: int | None = None, hello: bool = True, baseline: bool = False) -> RawPeer:
        subprotocol = None if baseline else "rayforce.v1"
        return self._with(
            await open_raw(self.port, subprotocol=subprotocol, hello=hello, receive_buffer=receive_buffer)
        )

    def _with(self, peer: RawPeer) -> RawPeer:
        self._sockets.append(self._peers.enter_context(peer))
        return peer

    async def bystander_is_served(self) -> None:
        with trio.fail_after(8):
            async with WSClient("127.0.0.1", self.port).connect() as bystander:
                assert await bystander.execute("(+ 1 2)") == 3

    async def server_is_rid_of_them(self, *, within: float = 2.0) -> None:
        """Wait until the server has none of the peers' sockets any more, even if the peers keep theirs."""
        held = sum(peer.socket.fileno() >= 0 for peer in self._sockets)
        with trio.fail_after(within):
            while len(descriptors()) > self._idle + held:  # noqa: ASYNC110 - the system tells nobody
                await trio.sleep(0.01)


@asynccontextmanager
async def besieged(**options: Any) -> AsyncIterator[Siege]:
    """Serve; afterwards a bystander must be served, every socket be back, and a sibling task of the server alive."""
    questions, to_sibling = trio.open_memory_channel[trio.Event](0)

    async def sibling() -> None:
        async for answered in to_sibling:
            answered.set()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sibling)
            async with WSServer(0, host="127.0.0.1", **options) as server:
                with ExitStack() as peers:
                    siege = Siege(server.port, peers)
                    yield siege
                    await siege.bystander_is_served()
                await siege.server_is_rid_of_them()
                with trio.fail_after(1):
                    await questions.send(answered := trio.Event())
                    await answered.wait()
            nursery.cancel_scope.cancel()


def resident_memory() -> int:
    """Return how many bytes of memory this process occupies."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class TamperedEngine(InProcessEngine):
    """The real engine, but `before` is awaited ahead of every evaluation with its frame."""

    def __init__(self, before: Callable[[Frame], Awaitable[None]]) -> None:
        self._before = before

    async def open_session(self) -> Session:
        return _TamperedSession(await super().open_session(), self._before)


class _TamperedSession(Session):
    def __init__(self, session: Session, before: Callable[[Frame], Awaitable[None]]) -> None:
        self._session = session
        self._before = before

    async def request(self, frame: Frame) -> Reply:
        await self._before(frame)
        return await self._session.request(frame)

    async def post(self, frame: Frame) -> Failure | None:
        await self._before(frame)
        return await self._session.post(frame)

    def cancel(self) -> None:
        self._session.cancel()

    async def aclose(self) -> None:
        await self._session.aclose()


class HeldEngine(TamperedEngine):
    """An engine that is busy with any frame but QUERY until `release` is set."""

    def __init__(self) -> None:
        self.busy = trio.Event()
        self.release = trio.Event()
        super().__init__(self._hold)

    async def _hold(self, frame: Frame) -> None:
        if frame != QUERY:
            self.busy.set()
            await self.release.wait()


class SlowToOpen(InProcessEngine):
    """An engine whose sessions do not open until `release` is set."""

    def __init__(self) -> None:
        self.release = trio.Event()

    async def open_session(self) -> Session:
        await self.release.wait()
        return await super().open_session()


def long_head(length: int) -> bytes:
    head = upgrade({"X-Long": ""})
    return upgrade({"X-Long": "x" * (length - len(head))})


REFUSED_REQUESTS = {
    "header byte over 0x7f in Host": (upgrade({"Host": "caf\xe9"}), {400}),
    "header byte over 0x7f in Connection": (upgrade({"Connection": "Upgr\xe4de"}), {400}),
    "header byte over 0x7f in Sec-WebSocket-Protocol": (upgrade({"Sec-WebSocket-Protocol": "\xff"}), {400}),
    "header byte over 0x7f in Sec-WebSocket-Extensions": (upgrade({"Sec-WebSocket-Extensions": "\xff"}), {400}),
    "Host that is no IDNA": (upgrade({"Host": "xn--a"}), {400}),
    "no Host": (upgrade({"Host": None}), {400}),
    "plain GET": (response("GET / HTTP/1.1", {"Host": "127.0.0.1"}), {400, 426}),
    "garbage line": (b"\x01garbage\r\n\r\n", {400}),
    "pipelined garbage": (b"garbage\r\n\r\n" * 10_000, {400}),
    "HTTP/1.0": (upgrade(start="GET / HTTP/1.0"), {400, 426, 505}),
    "POST": (upgrade(start="POST / HTTP/1.1"), {400, 405}),
    "wrong Sec-WebSocket-Version": (upgrade({"Sec-WebSocket-Version": "12"}), {400, 426}),
    "no Sec-WebSocket-Key": (upgrade({"Sec-WebSocket-Key": None}), {400}),
    "short Sec-WebSocket-Key": (upgrade({"Sec-WebSocket-Key": "c2hvcnQ="}), {400}),
    "head over 16 KiB": (long_head(16 * 1024 + 1), {431}),
    "head that does not end": (b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 100_000, {431}),
    "foreign Origin": (upgrade({"Origin": "https://example.org"}), {403}),
}
refused_requests = pytest.mark.parametrize(
    ("request_", "statuses"), REFUSED_REQUESTS.values(), ids=REFUSED_REQUESTS.keys()
)


@pytest.mark.trio
@refused_requests
async def test_a_request_that_makes_no_sense_is_answered_and_then_closed(request_: bytes, statuses: set[int]) -> None:
    """Even if the peer keeps its socket."""
    async with besieged() as siege:
        peer = siege.connect()
        await peer.send(request_)
        head = await peer.receive_head()
        assert head.startswith(b"HTTP/1.1 ")
        assert int(head.split()[1]) in statuses
        await siege.bystander_is_served()
        await siege.server_is_rid_of_them(within=3)


@pytest.mark.trio
@refused_requests
async def test_a_request_that_makes_no_sense_and_then_a_reset(request_: bytes, statuses: set[int]) -> None:
    async with besieged() as siege:
        for _ in range(10):
            peer = siege.connect()
            await peer.send(request_)
            peer.reset()


@pytest.mark.trio
async def test_a_head_of_just_16_kib_is_accepted() -> None:
    async with besieged() as siege:
        peer = siege.connect()
        await peer.send(long_head(16 * 1024))
        assert (await peer.receive_head()).startswith(b"HTTP/1.1 101 ")


@pytest.mark.trio
async def test_resets_right_after_connecting() -> None:
    async with besieged() as siege:
        for _ in range(50):
            siege.connect().reset()


@pytest.mark.trio
async def test_resets_right_after_the_request() -> None:
    async with besieged() as siege:
        for _ in range(50):
            peer = siege.connect()
            await peer.send(upgrade())
            peer.reset()


@pytest.mark.trio
async def test_resets_right_after_the_handshakes() -> None:
    async with besieged() as siege:
        for _ in range(20):
            (await siege.open(hello=False)).reset()
            (await siege.open()).reset()


@pytest.mark.trio
async def test_300_peers_that_connect_and_leave_without_a_byte() -> None:
    async with besieged() as siege:
        for _ in range(300):
            siege.connect().close()
        await siege.server_is_rid_of_them()


@pytest.mark.trio
async def test_a_client_that_closes_normally_is_answered_in_kind() -> None:
    async with besieged() as siege:
        peer = await siege.open()
        await peer.send_close(1000)
        assert await peer.receive_close() == 1000
        assert await peer.receive_rest() == b""


NEVER_A_REQUEST = {
    "nothing": b"",
    "half a head": upgrade()[:-2],
    "a TLS ClientHello": bytes.fromhex("16030100c8010000c40303") + bytes(194),
    "a line without an end": b"\xffgarbage\n",
}


@pytest.mark.trio
@pytest.mark.parametrize("data", NEVER_A_REQUEST.values(), ids=NEVER_A_REQUEST.keys())
async def test_a_peer_that_never_asks_is_cut(data: bytes) -> None:
    async with besieged(open_timeout=SHORT) as siege:
        peer = siege.connect()
        await peer.send(data)
        await siege.bystander_is_served()
        await peer.receive_rest()
        await siege.server_is_rid_of_them()


@pytest.mark.trio
async def test_a_request_sent_byte_by_byte_is_cut_all_the_same() -> None:
    async with besieged(open_timeout=SHORT) as siege:
        peer = siege.connect()

        async def drip() -> None:
            while await peer.send(b"x"):  # noqa: ASYNC110 - the pace is the point
                await trio.sleep(0.02)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            await siege.bystander_is_served()
            await siege.server_is_rid_of_them(within=3)


@pytest.mark.trio
async def test_a_peer_that_does_not_greet_is_cut() -> None:
    async with besieged(open_timeout=SHORT) as siege:
        peer = await siege.open(hello=False)
        await peer.send_frame(opcode=PING)
        await siege.bystander_is_served()
        await peer.receive_rest()
        await siege.server_is_rid_of_them()


@pytest.mark.trio
async def test_everything_in_one_packet_is_served() -> None:
    """What follows the request is not lost on the way from one parser to the other."""
    async with besieged() as siege:
        peer = siege.connect()
        await peer.send(upgrade({"Sec-WebSocket-Protocol": "rayforce.v1"}) + frame(HELLO) + frame(QUERY))
        assert (await peer.receive_head()).startswith(b"HTTP/1.1 101 ")
        assert await peer.receive_frame() == (BINARY, HELLO_REPLY)
        assert decode(Result((await peer.receive_frame())[1])) == 3


@pytest.mark.trio
async def test_nothing_is_read_before_the_session_is_open() -> None:
    """However much a peer sends ahead, it waits in the system's buffers, not in this process."""
    engine = SlowToOpen()
    async with besieged(engine=engine, open_timeout=SHORT) as siege:
        peer = siege.connect()
        assert await peer.send(upgrade() + frame(bytes(100_000)) * 1000) < 30_000_000
        engine.release.set()
        await siege.server_is_rid_of_them()


BAD_HELLOS = {
    "text": (frame(b"\x01\x00", TEXT), 1002),
    "1 byte": (frame(b"\x01"), 1002),
    "3 bytes": (frame(b"\x01\x00\x00"), 1002),
    "a second byte that is not 0": (frame(b"\x01\x01"), 1002),
    "5 KB": (frame(bytes(5000)), 1009),
    "100 MB": (frame(size=100_000_000), 1009),
    "a request": (frame(QUERY), 1002),
    "an unmasked frame": (frame(HELLO, masked=False), 1002),
}


@pytest.mark.trio
@pytest.mark.parametrize(("hello", "code"), BAD_HELLOS.values(), ids=BAD_HELLOS.keys())
@pytest.mark.usefixtures("short_close")
async def test_a_wrong_greeting_is_told_and_closed(hello: bytes, code: int) -> None:
    async with besieged() as siege:
        peer = await siege.open(hello=False)
        await peer.send(hello)
        assert await peer.receive_close() == code
        await siege.server_is_rid_of_them()


def with_header(flags: int = 0, message_type: int = 1, version: int = 3, size: int | None = None) -> bytes:
    """Return QUERY with another header."""
    payload = QUERY[16:]
    size = len(payload) if size is None else size
    return struct.pack("<4sBBBBq", b"\xfa\xde\xfa\xce", version, flags, 0, message_type, size) + payload


BAD_FRAMES = {
    "unmasked": (frame(QUERY, masked=False), 1002),
    "unknown opcode": (frame(QUERY, 3), 1002),
    "unknown control opcode": (frame(QUERY, 11), 1002),
    "RSV1": (frame(QUERY, rsv=4), 1002),
    "RSV2 and RSV3": (frame(QUERY, rsv=3), 1002),
    "text that is no UTF-8": (frame(b"\xff\xfe", TEXT), 1007),
    "fragmented ping": (frame(b"", PING, fin=False), 1002),
    "ping of 126 bytes": (frame(bytes(126), PING), 1002),
    "continuation of nothing": (frame(b"", CONTINUATION), 1002),
    "message inside a message": (frame(b"", fin=False) + frame(b""), 1002),
    "close with a code that is none": (close_frame(999), 1002),
    "close with code 1005": (close_frame(1005), 1002),
    "close with one byte": (frame(b"\x03", CLOSE), 1002),
    "close with a reason that is no UTF-8": (frame(b"\x03\xe8\xff", CLOSE), 1007),
    "8 GB announced": (frame(bytes(1000), size=EIGHT_GB), 1009),
    "text of 100 KB": (frame(b"x" * 100_000, TEXT), 1009),
    "too many empty continuations": (frame(fin=False) + frame(b"", CONTINUATION, fin=False) * 1100, 1008),
}


@pytest.mark.trio
@pytest.mark.parametrize("baseline", [False, True], ids=["extended", "baseline"])
@pytest.mark.parametrize(("data", "code"), BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
@pytest.mark.usefixtures("short_close")
async def test_a_frame_that_breaks_websocket_is_told_and_closed(data: bytes, code: int, baseline: bool) -> None:
    """Even if the peer keeps its socket."""
    async with besieged() as siege:
        peer = await siege.open(baseline=baseline)
        await peer.send(data)
        with trio.fail_after(3):
            assert await peer.receive_close() == code
        await siege.server_is_rid_of_them()


BAD_MESSAGES = {
    "text that is no JSON": frame(b"{", TEXT),
    "JSON that is no object": frame(b"[1]", TEXT),
    "empty text": frame(b"", TEXT),
    "deep JSON": frame(b"[" * 60_000, TEXT),
    "deep JSON object": frame(b'{"a":' * 10_000, TEXT),
    "a number of 60,000 digits": frame(b'{"cancel": ' + b"9" * 60_000 + b"}", TEXT),
    "cancel of no number": frame(b'{"cancel": "1"}', TEXT),
    "a response": frame(with_header(message_type=2)),
    "an unknown message type": frame(with_header(message_type=3)),
    "an unknown wire version": frame(with_header(version=4)),
    "a size that is too small": frame(with_header(size=1)),
    "a size that is too large": frame(with_header(size=2**62)),
    "a negative size": frame(with_header(size=-1)),
    "half a header": frame(QUERY[:8]),
    "no bytes": frame(b""),
    "garbage": frame(bytes(range(256))),
}


@pytest.mark.trio
@pytest.mark.parametrize("data", BAD_MESSAGES.values(), ids=BAD_MESSAGES.keys())
async def test_a_message_that_breaks_the_extended_protocol_is_closed_with_1002(data: bytes) -> None:
    async with besieged() as siege:
        peer = await siege.open()
        await peer.send(data)
        assert await peer.receive_close() == 1002


BASELINE_MESSAGES = {
    "text": (frame(b"(+ 1 2)", TEXT), "expected a binary message, got text"),
    "an unknown message type": (frame(with_header(message_type=3)), "unknown message type 3"),
    "an unknown wire version": (frame(with_header(version=4)), "wire version 4 is not spoken here"),
    "a size that is too small": (frame(with_header(size=1)), "the header announces 1 bytes"),
    "a negative size": (frame(with_header(size=-1)), "a payload of -1 bytes"),
    "half a header": (frame(QUERY[:8]), "a frame has a header of 16 bytes, these are 8 bytes"),
    "no bytes": (frame(b""), "these are 0 bytes"),
    "garbage": (frame(bytes(range(256))), "not a Rayforce frame"),
}


@pytest.mark.trio
@pytest.mark.parametrize(("data", "said"), BASELINE_MESSAGES.values(), ids=BASELINE_MESSAGES.keys())
async def test_a_message_that_makes_no_sense_is_answered_in_the_baseline(data: bytes, said: str) -> None:
    """With a String in its turn, and the connection goes on."""
    async with besieged() as siege:
        peer = await siege.open(baseline=True)
        await peer.send(data + frame(QUERY))
        assert said in decode(Result((await peer.receive_frame())[1])).to_python()
        assert decode(Result((await peer.receive_frame())[1])) == 3


@pytest.mark.trio
@pytest.mark.parametrize("payload", [b"\xf5" * 9, b"\x00\x00" + b"\xff" * 30, b"\x62\x00" + b"\x7f" * 30, b"\xee"])
async def test_a_payload_the_engine_cannot_read_is_answered(payload: bytes, engine: str) -> None:
    """With an error; a native engine answers null."""
    async with besieged() as siege:
        peer = await siege.open()
        await peer.send_frame(struct.pack("<4sBBBBq", b"\xfa\xde\xfa\xce", 3, 0, 0, 1, len(payload)) + payload)
        opcode, answer = await peer.receive_frame()
        if engine == "in-process":
            assert opcode == TEXT
            assert answer.startswith(b'{"error": {"request": 1,')
        else:
            assert is_null(answer)
        await peer.send_frame(QUERY)
        assert decode(Result((await peer.receive_frame())[1])) == 3


@pytest.mark.trio
async def test_a_compressed_request_is_answered_with_an_error() -> None:
    async with besieged() as siege:
        peer = await siege.open()
        await peer.send_frame(with_header(flags=COMPRESSED))
        assert b'"code": "nyi"' in (await peer.receive_frame())[1]


@pytest.mark.trio
async def test_cancels_of_numbers_nobody_has_are_ignored() -> None:
    async with besieged() as siege:
        peer = await siege.open()
        await peer.send(frame(b'{"cancel": 7, "hello": {"later": true}}', TEXT) * 1000 + frame(QUERY))
        assert decode(Result((await peer.receive_frame())[1])) == 3


OVERSIZE = frame(bytes(1001))


@pytest.mark.trio
@pytest.mark.parametrize(
    "data", [OVERSIZE, OVERSIZE * 2, OVERSIZE + frame(b"", PING)], ids=["one", "two in one packet", "and a ping"]
)
@pytest.mark.usefixtures("short_close")
async def test_a_message_over_the_limit_is_closed_with_1009(data: bytes) -> None:
    """Even if the peer keeps its socket."""
    async with besieged(max_message_size=1000) as siege:
        peer = await siege.open()
        await peer.send(data)
        assert await peer.receive_close() == 1009
        await siege.server_is_rid_of_them()


@pytest.mark.trio
async def test_a_ping_while_the_server_closes_is_harmless() -> None:
    async with besieged() as siege:
        peer = await siege.open()
        await peer.send_frame(b"{", TEXT)
        assert await peer.receive_close() == 1002
        await peer.send(frame(b"", PING) + close_frame(1002))
        assert await peer.receive_rest() == b""


@pytest.mark.trio
async def test_a_ping_while_the_server_stops_is_harmless() -> None:
    with trio.fail_after(10):
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(WSServer(0, host="127.0.0.1"))
            with await open_raw(server.port) as peer:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(server.stop)
                    assert await peer.receive_close() == 1001
                    await peer.send(frame(b"", PING) + close_frame(1001))
                    assert await peer.receive_rest() == b""


@pytest.mark.trio
@pytest.mark.usefixtures("short_close")
async def test_a_silent_peer_does_not_hold_up_the_server_that_stops() -> None:
    with trio.fail_after(5):
        async with WSServer(0, host="127.0.0.1") as server:
            with await open_raw(server.port):
                await server.stop()


@pytest.mark.trio
@pytest.mark.usefixtures("short_close")
async def test_a_peer_that_keeps_sending_does_not_hold_up_a_close() -> None:
    async with besieged() as siege:
        peer = await siege.open()

        async def flood() -> None:
            while await peer.send(frame(b"{", TEXT) * 1000):
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            await siege.bystander_is_served()
            await siege.server_is_rid_of_them()


@pytest.mark.trio
@pytest.mark.usefixtures("short_close")
async def test_a_flood_of_empty_continuations_is_cut() -> None:
    async with besieged() as siege:
        peer = await siege.open()
        await peer.send(frame(fin=False))
        await peer.send(frame(b"", CONTINUATION, fin=False) * 100_000)
        await siege.bystander_is_served()
        assert await peer.receive_close() == 1008
        await siege.server_is_rid_of_them()


@pytest.mark.trio
@pytest.mark.parametrize("reads", [True, False], ids=["reads", "does not read"])
async def test_a_flood_of_pings_disturbs_nobody(reads: bool) -> None:
    async with besieged() as siege:
        peer = await siege.open()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send, frame(b"", PING) * 20_000 + frame(b"last", PING))
            await siege.bystander_is_served()
            if reads:
                while await peer.receive_frame() != (PONG, b"last"):
                    pass


@pytest.mark.trio
async def test_a_flood_of_requests_disturbs_nobody() -> None:
    async with besieged(max_in_flight=None) as siege:
        peer = await siege.open()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send, frame(QUERY) * 5000)
            await siege.bystander_is_served()
            for _ in range(5000):
                assert decode(Result((await peer.receive_frame())[1])) == 3


@pytest.mark.trio
async def test_a_peer_of_a_busy_engine_gets_its_pong_and_its_leaving_is_noticed() -> None:
    engine = GateEngine()
    async with WSServer(port=0, host="127.0.0.1", engine=engine) as server:
        peer = await open_raw(server.port)
        await peer.send(frame(OTHER_QUERY) * 2 + frame(b"ping", PING))
        assert await peer.receive_frame() == (PONG, b"ping")
        await engine.until(begun=1)
        peer.reset()
        await engine.until(cancels=1, sessions=0)
        assert len(engine.begun) == 1


@pytest.mark.trio
async def test_the_leaving_of_a_peer_that_filled_its_queue_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is read any more then, but a ping finds the connection broken."""
    monkeypatch.setattr("rayforce_trio._server._connection.MAX_QUEUED_REQUESTS", 1)
    engine = GateEngine()
    options: dict[str, Any] = {"max_in_flight": None, "ping_interval": 0.05, "ping_timeout": 0.05}
    async with WSServer(port=0, host="127.0.0.1", engine=engine, **options) as server:
        peer = await open_raw(server.port)
        await peer.send(frame(OTHER_QUERY) * 5)
        await engine.until(begun=1)
        peer.reset()
        await engine.until(cancels=1, sessions=0)
        assert len(engine.begun) == 1


@pytest.mark.trio
async def test_a_full_queue_behind_a_busy_engine_does_not_cost_a_healthy_peer_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its pongs cannot be read meanwhile, which is no silence of the peer's."""
    monkeypatch.setattr("rayforce_trio._server._connection.MAX_QUEUED_REQUESTS", 1)
    monkeypatch.setattr("rayforce_trio._transports._keepalive._CATCH_UP", 0.05)
    engine = HeldEngine()
    async with besieged(engine=engine, max_in_flight=None, ping_interval=0.05, ping_timeout=0.05) as siege:
        peer = await siege.open()
        await peer.send(frame(POST) * 5)
        await engine.busy.wait()
        for _ in range(5):  # by the second, the time for an answer is over
            assert (await peer.receive_frame())[0] == PING
        engine.release.set()
        await peer.send_frame(QUERY)
        while (message := await peer.receive_frame())[0] == PING:
            await peer.send_frame(message[1], PONG)
        assert decode(Result(message[1])) == 3


@pytest.mark.trio
async def test_a_half_close_after_a_request_ends_the_connection() -> None:
    async with besieged() as siege:
        peer = await siege.open()
        await peer.send_frame(QUERY)
        peer.half_close()
        await peer.receive_rest()
        await siege.server_is_rid_of_them()


@pytest.mark.trio
async def test_a_peer_that_stops_reading_is_cut() -> None:
    async with besieged(write_timeout=SHORT) as siege:
        peer = await siege.open(receive_buffer=4096)
        await peer.send_frame(BIG_QUERY)
        assert (await peer.receive_frame())[0] == BINARY
        await siege.bystander_is_served()
        await siege.server_is_rid_of_them()


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """Let memory come back only by itself: the collector may be long in coming."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.trio
@pytest.mark.usefixtures("no_garbage_collection")
async def test_a_peer_that_stops_reading_and_leaves_gives_everything_back() -> None:
    """The second and third reply of 100 MB that nobody took cost no more memory than the first."""
    resident = []
    async with besieged() as siege:
        for _ in range(3):
            peer = await siege.open(receive_buffer=4096)
            await peer.send_frame(BIG_QUERY)
            assert (await peer.receive_frame())[0] == BINARY
            await siege.bystander_is_served()
            peer.reset()
            await siege.server_is_rid_of_them()
            resident.append(resident_memory())
    assert resident[2] - resident[0] < BIG / 2


@pytest.mark.trio
async def test_a_client_that_is_killed_is_noticed() -> None:
    async with besieged() as siege:
        client = await trio.lowlevel.open_process(
            [sys.executable, "-c", CLIENT_PROGRAM, str(siege.port)], stdout=subprocess.PIPE
        )
        assert client.stdout is not None
        async with client.stdout:
            assert await client.stdout.receive_some()
            client.send_signal(signal.SIGKILL)
            await client.wait()


@pytest.mark.trio
async def test_a_bug_is_logged_and_ends_only_the_connection_that_met_it(caplog: pytest.LogCaptureFixture) -> None:
    async def divide_by_zero(frame: Frame) -> None:
        if frame != QUERY:
            raise ZeroDivisionError("a bug")

    async with besieged(engine=TamperedEngine(divide_by_zero)) as siege:
        other = await siege.open()
        peer = await siege.open()
        await peer.send_frame(OTHER_QUERY)
        assert await peer.receive_close() == 1011
        await peer.send_close(1011)
        await other.send_frame(QUERY)
        assert decode(Result((await other.receive_frame())[1])) == 3
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.name == "rayforce_trio.server"
    assert record.exc_info is not None
    assert "ZeroDivisionError: a bug" in (record.exc_text or "")
    caplog.clear()


# The client

Script = Callable[[RawPeer], Awaitable[None]]


async def fail_to_connect(script: Script) -> RayforceWSError:
    """Connect to a server that plays `script`; returns the exception that comes of it."""
    with anyio.fail_after(20):
        async with raw_server(script) as port:
            with pytest.raises(RayforceWSError) as caught:
                await WSClient("127.0.0.1", port).connect()
            with pytest.raises(type(caught.value)):
                async with WSClient("127.0.0.1", port).connect():
                    pass
    return caught.value


@asynccontextmanager
async def connected(script: Script, **options: Any) -> AsyncIterator[WSClientConnection]:
    """Connect to a server that opens properly and then plays `script`."""

    async def serve(peer: RawPeer) -> None:
        await accept_raw(peer)
        await script(peer)

    with anyio.fail_after(20):
        async with raw_server(serve) as port, WSClient("127.0.0.1", port, **options).connect() as connection:
            yield connection


async def failure_of(call: Awaitable[Any]) -> BaseException:
    with pytest.raises(RayforceWSError) as caught:
        await call
    return caught.value


async def failures_of_ten(connection: WSClientConnection) -> list[BaseException]:
    """Execute ten queries at once; returns their exceptions."""
    failures: list[BaseException] = []

    async def execute() -> None:
        failures.append(await failure_of(connection.execute("(+ 1 2)")))

    async with anyio.create_task_group() as task_group:
        for _ in range(10):
            task_group.start_soon(execute)
    return failures


async def check_that_it_stays_closed(connection: WSClientConnection, expected: type[RayforceWSError]) -> None:
    assert type(connection.closed) is expected
    assert type(await failure_of(connection.execute("(+ 1 2)"))) is expected
    assert type(await failure_of(connection.post("(+ 1 2)"))) is expected
    await connection.close()
    assert type(connection.closed) is expected


async def answer_the_close(peer: RawPeer) -> None:
    await peer.send_close(await peer.receive_close())


async def take_request_and_say(answer: bytes, peer: RawPeer) -> None:
    await peer.receive_head()
    await peer.send(answer)


@pytest.mark.anyio
async def test_a_server_that_says_nothing_fails_the_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayforce_trio._client._client.OPEN_TIMEOUT", 0.2)
    error = await fail_to_connect(RawPeer.receive_rest)  # type: ignore[arg-type]
    assert type(error) is HandshakeError
    assert "took longer than 0.2 seconds" in str(error)


@pytest.mark.anyio
async def test_a_server_that_does_not_greet_fails_the_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayforce_trio._client._client.OPEN_TIMEOUT", 0.2)

    async def upgrade_only(peer: RawPeer) -> None:
        await accept_raw(peer, hello=None)
        await peer.receive_rest()

    error = await fail_to_connect(upgrade_only)
    assert type(error) is HandshakeError
    assert "took longer than 0.2 seconds" in str(error)


async def hang_up(peer: RawPeer) -> None:
    peer.close()


async def reset(peer: RawPeer) -> None:
    await peer.receive_head()
    peer.reset()


ANSWERS_THAT_ARE_NONE: dict[str, Script] = {
    "closes at once": hang_up,
    "resets": reset,
    "garbage": partial(take_request_and_say, b"\x00garbage\r\n\r\n"),
    "garbage without an end": partial(take_request_and_say, b"SSH-2.0-server\r\n"),
    "a head without an end": partial(
        take_request_and_say, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
    ),
    "a head over the limit": partial(take_request_and_say, b"HTTP/1.1 101 X\r\nX-Long: " + b"x" * 2_000_000),
    "a head that is not ASCII": partial(take_request_and_say, b"HTTP/1.1 101 X\r\nUpgrade: w\xe9bsocket\r\n\r\n"),
}


@pytest.mark.anyio
@pytest.mark.parametrize("script", ANSWERS_THAT_ARE_NONE.values(), ids=ANSWERS_THAT_ARE_NONE.keys())
async def test_an_answer_that_is_no_http_fails_the_handshake(script: Script) -> None:
    assert type(await fail_to_connect(script)) is HandshakeError


WRONG_UPGRADES: dict[str, dict[str, str | None]] = {
    "wrong accept key": {"Sec-WebSocket-Accept": "d3Jvbmc="},
    "no accept key": {"Sec-WebSocket-Accept": None},
    "wrong subprotocol": {"Sec-WebSocket-Protocol": "rayforce.v9"},
    "wrong Upgrade": {"Upgrade": "h2c"},
    "an extension nobody asked for": {"Sec-WebSocket-Extensions": "permessage-deflate"},
}


@pytest.mark.anyio
@pytest.mark.parametrize("headers", WRONG_UPGRADES.values(), ids=WRONG_UPGRADES.keys())
async def test_a_wrong_upgrade_fails_the_handshake(headers: dict[str, str | None]) -> None:
    async def script(peer: RawPeer) -> None:
        await peer.send(upgraded(await peer.receive_head(), headers))
        await peer.receive_rest()

    assert type(await fail_to_connect(script)) is HandshakeError


@pytest.mark.anyio
@pytest.mark.parametrize("status", [301, 307, 401, 403, 404, 503])
async def test_an_http_status_is_reported_with_its_body(status: int) -> None:
    """A redirect is not followed, either."""
    answer = response(f"HTTP/1.1 {status} X", {"Content-Length": "5", "Location": "ws://127.0.0.1:1/"}, b"said\n")
    error = await fail_to_connect(partial(take_request_and_say, answer))
    assert type(error) is ConnectionRejected
    assert (error.status, error.body) == (status, "said\n")
    assert str(error) == f"the server refused the connection with HTTP status {status}: said"


@pytest.mark.anyio
@pytest.mark.parametrize("headers", [{"Content-Length": "6"}, {"Connection": "close"}], ids=["sized", "until the end"])
async def test_a_server_of_another_kind_is_no_refusal(headers: dict[str, str | None]) -> None:
    answer = response("HTTP/1.1 200 OK", headers, b"a page")
    error = await fail_to_connect(partial(take_request_and_say, answer))
    assert type(error) is HandshakeError
    assert str(error).endswith(" is not a WebSocket server: HTTP status 200")


HELLO_ANSWERS = {
    "text": (frame(b"\x01", TEXT, masked=False), "not a Rayforce server: expected a binary handshake answer, got text"),
    "empty": (frame(b"", masked=False), "not a Rayforce server: expected a handshake answer of 1 byte, got 0"),
    "2 bytes": (frame(b"\x01\x00", masked=False), "not a Rayforce server: .*got 2"),
    "garbage": (b"\xff" * 100, "failed"),
    "a masked frame": (frame(HELLO_REPLY), "failed"),
    "close": (close_frame(1013, masked=False), "failed: the peer closed the connection with code 1013"),
    "end": (b"", "failed: the peer went away"),
}


@pytest.mark.anyio
@pytest.mark.parametrize(("answer", "said"), HELLO_ANSWERS.values(), ids=HELLO_ANSWERS.keys())
async def test_a_wrong_answer_to_the_greeting_fails_the_handshake(answer: bytes, said: str) -> None:
    error = await fail_to_connect(partial(accept_raw, hello=answer))
    assert type(error) is HandshakeError
    with pytest.raises(HandshakeError, match=said):
        raise error


@pytest.mark.anyio
async def test_nobody_there_is_a_connect_error() -> None:
    async with raw_server(hang_up) as port:
        pass
    error = await failure_of(WSClient("127.0.0.1", port).connect())
    assert type(error) is ConnectError


@pytest.mark.anyio
@pytest.mark.parametrize(
    "end", [RawPeer.reset, RawPeer.close, RawPeer.half_close], ids=["reset", "close", "half-close"]
)
async def test_a_server_that_vanishes_is_noticed_by_every_call_at_once(end: Callable[[RawPeer], None]) -> None:
    async def script(peer: RawPeer) -> None:
        for _ in range(10):
            await peer.receive_frame()
        end(peer)
        await anyio.sleep_forever()

    async with connected(script) as connection:
        with anyio.fail_after(1):
            failures = await failures_of_ten(connection)
        assert {type(failure) for failure in failures} == {ConnectionLost}
        await check_that_it_stays_closed(connection, ConnectionLost)


@pytest.mark.anyio
@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 4000])
async def test_a_server_that_closes_is_reported_with_its_code(code: int) -> None:
    async def script(peer: RawPeer) -> None:
        for _ in range(10):
            await peer.receive_frame()
        await peer.send(frame(struct.pack("!H", code) + b"so long", CLOSE, masked=False))
        assert await peer.receive_close() in (code, 1000)

    async with connected(script) as connection:
        for failure in await failures_of_ten(connection):
            assert type(failure) is ConnectionClosed
            assert (failure.code, failure.reason, failure.by_peer) == (code, "so long", True)
        await check_that_it_stays_closed(connection, ConnectionClosed)


RESPONSE = string_frame("reply")
server_frame = partial(frame, masked=False)

UNASKED = {
    "a reply to nothing": (server_frame(RESPONSE), "a reply to nothing that was asked"),
    "an error for nothing": (
        server_frame(b'{"error": {"request": 1, "code": "type", "message": ""}}', TEXT),
        "an error for request 1, whose turn it is not",
    ),
    "a request": (server_frame(QUERY), "the server sent a request"),
    "text that is no JSON": (server_frame(b"{", TEXT), "a text message that is not JSON"),
    "garbage in a message": (server_frame(bytes(range(256))), "not a Rayforce frame"),
    "no bytes": (server_frame(b""), "these are 0 bytes"),
    "a masked frame": (frame(RESPONSE), "broke the WebSocket protocol"),
    "RSV1": (server_frame(RESPONSE, rsv=4), "broke the WebSocket protocol"),
    "unknown opcode": (server_frame(RESPONSE, 3), "broke the WebSocket protocol"),
    "continuation of nothing": (server_frame(b"", CONTINUATION), "broke the WebSocket protocol"),
}


@pytest.mark.anyio
@pytest.mark.parametrize(("data", "said"), UNASKED.values(), ids=UNASKED.keys())
async def test_a_server_that_breaks_the_protocol_is_told_and_reported(data: bytes, said: str) -> None:
    codes = []

    async def script(peer: RawPeer) -> None:
        await peer.send(data)
        codes.append(await peer.receive_close())
        await peer.send_close(1002)
        told.set()

    told = anyio.Event()
    async with connected(script) as connection:
        await told.wait()
        assert codes == [1002]
        with pytest.raises(ProtocolError, match=said) as caught:
            await connection.execute("(+ 1 2)")
        assert type(caught.value) is ProtocolError
        assert caught.value.code == 1002
        await check_that_it_stays_closed(connection, ProtocolError)


@pytest.mark.anyio
async def test_an_error_for_another_request_fails_them_all() -> None:
    async def script(peer: RawPeer) -> None:
        await peer.receive_frame()
        await peer.send_frame(b'{"error": {"request": 2, "code": "type", "message": ""}}', TEXT)
        assert await peer.receive_close() == 1002

    async with connected(script) as connection:
        failures = await failures_of_ten(connection)
        assert {type(failure) for failure in failures} == {ProtocolError}
        await check_that_it_stays_closed(connection, ProtocolError)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "reply",
    [RESPONSE[:5] + bytes([COMPRESSED]) + RESPONSE[6:], RESPONSE[:16] + b"\xf5" * (len(RESPONSE) - 16)],
    ids=["compressed", "damaged"],
)
async def test_a_reply_that_cannot_be_read_fails_its_call_alone(reply: bytes) -> None:
    async def script(peer: RawPeer) -> None:
        for answer in (reply, RESPONSE):
            await peer.receive_frame()
            await peer.send_frame(answer)
        await answer_the_close(peer)

    async with connected(script) as connection:
        with pytest.raises(RayforceConversionError, match="reply"):
            await connection.execute("(+ 1 2)")
        assert (await connection.execute("(+ 1 2)")).to_python() == "reply"


@pytest.mark.anyio
async def test_a_reply_over_the_limit_is_reported_and_refused() -> None:
    async def script(peer: RawPeer) -> None:
        await peer.receive_frame()
        await peer.send_frame(string_frame("x" * 1000))
        assert await peer.receive_close() == 1009

    async with connected(script, max_message_size=1000) as connection:
        failures = await failures_of_ten(connection)
        assert {type(failure) for failure in failures} == {MessageTooLarge}
        await check_that_it_stays_closed(connection, MessageTooLarge)


@pytest.mark.anyio
async def test_a_reply_that_announces_8_gb_is_refused_at_once() -> None:
    async def script(peer: RawPeer) -> None:
        await peer.receive_frame()
        await peer.send(server_frame(RESPONSE, size=EIGHT_GB))
        assert await peer.receive_close() == 1009

    async with connected(script) as connection:
        with anyio.fail_after(2), pytest.raises(MessageTooLarge, match="longer than the 1073741824 bytes"):
            await connection.execute("(+ 1 2)")


@pytest.mark.anyio
async def test_a_server_that_stops_reading_is_given_up() -> None:
    async def script(peer: RawPeer) -> None:
        await peer.receive_frame()
        await anyio.sleep_forever()

    async with connected(script, ping_interval=0.2, ping_timeout=0.2) as connection:
        await failure_of_large_and_small(connection)
        await check_that_it_stays_closed(connection, ConnectionLost)


async def failure_of_large_and_small(connection: WSClientConnection) -> None:
    """Execute a query of 30 MB and one after it: both must fail."""
    failures = []

    async def execute(query: str) -> None:
        failures.append(type(await failure_of(connection.execute(query))))

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(execute, '(count "' + "x" * 30_000_000 + '")')
        task_group.start_soon(execute, "(+ 1 2)")
    assert failures == [ConnectionLost, ConnectionLost]


@pytest.mark.anyio
async def test_a_server_gets_a_pong_for_its_ping() -> None:
    async def script(peer: RawPeer) -> None:
        await peer.send_frame(b"are you there", PING)
        answers.append(await peer.receive_frame())
        answered.set()
        await answer_the_close(peer)

    answers: list[tuple[int, bytes]] = []
    answered = anyio.Event()
    async with connected(script):
        await answered.wait()
    assert answers == [(PONG, b"are you there")]


@pytest.mark.anyio
async def test_a_server_that_does_not_answer_a_close_does_not_hold_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("_trio_websocket", "_asyncio_websockets"):
        monkeypatch.setattr(f"rayforce_trio._transports.{module}.CLOSE_TIMEOUT", 0.2)

    async with connected(lambda _: anyio.sleep_forever()) as connection:
        with anyio.fail_after(3):
            await connection.close()
        await check_that_it_stays_closed(connection, ConnectionClosed)


@pytest.mark.trio
@pytest.mark.parametrize(
    "bad",
    [frame(b"\x00" * 125, opcode=0x3), struct.pack("!BBQ", 0x82, 0xFF, 8 * 2**30) + bytes(4)],
    ids=["unknown opcode", "8 GB announced"],
)
async def test_what_follows_a_broken_frame_is_not_kept(bad: bytes) -> None:
    async with besieged() as siege:
        peer = await siege.open()
        before = resident_memory()
        await peer.send(bad)
        with suppress(OSError):
            for _ in range(100):
                await peer.send(bytes(1_000_000))
        assert resident_memory() - before < 50_000_000
        await siege.bystander_is_served()


@pytest.mark.trio
async def test_two_headers_origin_are_refused() -> None:
    """Which of them counts would be a matter of taste."""
    async with besieged() as siege:
        peer = siege.connect()
        own = f"Origin: http://127.0.0.1:{siege.port}"
        head = upgrade({"Origin": "http://evil.example"})
        await peer.send(head.replace(b"\r\n\r\n", f"\r\n{own}\r\n\r\n".encode()))
        assert (await peer.receive_head()).startswith(b"HTTP/1.1 400 ")


@pytest.mark.anyio
async def test_a_long_refusal_is_cut() -> None:
    body = b"no" * 150_000

    async def refuse(peer: RawPeer) -> None:
        await peer.receive_head()
        await peer.send(response("HTTP/1.1 403 Forbidden", {"Content-Length": str(len(body))}, body))
        await peer.receive_rest()

    with anyio.fail_after(5):
        async with raw_server(refuse) as port:
            with pytest.raises(ConnectionRejected) as rejected:
                await WSClient("127.0.0.1", port).connect()
    assert rejected.value.body == "no" * (BODY_LIMIT // 2)
    assert len(str(rejected.value)) < 300


@pytest.mark.anyio
async def test_a_reason_too_long_for_a_close_frame_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    """An error for a request whose number is itself as long as that."""

    async def misnumber(peer: RawPeer) -> None:
        await accept_raw(peer)
        await peer.receive_frame()
        number = 10**200
        text = f'{{"error": {{"request": {number}, "code": "type", "message": ""}}}}'
        await peer.send(frame(text.encode(), TEXT, masked=False))
        assert await peer.receive_close() == 1002

    with anyio.fail_after(10):
        async with raw_server(misnumber) as port, WSClient("127.0.0.1", port).connect() as connection:
            with pytest.raises(ProtocolError, match="whose turn it is not"):
                await connection.execute("1")
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
