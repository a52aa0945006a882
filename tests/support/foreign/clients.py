"""What our server promises clients of other implementations; each of the checks proves one fact.

`EACH_ENGINE` and `OTHERS` are for every client, the former with every engine; `FRAME_CHECKS` are for those clients that
let tests make frames.
"""

import json
import logging
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import pytest
import trio

from rayforce_trio import NativeEngine, NativeProcess, WSServer
from rayforce_trio._protocol import MessageType, Result, parse_frame, string_frame
from support.engine_contract import request, value
from support.fake_engine import FakeSession, fake_engine
from support.foreign.connection import Dial, ForeignConnection, FrameDial, Refused
from support.proxy import Lane, Proxy, proxy
from support.raw import HELLO, HELLO_REPLY, SUBPROTOCOL, TEXT, RawPeer, frame, raw_server
from support.watched import until_passed

Check = Callable[[Dial], Awaitable[None]]
FrameCheck = Callable[[FrameDial], Awaitable[None]]

MEGABYTE = 1024 * 1024
SIZES = (28, 125, 126, 127, 65535, 65536, 65537, MEGABYTE, MEGABYTE + 1)
"""Of messages, in bytes: where the frame's header changes, and where we begin to send fragments."""

_EMPTY_STRING = len(request('""'))
_PONG = 6  # bytes of an empty one with a client's mask
_LIMIT = 30  # seconds


