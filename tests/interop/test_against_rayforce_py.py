"""Against rayforce-py's own WebSocket server and client, and against a client that speaks the baseline by hand."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from rayforce import I64, Column, Expression, List, Operation, String, Table, Vector
from rayforce import errors as rayforce_errors
from rayforce.network.websocket import WSClient as RayforceClient
from rayforce.network.websocket import WSClientConnection as RayforceConnection
from rayforce.plugins.sql import SQLQuery
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websockets_connect

from rayforce_trio import WSClient, WSClientConnection, errors
from rayforce_trio._codec import encode
from rayforce_trio._protocol import HEADER_SIZE, MessageType

pytestmark = pytest.mark.anyio

LOCAL = "127.0.0.1"

their_loop = pytest.mark.parametrize("anyio_backend", ["asyncio"])
"""rayforce-py's client, and `websockets`, live on asyncio only."""


@asynccontextmanager
async def their_client(port: int) -> AsyncIterator[RayforceConnection]:
    with anyio.fail_after(60):
        async with await RayforceClient(LOCAL, port).connect() as connection:
            yield connection


@asynccontextmanager
async def our_client(port: int) -> AsyncIterator[WSClientConnection]:
    with anyio.fail_after(60):
        async with WSClient(LOCAL, port).connect() as connection:
            yield connection


Connection = RayforceConnection | WSClientConnection


async def check_values(connection: Connection, name: str) -> None:
    """Everything that can be sent, changes visible afterwards."""
    for query in ("(+ 1 2)", String("(+ 1 2)"), List([Operation.ADD, 1, 2]), Expression(Operation.ADD, 1, 2)):
        assert (await connection.execute(query)).to_python() == 3

    async def columns(query: Any) -> dict[str, list[Any]]:
        table = await connection.execute(query)
        assert isinstance(table, Table)
        return dict(table.to_dict())

    await connection.execute(f"(set {name} (table [id who v] (list [1 2] [ann bob] [1.5 2.5])))")
    table = Table(name)
    v: Any = Column("v")  # rayforce-py does not declare its operators
    assert await columns(table.select("id").where(v > 2)) == {"id": [2]}
    await connection.execute(table.insert(id=3, who="cid", v=3.5))
    await connection.execute(table.update(v=9.5).where(Column("id") == 1))
    await connection.execute(table.upsert(id=2, who="eve", v=0.5, key_columns=1))
    assert await columns(name) == {"id": [1, 2, 3], "who": ["ann", "eve", "cid"], "v": [9.5, 0.5, 3.5]}
    assert await columns(SQLQuery(table, "SELECT id FROM self WHERE v > 3")) == {"id": [1, 3]}
    left = Table.from_dict({"k": Vector([1, 2], ray_type=I64), "a": Vector([5, 6], ray_type=I64)})
    right = Table.from_dict({"k": Vector([2, 3], ray_type=I64), "b": Vector([7, 8], ray_type=I64)})
    assert await columns(left.inner_join(right, "k")) == {"k": [2], "a": [6], "b": [7]}
    assert (await columns(left.left_join(right, "k")))["b"] == [None, 7]


async def check_errors(connection: Connection, *, with_messages: bool = True) -> None:
    """Errors are Strings, and the connection goes on."""
    for query, message in (
        ('(+ 1 "a")', "type: cannot add i64 and str"),
        ("undefined_name", "name: 'undefined_name' undefined"),
        ("(foo", "parse"),
    ):
        error = await connection.execute(query)
        assert isinstance(error, String)
        assert error.to_python() == (message if with_messages else message.partition(":")[0])
        assert (await connection.execute("(+ 1 2)")).to_python() == 3


# Their client, our server


@their_loop
async def test_their_client_gets_values_from_our_server(our_port: int, name: str) -> None:
    async with their_client(our_port) as connection:
        await check_values(connection, name)


