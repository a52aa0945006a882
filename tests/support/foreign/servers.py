"""What our client promises servers of other implementations; each of `CHECKS` proves one fact, on either event loop."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from rayforce_trio import WSClient, WSClientConnection
from rayforce_trio._protocol import dump_error, string_frame
from rayforce_trio.errors import ConnectionClosed, MessageTooLarge, ProtocolError, RayforceTypeError
from support.engine_contract import post, request
from support.foreign.connection import FrameConnection, Listen
from support.proxy import proxy
from support.raw import HELLO, HELLO_REPLY, SUBPROTOCOL, TEXT, frame
from support.watched import until_passed

Check = Callable[[Listen], Awaitable[None]]

MEGABYTE = 1024 * 1024
SIZES = (26, 125, 126, 127, 65535, 65536, 65537, MEGABYTE, MEGABYTE + 1, 8 * MEGABYTE)
"""Of messages, in bytes: where the frame's header changes, and where we begin to send fragments."""

_EMPTY_STRING = len(string_frame(""))
_PONG = 2  # bytes of an empty one without a mask
_LIMIT = 30  # seconds


@asynccontextmanager
async def conversation(
    listen: Listen, *, subprotocol: str | None = SUBPROTOCOL, max_size: int | None = None, **options: Any
) -> AsyncIterator[tuple[WSClientConnection, FrameConnection]]:
    """Connect our client; yields both ends of the connection, greetings exchanged."""
    with anyio.fail_after(_LIMIT):
        async with (
            listen(subprotocol=subprotocol, max_size=max_size) as server,
            _connected(server.accept, server.port, **options) as ends,
        ):
            yield ends


@asynccontextmanager
async def _connected(
    accept: Callable[[], Awaitable[FrameConnection]], port: int, **options: Any
) -> AsyncIterator[tuple[WSClientConnection, FrameConnection]]:
    accepted: list[FrameConnection] = []

    async def server_handshake() -> None:
        server = await accept()
        assert await server.receive() == HELLO
        await server.send(HELLO_REPLY)
        accepted.append(server)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server_handshake)
        connection = await WSClient("127.0.0.1", port, **options).connect()
    async with connection:
        yield connection, accepted[0]


@asynccontextmanager
async def asking(connection: WSClientConnection, query: str, expected: Any) -> AsyncIterator[None]:
    """Ask while the block runs; it has to see to it that the answer is what is expected."""

    async def ask() -> None:
        result = (await connection.execute(query)).to_python()
        assert result == expected, len(result) if isinstance(result, str) else result

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        yield


async def answer(server: FrameConnection, text: str) -> None:
    """Answer one request with a String."""
    await server.receive_bytes()
    await server.send(string_frame(text))


async def it_agrees_to_the_extended_protocol(listen: Listen) -> None:
    async with conversation(listen) as (connection, server):
        assert server.subprotocol == SUBPROTOCOL
        async with asking(connection, "1", "one"):
            await answer(server, "one")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_check_type_error, connection)
            assert await server.receive() == request('(+ 1 "a")')
            await server.send(dump_error(2, "type", "cannot add i64 and þ€𝄞"))
        await connection.post("(set x 1)")
        assert await server.receive() == post("(set x 1)")
        async with asking(connection, "2", "þ€xt 𝄞"):
            await answer(server, "þ€xt 𝄞")


async def _check_type_error(connection: WSClientConnection) -> None:
    with pytest.raises(RayforceTypeError, match="cannot add i64 and þ€𝄞"):
        await connection.execute('(+ 1 "a")')


async def it_may_speak_the_baseline(listen: Listen) -> None:
    async with conversation(listen, subprotocol=None) as (connection, server):
        assert server.subprotocol is None
        async with asking(connection, "1", "one"):
            await answer(server, "one")
        async with asking(connection, '(+ 1 "a")', "type: cannot add"):
            await answer(server, "type: cannot add")


async def messages_of_every_length_pass_both_ways(listen: Listen) -> None:
    async with conversation(listen) as (connection, server):
        for size in SIZES:
            text = "x" * (size - _EMPTY_STRING)
            for query, reply in ((text.replace("x", " "), "answer"), ("1", text)):
                async with asking(connection, query, reply):
                    asked = await server.receive_bytes()
                    assert len(asked) == _EMPTY_STRING + len(query)
                    assert asked == request(query)
                    await server.send(string_frame(reply))


async def its_fragments_are_put_together(listen: Listen) -> None:
    small, large = string_frame("x" * 300), string_frame("x" * MEGABYTE)
    async with conversation(listen) as (connection, server):
        for parts in (
            [small[:100], small[100:]],
            [small[i : i + 1] for i in range(len(small))],
            [b"", small[:1], b"", small[1:], b""],
            [large[:100_000], large[100_000:100_001], large[100_001:]],
        ):
            async with asking(connection, "1", "x" * (sum(map(len, parts)) - _EMPTY_STRING)):
                await server.receive()
                await server.send_parts(parts)


async def its_pings_are_answered(listen: Listen) -> None:
    async with conversation(listen) as (connection, server):
        for payload in (b"x", bytes(range(125)), b""):
            await server.ping(payload)
        async with asking(connection, "1", "one"):
            await answer(server, "one")


async def its_pings_are_answered_in_the_middle_of_a_reply(listen: Listen) -> None:
    reply = string_frame("x" * 3 * MEGABYTE)
    async with conversation(listen) as (connection, server), asking(connection, "1", "x" * 3 * MEGABYTE):
        await server.receive()
        for start in range(3):
            await server.send_part(reply[start * MEGABYTE : (start + 1) * MEGABYTE], last=False)
            await server.ping(b"meanwhile %d" % start)
        await server.send_part(reply[3 * MEGABYTE :], last=True)


