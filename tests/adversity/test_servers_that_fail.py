"""Servers that vanish, close or break the protocol later: every call of the client raises the same error."""

import struct
from collections.abc import Callable
from functools import partial

import anyio
import pytest
from support.probed_server import COMPRESSED, EIGHT_GB, QUERY
from support.raw import CLOSE, CONTINUATION, PING, PONG, TEXT, RawPeer, accept_raw, frame, raw_server
from support.scripted_server import answer_the_close, check_that_it_stays_closed, connected, failure_of, failures_of_ten

from rayforce_trio import WSClient, WSClientConnection
from rayforce_trio._protocol import string_frame
from rayforce_trio.errors import (
    ConnectionClosed,
    ConnectionLost,
    MessageTooLarge,
    ProtocolError,
    RayforceConversionError,
)

RESPONSE = string_frame("reply")

server_frame = partial(frame, masked=False)


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
        with anyio.fail_after(5):
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


UNASKED = {
    "a reply to nothing": (server_frame(RESPONSE), "a reply without a request"),
    "an error for nothing": (
        server_frame(b'{"error": {"request": 1, "code": "type", "message": ""}}', TEXT),
        "an error for request 1 out of order",
    ),
    "a request": (server_frame(QUERY), "a request from the server"),
    "text that is no JSON": (server_frame(b"{", TEXT), "a text message that is not JSON"),
    "garbage in a message": (server_frame(bytes(range(256))), "not a Rayforce frame"),
    "no bytes": (server_frame(b""), "but has 0 bytes"),
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
            with pytest.raises(ProtocolError, match="out of order"):
                await connection.execute("1")
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


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
        with anyio.fail_after(5), pytest.raises(MessageTooLarge, match="longer than the 1073741824 bytes"):
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
async def test_posts_that_the_network_has_not_taken_raise_the_error_that_ended_the_connection() -> None:
    async def script(peer: RawPeer) -> None:
        await peer.receive_some()
        peer.reset()

    async with connected(script) as connection:
        failures: list[type[BaseException]] = []

        async def post() -> None:
            failures.append(type(await failure_of(connection.post("1" + " " * 30_000_000))))

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(post)
            task_group.start_soon(post)
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
    monkeypatch.setattr("rayforce_trio._transports._websocket.CLOSE_TIMEOUT", 0.2)

    async with connected(lambda _: anyio.sleep_forever()) as connection:
        with anyio.fail_after(5):
            await connection.close()
        await check_that_it_stays_closed(connection, ConnectionClosed)