@their_loop
async def test_their_client_gets_errors_from_our_server_as_it_expects_them(our_port: int, engine: str) -> None:
    async with their_client(our_port) as connection:
        await check_errors(connection, with_messages=engine == "in-process")


@their_loop
async def test_their_client_gets_results_up_to_its_limit(our_port: int) -> None:
    async with their_client(our_port) as connection:
        assert len(await connection.execute("(til 130000)")) == 130_000  # 1,040,026 of the 1,048,576 bytes it takes


@their_loop
async def test_a_result_beyond_their_clients_limit_costs_that_connection_only(in_process_port: int) -> None:
    async with their_client(in_process_port) as connection, their_client(in_process_port) as other:
        with pytest.raises(rayforce_errors.RayforceWSError, match=r"Connection closed: .*1009"):
            await connection.execute("(til 200000)")
        assert (await other.execute("(+ 1 2)")).to_python() == 3


@their_loop
async def test_their_clients_uploads_arrive_up_to_our_limit(our_port: int) -> None:
    async with their_client(our_port) as connection:
        size = 8 * 1024 * 1024
        assert (await connection.execute(f'(count "{"x" * size}")')).to_python() == size


@their_loop
async def test_their_clients_pings_are_answered(in_process_port: int) -> None:
    async with their_client(in_process_port) as connection:
        for _ in range(3):
            await (await connection.ws.ping())
        assert (await connection.execute("(+ 1 2)")).to_python() == 3


@their_loop
async def test_their_client_negotiates_neither_the_extended_protocol_nor_compression(in_process_port: int) -> None:
    async with their_client(in_process_port) as connection:
        assert connection.ws.subprotocol is None
        assert connection.ws.protocol.extensions == []


# Our client, their server


async def test_our_client_gets_values_from_their_server(their_port: int, name: str) -> None:
    async with our_client(their_port) as connection:
        await check_values(connection, name)


async def test_our_client_gets_errors_from_their_server_as_strings(their_port: int) -> None:
    async with our_client(their_port) as connection:
        await check_errors(connection)


async def test_our_client_gets_results_of_several_mb_from_their_server(their_port: int) -> None:
    async with our_client(their_port) as connection:
        vector = await connection.execute("(til 1000000)")
        assert len(vector) == 1_000_000
        assert vector[999_999].to_python() == 999_999


async def test_an_upload_beyond_their_servers_limit_is_message_too_large(their_port: int) -> None:
    async with our_client(their_port) as connection:
        with pytest.raises(errors.MessageTooLarge, match="the peer refused a message as too large"):
            await connection.execute(f'(count "{"x" * 2_000_000}")')
        assert isinstance(connection.closed, errors.MessageTooLarge)
    async with our_client(their_port) as connection:
        assert (await connection.execute("(+ 1 2)")).to_python() == 3


async def test_the_replies_to_posts_are_discarded(their_port: int, name: str) -> None:
    """Their server answers posts like everything else; the calls that follow get their own replies."""
    async with our_client(their_port) as connection:
        for n in range(10):
            await connection.post(f"(set {name} {n})")
            assert (await connection.execute(f"(+ 100 {name})")).to_python() == 100 + n


async def test_after_a_cancelled_call_the_next_ones_get_their_own_replies(their_port: int) -> None:
    async with our_client(their_port) as connection:
        for n in range(5):
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(connection.execute, "(sum (til 3000000))")
                await anyio.wait_all_tasks_blocked()  # sent by then
                task_group.cancel_scope.cancel()
            for m in range(5):
                assert (await connection.execute(f"(+ {n} {m})")).to_python() == n + m


async def test_many_calls_at_once_get_their_own_replies(their_port: int) -> None:
    async def ask(connection: WSClientConnection, n: int) -> None:
        assert (await connection.execute(f"(+ {n} {n})")).to_python() == 2 * n

    async with our_client(their_port) as connection, anyio.create_task_group() as task_group:
        for n in range(100):
            task_group.start_soon(ask, connection, n)


# By hand


