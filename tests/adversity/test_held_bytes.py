"""Clients that make the server hold many bytes: messages that they do not finish, and replies that they do not read."""

import asyncio
import struct
from typing import Any

import pytest
from support.engines import GateEngine
from support.memory import long_buffers
from support.polling import until
from support.probed_server import OTHER_QUERY, QUERY, probed_server
from support.processes import server_process
from support.raw import CONTINUATION, TEXT, RawPeer, frame, open_raw

from rayforce_trio import WSClient, WSServer, errors
from rayforce_trio._codec import encode
from rayforce_trio._protocol import HEADER_SIZE, MessageType

MIB = 1024 * 1024
LIMITS: dict[str, Any] = {"max_buffered_bytes": 32 * MIB, "max_message_size": 12 * MIB}  # 16 MiB for one address


def message(size: int, message_type: MessageType = MessageType.SYNC) -> bytes:
    """Return a request or post of this many bytes, which is not valid beyond its header."""
    header = bytearray(QUERY[: HEADER_SIZE - 8] + struct.pack("<q", size - HEADER_SIZE))
    header[7] = message_type
    return bytes(header) + bytes(size - HEADER_SIZE)


async def sent_in_part(peer: RawPeer, size: int, *, missing: int = 1, fragments: bool = False) -> None:
    """Send a message of `size` bytes without its last `missing` bytes, or as fragments none of which is final."""
    if fragments:
        for start in range(0, size, 32 * 1024):
            await peer.send(frame(message(size)[start : start + 32 * 1024], CONTINUATION if start else 2, fin=False))
    else:
        await peer.send(frame(message(size)[:-missing], size=size))


async def until_held(size: int) -> None:
    """Wait until the long buffers have `size` bytes together."""
    await until(lambda: sum(set(long_buffers())) >= size)