class Served:
    """A server of ours.

    Attributes:
        port: its port.
        log: what it has logged.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.log: list[str] = []

    def logged_of(self, connection_id: int) -> list[str]:
        """Return what it has logged of one connection, without what names that."""
        return [line.partition("): ")[2] for line in self.log if line.startswith(f"connection {connection_id} (")]


@asynccontextmanager
async def served(**options: Any) -> AsyncIterator[Served]:
    """Serve. Nothing that a client does may make the server log a bug of its own."""
    with trio.fail_after(_LIMIT), _logged() as records:
        async with WSServer(0, host="127.0.0.1", **options) as server:
            served = Served(server.port)
            yield served
        served.log += [record.getMessage() for record in records]
    assert [record.getMessage() for record in records if record.levelno >= logging.ERROR] == []


class _Recorder(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def _logged() -> Iterator[list[logging.LogRecord]]:
    logger, recorder = logging.getLogger("rayforce_trio.server"), _Recorder()
    level = logger.level
    logger.addHandler(recorder)
    logger.setLevel(logging.INFO)
    try:
        yield recorder.records
    finally:
        logger.setLevel(level)
        logger.removeHandler(recorder)


async def server_handshake(client: ForeignConnection) -> None:
    await client.send(HELLO)
    assert await client.receive() == HELLO_REPLY


def value_of(message: bytes) -> Any:
    """Return the plain Python value of a response."""
    return value(Result(message))


async def ask(client: ForeignConnection, query: str) -> Any:
    await client.send(request(query))
    return value_of(await client.receive_bytes())


def echo_of(size: int) -> tuple[str, bytes]:
    """Return a string, and a request of so many bytes that is answered with it."""
    text = "x" * (size - _EMPTY_STRING)
    message = request(f'"{text}"')
    assert len(message) == size
    return text, message


def numbers(count: int) -> bytes:
    """Return the numbers below `count` as they stand at the end of a response."""
    return array("q", range(count)).tobytes()


# Every client


async def it_speaks_the_extended_protocol(dial: Dial) -> None:
    async with served() as server, dial(server.port) as client:
        assert client.subprotocol == SUBPROTOCOL
        await server_handshake(client)
        assert await ask(client, "(+ 1 2)") == 3
        await client.send(request('(+ 1 "a")'))
        error = json.loads(await client.receive_text())["error"]
        assert (error["request"], error["code"]) == (2, "type")
        assert await ask(client, '"þ€xt 𝄞"') == "þ€xt 𝄞"


async def it_speaks_the_baseline(dial: Dial) -> None:
    """To whoever offers nothing more."""
    async with served() as server, dial(server.port, subprotocol=None) as client:
        assert client.subprotocol is None
        await server_handshake(client)
        assert await ask(client, "(+ 1 2)") == 3
        assert (await ask(client, '(+ 1 "a")')).startswith("type")
        await client.send(b"")
        assert "but has 0 bytes" in value_of(await client.receive_bytes())
        await client.send("þ€xt 𝄞")
        assert "expected a binary message, got text" in value_of(await client.receive_bytes())
        assert await ask(client, "(+ 2 2)") == 4


async def an_empty_message_is_no_frame(dial: Dial) -> None:
    async with served() as server, dial(server.port) as client:
        await server_handshake(client)
        await client.send(b"")
        code, reason = await client.receive_close()
    assert code == 1002
    assert "but has 0 bytes" in reason


async def messages_of_every_length_pass_both_ways(dial: Dial) -> None:
    async with served() as server, dial(server.port) as client:
        await server_handshake(client)
        for size in SIZES:
            text, message = echo_of(size)
            await client.send(message)
            assert len(reply := await client.receive_bytes()) == size - 2  # without the quotes
            assert value_of(reply) == text
        for size in SIZES[1:]:
            await client.send(echo_of(size + 2)[1])
            assert len(await client.receive_bytes()) == size


async def a_reply_of_8_mb_arrives_whole(dial: Dial) -> None:
    async with served() as server, dial(server.port) as client:
        await server_handshake(client)
        await client.send(request("(til 1000000)"))
        reply = await client.receive_bytes()
        assert parse_frame(reply).message_type is MessageType.RESPONSE
        assert reply.endswith(numbers(1_000_000))
        assert await ask(client, "(+ 1 2)") == 3


async def an_upload_of_8_mb_arrives_whole(dial: Dial) -> None:
    async with served() as server, dial(server.port) as client:
        await server_handshake(client)
        assert await ask(client, f'(count "{"x" * 8 * MEGABYTE}")') == 8 * MEGABYTE
        assert await ask(client, "(+ 1 2)") == 3


async def requests_sent_ahead_are_answered_in_order(dial: Dial) -> None:
    async with served() as server, dial(server.port) as client:
        await server_handshake(client)
        for n in range(100):
            await client.send(request(str(n)))
        assert [value_of(await client.receive_bytes()) for _ in range(100)] == list(range(100))


async def text_stops_a_query(dial: Dial) -> None:
    async with served(engine=NativeProcess()) as server, dial(server.port) as client:
        await server_handshake(client)
        for number in (1, 2):
            await client.send(request("(while true 1)"))
            await client.send(f'{{"cancel": {number}, "þ€": "𝄞"}}')
            error = json.loads(await client.receive_text())["error"]
            assert (error["request"], error["code"]) == (number, "cancel")
        assert await ask(client, "(+ 1 2)") == 3


async def its_close_is_understood_and_answered(dial: Dial) -> None:
    for code, reason in ((1000, ""), (4001, "dønë"), (4999, "x" * 123)):
        async with served() as server, dial(server.port) as client:
            await server_handshake(client)
            await client.close(code, reason)
            assert (await client.receive_close())[0] == code
        said = f": {reason}" if reason else ""
        assert f"closed by the client with code {code}{said}" in server.logged_of(1)


async def it_hears_that_the_server_stops(dial: Dial) -> None:
    with trio.fail_after(_LIMIT):
        async with WSServer(0, host="127.0.0.1") as server, dial(server.port) as client:
            await server_handshake(client)
            assert await ask(client, "(+ 1 2)") == 3
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.stop)
                assert await client.receive_close() == (1001, "the server is shutting down")


async def it_hears_why_it_is_cut_off(dial: Dial) -> None:
    async with served() as server, dial(server.port) as client:
        await server_handshake(client)
        await client.send("no JSON")
        assert await client.receive_close() == (1002, "a text message that is not JSON")


async def a_message_over_the_limit_is_refused(dial: Dial) -> None:
    async with served(max_message_size=1000) as server:
        for over in (echo_of(1001)[1], bytes(MEGABYTE)):
            async with dial(server.port) as client:
                await server_handshake(client)
                text, message = echo_of(1000)
                await client.send(message)
                assert value_of(await client.receive_bytes()) == text
                await client.send(over)
                code, reason = await client.receive_close()
            assert code == 1009
            assert "1000 bytes" in reason


async def a_text_over_the_limit_is_refused(dial: Dial) -> None:
    async with served() as server, dial(server.port) as client:
        await server_handshake(client)
        await client.send(" " * 65_537)
        assert (await client.receive_close())[0] == 1009


async def compression_is_offered_and_declined(dial: Dial) -> None:
    heads: list[bytes] = []

    async def hang_up(peer: RawPeer) -> None:
        heads.append(await peer.receive_head())

    with trio.fail_after(_LIMIT):
        async with raw_server(hang_up) as port:
            with suppress(Refused):
                async with dial(port):
                    pytest.fail("nobody answered")
    assert b"\r\nsec-websocket-extensions: permessage-deflate" in heads[0].lower()
    async with served() as server, dial(server.port) as client:
        assert client.extensions == ""
        await server_handshake(client)
        assert await ask(client, f'(count "{"x" * 100_000}")') == 100_000


async def our_pings_are_answered(dial: Dial) -> None:
    async with _pinging() as between, dial(between.port) as client:
        await server_handshake(client)
        assert await ask(client, "(+ 1 2)") == 3
        await _three_pongs(between.to_server)
        assert await ask(client, "(+ 2 2)") == 4


async def our_pings_are_answered_in_the_middle_of_a_reply(dial: Dial) -> None:
    """As a slow engine gives it: by halves."""
    reply = string_frame("x" * 1000)
    half_answered, go_on = trio.Event(), trio.Event()

    async def answer(session: FakeSession) -> None:
        await session.receive_request()
        await session.send(reply[:500])
        half_answered.set()
        await go_on.wait()
        await session.send(reply[500:])
        await session.until_hung_up()

    async with (
        fake_engine(answer) as engine,
        _pinging(engine=NativeEngine("127.0.0.1", engine.port)) as between,
        dial(between.port) as client,
    ):
        await server_handshake(client)
        begun = between.to_client.passed
        await client.send(request("anything"))
        await half_answered.wait()
        await until_passed(between.to_client, begun + 500)
        await _three_pongs(between.to_server)
        go_on.set()
        assert await client.receive() == reply


async def _three_pongs(to_server: Lane) -> None:
    """Wait for them, while the client sends nothing else."""
    await until_passed(to_server, to_server.passed + 3 * _PONG)


# Clients that let tests make frames


async def fragments_are_put_together(dial: FrameDial) -> None:
    async with served() as server, dial(server.port) as client:
        await server_handshake(client)
        text, message = echo_of(300)
        large_text, large = echo_of(MEGABYTE)
        for expected, parts in (
            (text, [message[:100], message[100:]]),
            (text, [message[i : i + 1] for i in range(300)]),
            (text, [b"", message[:1], b"", message[1:], b""]),
            (large_text, [large[:100_000], large[100_000:100_001], large[100_001:]]),
        ):
            await client.send_parts(parts)
            assert value_of(await client.receive_bytes()) == expected


async def fragments_over_the_limit_together_are_refused(dial: FrameDial) -> None:
    async with served(max_message_size=1000) as server, dial(server.port) as client:
        await server_handshake(client)
        for _ in range(3):
            await client.send_part(bytes(400), last=False)
        assert (await client.receive_close())[0] == 1009


async def its_pings_are_answered(dial: FrameDial) -> None:
    async with served() as server, dial(server.port) as client:
        await server_handshake(client)
        for payload in (b"x", bytes(range(125)), b""):
            await client.ping(payload)
        assert await ask(client, "(+ 1 2)") == 3


async def its_pings_are_answered_in_the_middle_of_an_upload(dial: FrameDial) -> None:
    text, message = echo_of(4 * MEGABYTE)
    async with served() as server, dial(server.port) as client:
        await server_handshake(client)
        for start in range(3):
            await client.send_part(message[start * MEGABYTE : (start + 1) * MEGABYTE], last=False)
            await client.ping(b"meanwhile %d" % start)
        await client.send_part(message[3 * MEGABYTE :], last=True)
        assert value_of(await client.receive_bytes()) == text


async def its_pings_are_answered_in_the_middle_of_a_reply(dial: FrameDial) -> None:
    count = 3_000_000  # 24 MB: what is on its way in sockets and proxy is half of it at most
    async with served() as server, proxy(server.port) as between, dial(between.port) as client:
        await server_handshake(client)
        between.to_client.freeze(after=MEGABYTE)
        await client.send(request(f"(til {count})"))
        await between.to_client.frozen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.ping, b"meanwhile")
            await until_passed(between.to_server, between.to_server.passed + _PONG)
            between.to_client.freeze(after=20 * MEGABYTE)
        between.to_client.thaw()
        assert (await client.receive_bytes()).endswith(numbers(count))


async def our_pings_are_answered_in_the_middle_of_an_upload(dial: FrameDial) -> None:
    text, message = echo_of(200)
    async with _pinging() as between, dial(between.port) as client:
        await server_handshake(client)
        begun = between.to_server.passed
        await client.send_part(message[:100], last=False)
        await until_passed(between.to_server, begun + 106)
        await _three_pongs(between.to_server)
        await client.send_part(message[100:], last=True)
        assert value_of(await client.receive_bytes()) == text


async def what_breaks_websocket_is_told_so_that_it_understands(dial: FrameDial) -> None:
    for data, code in (
        (frame(b"\xff\xfe", TEXT), 1007),
        (frame(request("1"), masked=False), 1002),
        (frame(request("1"), rsv=4), 1002),
        (frame(b"", 0x3), 1002),
    ):
        async with served() as server, dial(server.port) as client:
            await server_handshake(client)
            assert await ask(client, "(+ 1 2)") == 3
            await client.send_raw(data)
            assert (await client.receive_close())[0] == code


async def its_refusal_of_a_long_reply_is_understood(dial: FrameDial) -> None:
    async with served() as server, dial(server.port, max_size=1000) as client:
        await server_handshake(client)
        await client.send(request("(til 1000)"))
        await client.receive_close()
    assert any("the peer refused a message as too large" in line for line in server.log), server.log


async def its_origin_decides(dial: FrameDial) -> None:
    async with served(allowed_origins=["https://example.org"]) as server:
        async with dial(server.port, origin="https://example.org") as client:
            await server_handshake(client)
            assert await ask(client, "(+ 1 2)") == 3
        with pytest.raises(Refused) as refused:
            async with dial(server.port, origin="https://example.com"):
                pytest.fail("the server was to refuse")
        assert refused.value.status == 403


@asynccontextmanager
async def _pinging(**options: Any) -> AsyncIterator[Proxy]:
    """Serve behind a proxy, with pings whenever it is quiet."""
    async with served(ping_interval=0.02, ping_timeout=None, **options) as server, proxy(server.port) as between:
        yield between


EACH_ENGINE: tuple[Check, ...] = (
    it_speaks_the_extended_protocol,
    it_speaks_the_baseline,
    messages_of_every_length_pass_both_ways,
    a_reply_of_8_mb_arrives_whole,
    an_upload_of_8_mb_arrives_whole,
    requests_sent_ahead_are_answered_in_order,
)

OTHERS: tuple[Check, ...] = (
    an_empty_message_is_no_frame,
    text_stops_a_query,
    its_close_is_understood_and_answered,
    it_hears_that_the_server_stops,
    it_hears_why_it_is_cut_off,
    a_message_over_the_limit_is_refused,
    a_text_over_the_limit_is_refused,
    compression_is_offered_and_declined,
    our_pings_are_answered,
    our_pings_are_answered_in_the_middle_of_a_reply,
)

FRAME_CHECKS: tuple[FrameCheck, ...] = (
    fragments_are_put_together,
    fragments_over_the_limit_together_are_refused,
    its_pings_are_answered,
    its_pings_are_answered_in_the_middle_of_an_upload,
    its_pings_are_answered_in_the_middle_of_a_reply,
    our_pings_are_answered_in_the_middle_of_an_upload,
    what_breaks_websocket_is_told_so_that_it_understands,
    its_refusal_of_a_long_reply_is_understood,
    its_origin_decides,
)