@asynccontextmanager
async def by_hand(port: int, hello: bytes = b"\x01\x00") -> AsyncIterator[ClientConnection]:
    with anyio.fail_after(60):
        async with websockets_connect(f"ws://{LOCAL}:{port}", compression="deflate", proxy=None) as websocket:
            await websocket.send(hello)
            assert await websocket.recv() == b"\x01"
            yield websocket


def text_of(reply: bytes | str) -> str:
    """Return the text in the frame of a String: after its type, its attributes and its length."""
    assert isinstance(reply, bytes)
    assert reply[HEADER_SIZE] == 0xF3
    return reply[HEADER_SIZE + 10 :].decode()


@their_loop
async def test_compression_is_not_negotiated_although_it_is_offered(in_process_port: int) -> None:
    async with by_hand(in_process_port) as websocket:
        assert websocket.request is not None
        assert "permessage-deflate" in websocket.request.headers["Sec-WebSocket-Extensions"]
        assert websocket.response is not None
        assert "Sec-WebSocket-Extensions" not in websocket.response.headers


@their_loop
@pytest.mark.parametrize("version", [0, 1, 2, 255])
async def test_a_greeting_of_any_version_is_accepted(in_process_port: int, version: int) -> None:
    async with by_hand(in_process_port, bytes([version, 0])) as websocket:
        await websocket.send(encode("(+ 1 2)", MessageType.ASYNC))
        assert isinstance(await websocket.recv(), bytes)


@their_loop
@pytest.mark.parametrize("message_type", MessageType)
async def test_the_message_type_of_a_request_does_not_matter(our_port: int, message_type: MessageType) -> None:
    async with by_hand(our_port) as websocket:
        await websocket.send(encode('"abc"', message_type))
        assert text_of(await websocket.recv()) == "abc"


@their_loop
async def test_a_text_message_is_answered_with_a_string(in_process_port: int) -> None:
    async with by_hand(in_process_port) as websocket:
        await websocket.send("(+ 1 2)")
        assert text_of(await websocket.recv()) == "type: expected a binary message, got text"
        await websocket.send(encode('"still here"', MessageType.SYNC))
        assert text_of(await websocket.recv()) == "still here"


@their_loop
async def test_a_message_that_is_no_frame_is_answered_with_a_string(in_process_port: int) -> None:
    async with by_hand(in_process_port) as websocket:
        await websocket.send(b"nonsense")
        assert text_of(await websocket.recv()).startswith("domain: a frame needs a header of 16 bytes")
        await websocket.send(encode('"still here"', MessageType.SYNC))
        assert text_of(await websocket.recv()) == "still here"


@their_loop
async def test_requests_sent_ahead_are_answered_in_order(our_port: int) -> None:
    async with by_hand(our_port) as websocket:
        for n in range(100):
            await websocket.send(encode(f'"{n}"', MessageType.SYNC))
        assert [text_of(await websocket.recv()) for _ in range(100)] == [str(n) for n in range(100)]


@their_loop
@pytest.mark.parametrize(
    "query", ["(+ 1 2)", '"text"', "[1 2 3]", '(list 1 "a")', "null", "(dict [a] [1])", '(+ 1 "a")', "(foo", "nope"]
)
async def test_our_server_answers_with_the_bytes_that_theirs_answers_with(
    our_port: int, their_port: int, engine: str, query: str
) -> None:
    """But for the message type, which theirs leaves at 0; and a native engine's errors have no message."""
    replies = []
    for port in (our_port, their_port):
        async with by_hand(port) as websocket:
            await websocket.send(encode(query, MessageType.ASYNC))
            replies.append(bytearray(await websocket.recv(decode=False)))
    ours, theirs = replies
    if engine != "in-process" and query in ('(+ 1 "a")', "nope"):
        assert text_of(bytes(theirs)).startswith(text_of(bytes(ours)))
        return
    assert (ours.pop(7), theirs.pop(7)) == (MessageType.RESPONSE, MessageType.ASYNC)
    assert ours == theirs
