"""The values of updates in JSON: converted once, in short steps, and without exceptions."""

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing

from rayforce_trio._protocol import Failure, Update, response_frame, update_frame
from rayforce_trio._server import _json_updates
from rayforce_trio._server._json_transport import JsonTransport
from rayforce_trio._server._json_updates import MAX_UPDATE, JsonUpdates, UpdateValue
from rayforce_trio._transports import SharedMessage
from rayforce_trio._transports._memory import MemoryTransport, memory_pair
from rayforce_trio._values._json import json_pieces
from rayforce_trio._values._payloads import i64, list_of, string, symbols, table_of, vector
from rayforce_trio._values._types import DTYPES, Type

LONG = string("\x01" * 60_000)
OTHER = string("\x02" * 60_000)


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The payloads of which a piece was converted, a payload for each piece."""
    steps: list[bytes] = []

    def pieces(payload: bytes) -> Iterator[str]:
        for piece in json_pieces(payload):
            steps.append(payload)
            yield piece

    monkeypatch.setattr(_json_updates, "json_pieces", pieces)
    return steps


@pytest.fixture
def inner() -> Iterator[MemoryTransport]:
    server, client = memory_pair("rayforce.json.v1")
    yield server
    server.abort()
    client.abort()


def update(payload: bytes, sequence: int = 1) -> SharedMessage:
    return SharedMessage(update_frame(Update(1, sequence, 0, payload)))


def shown(transport: MemoryTransport) -> list[Any]:
    """Return the updates that were sent."""
    return [json.loads(str(text))["update"] for text in transport.sent]


def whole(payload: bytes) -> str | Failure:
    value = UpdateValue(payload)
    while not value.step():
        pass
    assert value.result is not None
    return value.result


def test_a_short_value_is_converted_at_once() -> None:
    value = JsonUpdates().value(i64(3))
    assert value.result == '{"type":"i64","value":3}'
    assert value.step()


def test_a_value_is_converted_once_for_all_subscribers(converted: list[bytes]) -> None:
    updates = JsonUpdates()
    values = {updates.value(i64(3)) for _ in range(100)}
    assert len(values) == len(converted) == 1


def test_only_the_latest_values_are_kept(converted: list[bytes]) -> None:
    updates = JsonUpdates()
    for number in range(_json_updates._KEPT):
        updates.value(i64(number))
    updates.value(i64(0))
    updates.value(i64(100))
    del converted[:]
    updates.value(i64(0))
    assert converted == []
    updates.value(i64(1))
    assert converted == [i64(1)]


@pytest.mark.parametrize("kind", [*DTYPES, Type.SYMBOL])
def test_the_longest_vector_arrives(kind: Type) -> None:
    if kind is Type.SYMBOL:
        payload = symbols(["ab"] * ((MAX_UPDATE - 10) // 3))
    else:
        size = DTYPES[kind].itemsize
        count = (MAX_UPDATE - 10) // size
        payload = vector(kind, count, [bytes([1]) * size * count])
    assert len(payload) > MAX_UPDATE - 16
    result = whole(payload)
    assert isinstance(result, str), result
    assert json.loads(result)["type"] == "vector"


def test_a_table_of_a_thousand_rows_arrives() -> None:
    columns = [vector(kind, 1000, [bytes(1000 * DTYPES[kind].itemsize)]) for kind in (Type.I64, Type.F64)]
    result = whole(table_of(["id", "price", "symbol"], [*columns, symbols(["GOOG"] * 1000)]))
    assert isinstance(result, str)
    assert json.loads(result)["length"] == 1000


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (i64(3)[:-1], "io"),
        (b"\x50damaged", "io"),
        (string("a" * MAX_UPDATE), "toobig"),
        (list_of([list_of([]) for _ in range(6000)]), "toobig"),
    ],
    ids=["cut", "unknown", "long", "many small parts"],
)
def test_a_value_that_cannot_be_converted_becomes_an_error(payload: bytes, code: str) -> None:
    """Clients choose what they publish: the server passes it on, and nobody else may notice."""
    result = whole(payload)
    assert isinstance(result, Failure)
    assert result.code == code


@pytest.mark.trio
async def test_a_long_value_is_sent_when_the_task_has_converted_it(inner: MemoryTransport) -> None:
    updates = JsonUpdates()
    transport = JsonTransport(inner, updates)
    message = update(LONG)
    sent = trio.Event()

    def send_again() -> None:
        assert transport.send_between(message)
        sent.set()

    transport.on_idle = send_again
    assert not transport.send_between(message)
    assert not transport.send_between(message)
    assert inner.sent == []
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(updates.run)
            await sent.wait()
            nursery.cancel_scope.cancel()
    assert [(shown_update["sequence"], len(shown_update["value"]["value"])) for shown_update in shown(inner)] == [
        (1, 60_000)
    ]


@pytest.mark.trio
async def test_long_values_take_turns_and_other_tasks_run_between_their_pieces(
    converted: list[bytes], inner: MemoryTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayforce_trio._tasks.TIME_SLICE", 0.0)
    updates = JsonUpdates()
    first, second = updates.value(LONG), updates.value(OTHER)
    finished = trio.Event()
    inner.on_idle = finished.set
    second.waiting.add(inner)
    begun = len(converted)
    seen = [begun]

    async def watch() -> None:
        while True:
            await trio.lowlevel.checkpoint()
            if len(converted) > seen[-1]:
                seen.append(len(converted))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(updates.run)
            nursery.start_soon(watch)
            await finished.wait()
            nursery.cancel_scope.cancel()
    assert isinstance(first.result, str)
    assert isinstance(second.result, str)
    assert converted[begun:] == [LONG, OTHER] * ((len(converted) - begun) // 2)
    assert max(after - before for before, after in pairwise(seen)) <= 2


@pytest.mark.trio
async def test_a_value_that_is_no_longer_kept_is_not_converted_again(
    converted: list[bytes], inner: MemoryTransport
) -> None:
    """Otherwise many clients with different updates could convert for ever."""
    updates = JsonUpdates()
    transport = JsonTransport(inner, updates)
    finished = trio.Event()
    transport.on_idle = finished.set
    assert not transport.send_between(update(LONG))
    for number in range(_json_updates._KEPT):
        updates.value(i64(number))
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(updates.run)
            await finished.wait()
            nursery.cancel_scope.cancel()
    pieces = converted.count(LONG)
    assert transport.send_between(update(LONG))
    assert converted.count(LONG) == pieces
    assert len(shown(inner)) == 1


@pytest.mark.trio
async def test_another_update_may_take_the_place_of_one_that_waits(inner: MemoryTransport) -> None:
    """The outbox may drop an update while it is converted."""
    updates = JsonUpdates()
    transport = JsonTransport(inner, updates)
    assert not transport.send_between(update(LONG, 1))
    assert transport.send_between(update(i64(5), 2))
    assert [shown_update["sequence"] for shown_update in shown(inner)] == [2]


@pytest.mark.trio
async def test_a_transport_may_end_while_its_update_is_converted(inner: MemoryTransport) -> None:
    updates = JsonUpdates()
    transport = JsonTransport(inner, updates)
    assert not transport.send_between(update(LONG))
    transport.abort()
    value = updates.value(LONG)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(updates.run)
            while value.result is None:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_message_that_is_no_update_is_not_sent(inner: MemoryTransport) -> None:
    assert JsonTransport(inner, JsonUpdates()).send_between(SharedMessage(response_frame(i64(1))))
    assert inner.sent == []