@pytest.mark.trio
@pytest.mark.parametrize("fragments", [False, True])
async def test_beyond_the_limit_the_longest_unfinished_message_is_refused(
    fragments: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with probed_server(**LIMITS) as server:
        longest, other = await server.open(), await server.open()
        await sent_in_part(longest, 10 * MIB, fragments=fragments)
        await sent_in_part(other, 7 * MIB)
        assert await longest.receive_close() == 1013
        assert all(size < 10 * MIB for size in long_buffers())
        await other.send(bytes(1))
        assert (await other.receive_frame())[1]  # an answer
    assert "(max_buffered_bytes)" in caplog.text


@pytest.mark.trio
async def test_the_client_that_exceeds_the_limit_may_be_the_one_that_is_refused() -> None:
    async with probed_server(**LIMITS) as server:
        first, longest = await server.open(), await server.open()
        await sent_in_part(first, 6 * MIB)
        await until_held(6 * MIB)
        await sent_in_part(longest, 11 * MIB)
        assert await longest.receive_close() == 1013
        await first.send(bytes(1))
        assert (await first.receive_frame())[1]


@pytest.mark.trio
async def test_messages_of_announced_size_cost_nothing_until_they_arrive() -> None:
    async with probed_server(**LIMITS) as server:
        peers = [await server.open() for _ in range(10)]
        for peer in peers:
            await sent_in_part(peer, 12 * MIB, missing=11 * MIB)
        for peer in peers:
            await peer.send(frame(b"", 9))
        await peers[0].send(bytes(11 * MIB))
        assert (await peers[0].receive_frame())[1]


@pytest.mark.trio
@pytest.mark.parametrize("message_type", [MessageType.SYNC, MessageType.ASYNC])
@pytest.mark.parametrize("size", [16 * 1024, 4 * MIB])
async def test_waiting_messages_count_too(message_type: MessageType, size: int) -> None:
    """Without unfinished messages, the connection that holds the most is closed, and its posts are dropped."""
    engine = GateEngine()
    async with WSServer(0, host="127.0.0.1", engine=engine, **LIMITS) as server:
        with await open_raw(server.port) as other, await open_raw(server.port) as most:
            await other.send(frame(OTHER_QUERY) + frame(message(5 * MIB)))
            await engine.until(begun=1)
            await most.send(frame(OTHER_QUERY) + frame(message(size, message_type)) * (13 * MIB // size))
            assert await most.receive_close() == 1013
            most.close()
            await engine.until(sessions=1)
            engine.release()
            assert (await other.receive_frame())[1]
            assert (await other.receive_frame())[1]
            assert len(engine.begun) == 3


@pytest.mark.trio
async def test_our_client_learns_why() -> None:
    async with WSServer(0, host="127.0.0.1", **LIMITS) as server:
        with await open_raw(server.port) as other, await open_raw(server.port) as third:
            await sent_in_part(other, 5 * MIB)
            await sent_in_part(third, 5 * MIB)
            await until_held(5 * MIB)
            async with WSClient("127.0.0.1", server.port).connect() as connection:
                with pytest.raises(
                    errors.ConnectionClosed, match=r"memory for requests is used up \(max_buffered_bytes\)"
                ) as info:
                    await connection.execute("x" * (11 * MIB))
                assert info.value.code == 1013


# Replies

LONG_REPLY, LONGER_REPLY = "(til 2500000)", "(til 5000000)"  # 20 and 40 MB


@pytest.mark.trio
@pytest.mark.usefixtures("each_engine")
async def test_beyond_the_limit_the_longest_unread_reply_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    async with probed_server(max_spooled_bytes=64 * MIB, max_reply_size=48 * MIB) as server:
        most, other = await server.open(receive_buffer=4096), await server.open()
        for peer, query in (most, LONGER_REPLY), (other, LONG_REPLY):
            await peer.send(frame(encode(query, MessageType.SYNC)))
            assert await peer.receive_some()
        await until(lambda: "(max_spooled_bytes)" in caplog.text)
        most.reset()
        size = 0
        while size < 19_000_000 and (some := await other.receive_some()):
            size += len(some)
        assert size >= 19_000_000  # and a part was received before
    assert caplog.text.count("(max_spooled_bytes)") == 1


# Long results


async def refuses_long_results(port: int) -> None:
    async with WSClient("127.0.0.1", port).connect() as connection:
        for query in "(til 131072)", "(til 5000000)":  # 1 MiB of values, and 40 MB
            for call in connection.execute, connection.fetch:
                why = r"^toobig: the result has \d+ bytes; this server sends at most 1048576 bytes \(max_reply_size\)$"
                with pytest.raises(errors.ResultTooLarge, match=why):
                    await call(query)
        assert await connection.execute("(+ 1 2)") == 3
        assert len(await connection.execute("(til 131000)")) == 131_000


@pytest.mark.trio
@pytest.mark.usefixtures("each_engine")
async def test_a_result_that_is_too_large_is_an_error() -> None:
    async with probed_server(max_reply_size=MIB) as server:
        await refuses_long_results(server.port)


def test_a_result_that_is_too_large_is_an_error_on_asyncio() -> None:
    with server_process("short-replies") as port:
        asyncio.run(refuses_long_results(port))


@pytest.mark.trio
@pytest.mark.usefixtures("each_engine")
async def test_requests_that_follow_a_result_that_is_too_large_are_answered_in_order() -> None:
    async with probed_server(max_reply_size=MIB) as server:
        peer = await server.open()
        await peer.send(b"".join(frame(encode(query, MessageType.SYNC)) for query in ("(til 5000000)", "(+ 1 2)") * 3))
        for _ in range(3):
            opcode, text = await peer.receive_frame()
            assert opcode == TEXT
            assert b'"toobig"' in text
            assert (await peer.receive_frame())[0] == 2


@pytest.mark.trio
async def test_old_clients_see_an_ordinary_error() -> None:
    async with probed_server(max_reply_size=MIB) as server:
        peer = await server.open(baseline=True)
        await peer.send(frame(encode("(til 5000000)", MessageType.SYNC)))
        opcode, payload = await peer.receive_frame()
        assert opcode == 2
        assert b"toobig: the result has 40000026 bytes" in payload