async def its_pings_are_answered_in_the_middle_of_an_upload(listen: Listen) -> None:
    size = 24 * MEGABYTE  # what is on its way in sockets and proxy is half of it at most
    with anyio.fail_after(_LIMIT):
        async with (
            listen() as foreign,
            proxy(foreign.port) as between,
            _connected(foreign.accept, between.port) as (connection, server),
        ):
            between.to_server.freeze(after=MEGABYTE)
            async with asking(connection, " " * size, "done"):
                await between.to_server.frozen()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(server.ping, b"meanwhile")
                    await until_passed(between.to_client, between.to_client.passed + _PONG)
                    between.to_server.freeze(after=20 * MEGABYTE)
                between.to_server.thaw()
                assert (await server.receive_bytes()).endswith(b" " * size)
                await server.send(string_frame("done"))


async def our_pings_are_answered_in_the_middle_of_a_reply(listen: Listen) -> None:
    reply = string_frame("x" * 1000)
    with anyio.fail_after(_LIMIT):
        async with (
            listen() as foreign,
            proxy(foreign.port) as between,
            _connected(foreign.accept, between.port, ping_interval=0.02, ping_timeout=None) as (connection, server),
            asking(connection, "1", "x" * 1000),
        ):
            await server.receive()
            begun = between.to_client.passed
            await server.send_part(reply[:500], last=False)
            await until_passed(between.to_client, begun + 504)
            await until_passed(between.to_client, between.to_client.passed + 3 * _PONG)
            await server.send_part(reply[500:], last=True)


async def a_cancelled_call_is_told_as_text(listen: Listen) -> None:
    async with conversation(listen) as (connection, server):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.execute, "(while true 1)")
            assert await server.receive() == request("(while true 1)")
            tasks.cancel_scope.cancel()
        assert json.loads(await server.receive_text()) == {"cancel": 1}
        await server.send(dump_error(1, "cancel", ""))
        async with asking(connection, "1", "one"):
            await answer(server, "one")


async def its_close_is_understood(listen: Listen) -> None:
    for code, reason in ((1000, ""), (4001, "dønë"), (1011, "x" * 123)):
        async with conversation(listen) as (connection, server), anyio.create_task_group() as tasks:
            tasks.start_soon(_check_closed, connection, code, reason)
            await server.receive()
            await server.close(code, reason)
            assert (await server.receive_close())[0] == code


async def _check_closed(connection: WSClientConnection, code: int, reason: str) -> None:
    with pytest.raises(ConnectionClosed) as closed:
        await connection.execute("1")
    assert (closed.value.code, closed.value.reason, closed.value.by_peer) == (code, reason, True)


async def it_understands_our_close(listen: Listen) -> None:
    async with conversation(listen) as (connection, server), anyio.create_task_group() as tasks:
        tasks.start_soon(connection.close)
        assert await server.receive_close() == (1000, "")


async def a_reply_over_the_limit_is_refused(listen: Listen) -> None:
    for parts in ([bytes(1001)], [bytes(600), bytes(600)], [bytes(MEGABYTE)]):
        async with conversation(listen, max_message_size=1000) as (connection, server):
            async with asking(connection, "1", "x" * 900):
                await server.receive()
                await server.send(string_frame("x" * 900))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_check_too_large, connection, "1", "1000 bytes")
                await server.receive()
                await server.send_parts(parts)
                assert (await server.receive_close())[0] == 1009


async def its_refusal_of_a_long_query_is_understood(listen: Listen) -> None:
    async with conversation(listen, max_size=1000) as (connection, server), anyio.create_task_group() as tasks:
        tasks.start_soon(_check_too_large, connection, " " * 2000, "the peer refused a message as too large")
        await server.receive_close()


async def _check_too_large(connection: WSClientConnection, query: str, match: str) -> None:
    with pytest.raises(MessageTooLarge, match=match):
        await connection.execute(query)


async def it_understands_what_we_say_to_broken_frames(listen: Listen) -> None:
    for data, code in (
        (frame(b"\xff\xfe", TEXT, masked=False), 1007),
        (frame(string_frame("x"), masked=True), 1002),
        (frame(string_frame("x"), masked=False, rsv=4), 1002),
        (frame(b"", 0x3, masked=False), 1002),
    ):
        async with conversation(listen) as (connection, server), anyio.create_task_group() as tasks:
            tasks.start_soon(_check_protocol_error, connection, code)
            await server.receive()
            await server.send_raw(data)
            assert (await server.receive_close())[0] == code


async def _check_protocol_error(connection: WSClientConnection, code: int) -> None:
    with pytest.raises(ProtocolError) as error:
        await connection.execute("1")
    assert error.value.code == code


async def compression_is_not_asked_for(listen: Listen) -> None:
    async with conversation(listen) as (connection, server):
        assert server.extensions == ""
        async with asking(connection, " " * 100_000, "x" * 100_000):
            assert (await server.receive_bytes()).endswith(b" " * 100_000)
            await server.send(string_frame("x" * 100_000))


CHECKS: tuple[Check, ...] = (
    it_agrees_to_the_extended_protocol,
    it_may_speak_the_baseline,
    messages_of_every_length_pass_both_ways,
    its_fragments_are_put_together,
    its_pings_are_answered,
    its_pings_are_answered_in_the_middle_of_a_reply,
    its_pings_are_answered_in_the_middle_of_an_upload,
    our_pings_are_answered_in_the_middle_of_a_reply,
    a_cancelled_call_is_told_as_text,
    its_close_is_understood,
    it_understands_our_close,
    a_reply_over_the_limit_is_refused,
    its_refusal_of_a_long_query_is_understood,
    it_understands_what_we_say_to_broken_frames,
    compression_is_not_asked_for,
)
