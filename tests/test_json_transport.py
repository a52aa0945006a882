"""The transport of a client of `rayforce.json.v1`, over a transport in memory."""

import json
from collections.abc import Iterator

import pytest
import trio

from rayforce_trio._protocol import dump_error, dump_hello, dump_subscribed, response_frame
from rayforce_trio._protocol._control import Position
from rayforce_trio._server._json_messages import JsonMessages
from rayforce_trio._server._json_transport import JsonTransport
from rayforce_trio._server._json_updates import JsonUpdates
from rayforce_trio._transports import SharedMessage
from rayforce_trio._transports._memory import MemoryTransport, memory_pair
from rayforce_trio._values._payloads import i64, list_of

pytestmark = pytest.mark.trio

ANSWER = '{"id":1,"result":{"type":"i64","value":3}}'


@pytest.fixture
def ends() -> Iterator[tuple[MemoryTransport, MemoryTransport]]:
    server, client = memory_pair("rayforce.json.v1")
    yield server, client
    server.abort()
    client.abort()


async def requested(ends: tuple[MemoryTransport, MemoryTransport]) -> JsonTransport:
    """Return the transport of a server that has received one request."""
    transport = JsonTransport(ends[0], JsonUpdates())
    assert transport.has_bytes()
    await transport.receive()
    await ends[1].send('{"id": 1, "query": "3"}')
    assert transport.has_bytes()
    assert isinstance(await transport.receive(), bytes)
    assert transport.receive_nowait() is None
    return transport


async def test_a_short_answer_is_sent_at_once(ends: tuple[MemoryTransport, MemoryTransport]) -> None:
    transport = await requested(ends)
    frame = response_frame(i64(3))
    assert not transport.send_now(frame)  # a transport in memory sends nothing without waiting
    await transport.send(frame)
    assert await ends[1].receive() == ANSWER


async def test_a_short_answer_that_takes_long_to_convert_is_not_sent_at_once(
    ends: tuple[MemoryTransport, MemoryTransport],
) -> None:
    transport = await requested(ends)
    frame = response_frame(list_of([list_of([])] * 90))
    assert len(frame) < 1024
    assert not transport.send_nowait(frame)
    await transport.send(frame)
    assert len(json.loads(str(await ends[1].receive()))["result"]["values"]) == 90


LONG_REQUEST = json.dumps({"id": 1, "call": "f", "arguments": [[[1]] * 1000]})


async def test_a_long_request_is_translated_by_receive(ends: tuple[MemoryTransport, MemoryTransport]) -> None:
    transport = JsonTransport(ends[0], JsonUpdates())
    assert isinstance(transport.receive_nowait(), str)
    await ends[1].send(LONG_REQUEST)
    await ends[1].send('{"id": 2, "query": "3"}')
    assert transport.receive_nowait() is None
    assert transport.has_bytes()
    first = await transport.receive()
    assert first == JsonMessages().receive(LONG_REQUEST)
    assert isinstance(transport.receive_nowait(), bytes)
    assert transport.receive_nowait() is None


async def test_messages_that_ask_for_nothing_are_taken_one_at_a_time(
    ends: tuple[MemoryTransport, MemoryTransport],
) -> None:
    """A client may send thousands of them at once: `receive` yields between them."""
    transport = JsonTransport(ends[0], JsonUpdates())
    assert isinstance(transport.receive_nowait(), str)
    for _ in range(3):
        await ends[1].send('{"cancel": 9}')
    await ends[1].send('{"id": 1, "query": "3"}')
    for _ in range(3):
        assert transport.receive_nowait() is None
    assert isinstance(transport.receive_nowait(), bytes)
    await ends[1].send('{"cancel": 9}')
    await ends[1].send('{"id": 2, "query": "3"}')
    assert isinstance(await transport.receive(), bytes)


async def test_other_tasks_run_while_a_request_is_translated(
    ends: tuple[MemoryTransport, MemoryTransport], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And if `receive` is cancelled meanwhile, no message is lost."""
    monkeypatch.setattr("rayforce_trio._tasks.TIME_SLICE", 0.0)
    transport = JsonTransport(ends[0], JsonUpdates())
    await transport.receive()
    await ends[1].send(LONG_REQUEST)
    rounds = 0
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.receive)
            while transport._arriving is None:
                await trio.lowlevel.checkpoint()
            for _ in range(100):
                await trio.lowlevel.checkpoint()
                rounds += transport._arriving is not None
            nursery.cancel_scope.cancel()
        assert rounds == 100
        assert await transport.receive() == JsonMessages().receive(LONG_REQUEST)


async def test_an_error_of_the_server_is_an_answer(ends: tuple[MemoryTransport, MemoryTransport]) -> None:
    transport = await requested(ends)
    await transport.send(dump_error(1, "busy", "too many"))
    assert await ends[1].receive() == '{"id":1,"error":{"code":"busy","message":"too many"}}'


async def test_a_damaged_reply_of_the_engine_is_an_error(ends: tuple[MemoryTransport, MemoryTransport]) -> None:
    transport = await requested(ends)
    frame = response_frame(i64(3)[:-1])
    assert not transport.send_nowait(frame)
    await transport.send(frame)
    text = await ends[1].receive()
    assert isinstance(text, str)
    assert text.startswith('{"id":1,"error":{"code":"io","message":"the reply is damaged')


async def test_notices_are_passed_on_and_other_pushes_are_not(ends: tuple[MemoryTransport, MemoryTransport]) -> None:
    transport = await requested(ends)
    await transport.send(dump_hello(["streams"]))
    assert transport.send_between(dump_hello(["streams"]))
    assert transport.send_between(SharedMessage(response_frame(i64(1))))
    assert transport.send_between(dump_subscribed(1, Position("e", 2)))
    assert await ends[1].receive() == dump_subscribed(1, Position("e", 2))


async def test_the_rest_is_that_of_the_inner_transport(ends: tuple[MemoryTransport, MemoryTransport]) -> None:
    inner, _ = ends
    transport = JsonTransport(inner, JsonUpdates())
    transport.max_message_size = 5
    assert inner.max_message_size == transport.max_message_size == 5
    called: list[str] = []
    transport.on_idle = lambda: called.append("idle")
    transport.notify_when_idle()
    transport.on_unfinished = lambda count: called.append(f"unfinished {count}")
    transport.on_unfinished(3)
    transport.on_stored = lambda count: called.append(f"stored {count}")
    inner.on_stored(4)
    assert called == ["idle", "unfinished 3", "stored 4"]
    del transport.on_idle
    transport.on_idle()
    assert (transport.unfinished, transport.stored, transport.peer_is_gone()) == (0, 0, False)
    transport.flush()
    transport.ping()
    transport.interrupt()
    transport.begin_close(1013, "")
    with trio.move_on_after(0) as scope:
        await transport.run()
    assert scope.cancelled_caught
    await transport.aclose(1000)
