"""The values of updates in JSON: converted once, in short steps, and without exceptions."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing

from rayforce_trio._protocol import Failure, StoredUpdate, Update, dump_unsubscribed, response_frame, update_frame
from rayforce_trio._server import _json_updates
from rayforce_trio._server._counters import Counters
from rayforce_trio._server._hub import SharedUpdate
from rayforce_trio._server._json_transport import JsonTransport
from rayforce_trio._server._json_updates import MAX_UPDATE, JsonUpdates, UpdateValue
from rayforce_trio._server._side_messages import SideMessages
from rayforce_trio._transports import SharedMessage
from rayforce_trio._transports._memory import MemoryTransport, memory_pair
from rayforce_trio._values._json import json_pieces
from rayforce_trio._values._payloads import i64, list_of, string, symbols, table_of, vector
from rayforce_trio._values._types import DTYPES, Type
from rayforce_trio.errors import RayforceWSError

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


def one_end() -> Iterator[MemoryTransport]:
    server, client = memory_pair("rayforce.json.v1")
    yield server
    server.abort()
    client.abort()


inner = pytest.fixture(one_end, name="inner")
other = pytest.fixture(one_end, name="other")


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


@asynccontextmanager
async def running(updates: JsonUpdates) -> AsyncIterator[None]:
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(updates.run)
            yield
            nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_long_value_is_sent_when_the_task_has_converted_it(inner: MemoryTransport) -> None:
    updates = JsonUpdates()
    transport = JsonTransport(inner, updates)
    sent = trio.Event()
    transport.on_idle = sent.set
    assert transport.send_between(update(LONG))
    assert not transport.send_between(update(i64(5), 2))
    assert not transport.send_between(dump_unsubscribed(1, "left", ""))
    assert inner.sent == []
    async with running(updates):
        await sent.wait()
    assert [(shown_update["sequence"], len(shown_update["value"]["value"])) for shown_update in shown(inner)] == [
        (1, 60_000)
    ]
    assert transport.send_between(update(i64(5), 2))
    assert transport.send_between(dump_unsubscribed(1, "left", ""))
    assert len(inner.sent) == 3


@pytest.mark.trio
async def test_a_full_outbox_does_not_waste_conversions(converted: list[bytes], inner: MemoryTransport) -> None:
    """Updates arrive faster than they are converted: those that are converted are sent, and no others."""
    updates = JsonUpdates()
    transport = JsonTransport(inner, updates)
    errors: list[RayforceWSError] = []
    messages = SideMessages(transport, errors.append, 3 * len(LONG), Counters())
    async with running(updates):
        for number in range(200):
            value = string(str(number).rjust(3) + "\x01" * 60_000)
            messages.update(1, SharedUpdate(StoredUpdate(number, value)))
            assert len(updates._unfinished) <= 1
            await trio.lowlevel.checkpoint()
        while updates._unfinished or messages._outbox:
            await trio.lowlevel.checkpoint()
    assert errors == []
    sent = shown(inner)
    assert sent[-1]["sequence"] == 199
    assert sum(1 + shown_update["lost"] for shown_update in sent) == 200
    assert 1 < len(sent) == len(set(converted)) < 200


@pytest.mark.trio
async def test_long_values_take_turns_and_other_tasks_run_between_their_pieces(
    converted: list[bytes], inner: MemoryTransport, other: MemoryTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayforce_trio._tasks.TIME_SLICE", 0.0)
    updates = JsonUpdates()
    first, second = updates.value(LONG), updates.value(OTHER)
    finished = trio.Event()
    inner.on_idle = finished.set
    updates.convert(first, other)
    updates.convert(second, inner)
    begun = len(converted)
    seen = [begun]

    async def watch() -> None:
        while True:
            await trio.lowlevel.checkpoint()
            if len(converted) > seen[-1]:
                seen.append(len(converted))

    async with running(updates), trio.open_nursery() as nursery:
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
    sent = trio.Event()
    transport.on_idle = sent.set
    assert transport.send_between(update(LONG))
    for number in range(_json_updates._KEPT):
        updates.value(i64(number))
    async with running(updates):
        await sent.wait()
    assert converted.count(LONG) == len(list(json_pieces(LONG)))
    assert len(shown(inner)) == 1


@pytest.mark.trio
@pytest.mark.parametrize(
    "end",
    [
        lambda transport: transport.abort(),
        lambda transport: transport.begin_close(1001, ""),
        lambda transport: delattr(transport, "on_idle"),
    ],
    ids=["abort", "begin_close", "no one is told"],
)
async def test_a_value_for_which_no_transport_waits_is_not_converted(
    converted: list[bytes], inner: MemoryTransport, end: Callable[[JsonTransport], None]
) -> None:
    updates = JsonUpdates()
    transport = JsonTransport(inner, updates)
    transport.on_idle = lambda: None
    assert transport.send_between(update(LONG))
    begun = len(converted)
    end(transport)
    async with running(updates):
        while updates._unfinished:
            await trio.lowlevel.checkpoint()
    assert len(converted) == begun
    assert inner.sent == []


@pytest.mark.trio
async def test_a_value_that_was_given_up_is_converted_for_another_transport(
    inner: MemoryTransport, other: MemoryTransport
) -> None:
    updates = JsonUpdates()
    first = JsonTransport(inner, updates)
    assert first.send_between(update(LONG))
    first.begin_close(1001, "")
    second = JsonTransport(other, updates)
    sent = trio.Event()
    second.on_idle = sent.set
    async with running(updates):
        while updates._unfinished:
            await trio.lowlevel.checkpoint()
        assert second.send_between(update(LONG))
        await sent.wait()
    assert len(shown(other)) == 1


@pytest.mark.trio
async def test_a_task_that_is_started_again_goes_on(inner: MemoryTransport) -> None:
    updates = JsonUpdates()
    transport = JsonTransport(inner, updates)
    sent = trio.Event()
    transport.on_idle = sent.set
    assert transport.send_between(update(LONG))
    async with running(updates):
        pass
    assert not sent.is_set()
    async with running(updates):
        await sent.wait()


@pytest.mark.trio
async def test_an_update_is_dropped_if_the_connection_breaks_before_its_value_is_converted(
    inner: MemoryTransport,
) -> None:
    updates = JsonUpdates()
    transport = JsonTransport(inner, updates)
    told: list[None] = []
    transport.on_idle = lambda: told.append(None)
    assert transport.send_between(update(LONG))
    inner.abort()
    async with running(updates):
        while updates._unfinished:
            await trio.lowlevel.checkpoint()
    assert told == []


def test_a_value_that_is_too_long_is_neither_copied_nor_kept() -> None:
    updates = JsonUpdates()
    payload = memoryview(bytes(MAX_UPDATE + 1))
    value = updates.value(payload)
    assert isinstance(value.result, Failure)
    assert value.result.code == "toobig"
    assert not updates._kept


@pytest.mark.trio
async def test_a_message_that_is_no_update_is_not_sent(inner: MemoryTransport) -> None:
    assert JsonTransport(inner, JsonUpdates()).send_between(SharedMessage(response_frame(i64(1))))
    assert inner.sent == []
