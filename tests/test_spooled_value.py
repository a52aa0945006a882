"""Values that the server keeps for streams: the replies that cannot be kept."""

import tempfile
from functools import partial
from pathlib import Path

import pytest
import trio

from rayforce_trio._engines import Session
from rayforce_trio._protocol import HEADER_SIZE, Failure, Frame, Header, MessageType, Reply, Result
from rayforce_trio._server._spooled_value import SpooledValue, spool
from rayforce_trio._values._payloads import Buffer, list_of, string, table_of, vector
from rayforce_trio._values._types import Type

COUNT = 1000
NUMBERS = vector(Type.U8, COUNT, [bytes(COUNT)])
WIDE = table_of(map(str, range(1000)), [vector(Type.U8, 1, [b"x"])] * 1000)


class PartialSession(Session):
    """Has a reply of which a part is unread."""

    def __init__(self, value: Buffer, first: int) -> None:
        payload = list_of([string(""), value])
        whole = Header(0, MessageType.RESPONSE, len(payload)).pack() + payload
        self.reply = Result(whole[:first])
        self._rest = whole[first:]
        self.unread = len(self._rest)

    async def receive_some(self) -> bytes:
        await trio.lowlevel.checkpoint()
        some, self._rest = self._rest[:100], self._rest[100:]
        self.unread = len(self._rest)
        return some

    async def request(self, frame: Frame) -> Reply:
        raise NotImplementedError

    async def post(self, frame: Frame) -> Failure | None:
        raise NotImplementedError

    def cancel(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError


@pytest.mark.trio
@pytest.mark.parametrize("first", [HEADER_SIZE + 30, 500, 10_000], ids=["its beginning", "a part", "all of it"])
async def test_a_reply_is_kept_however_much_of_it_has_arrived(first: int) -> None:
    stored: list[int] = []
    session = PartialSession(NUMBERS, first)
    value = await spool(session, session.reply, stored.append)
    assert isinstance(value, SpooledValue)
    assert sum(stored) >= len(NUMBERS)
    assert not session.unread


@pytest.mark.trio
async def test_a_whole_reply_that_is_too_long_is_an_error() -> None:
    session = PartialSession(NUMBERS, 10_000)
    session.max_reply_size = 500
    reply = await spool(session, session.reply, lambda _: None)
    assert isinstance(reply, Failure)
    assert reply.code == "toobig"


@pytest.mark.trio
async def test_a_reply_that_cannot_be_stored_is_read_to_its_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    session = PartialSession(NUMBERS, 500)
    reply = await spool(session, session.reply, lambda _: None)
    assert isinstance(reply, Failure)
    assert reply.code == "io"
    assert "the server cannot store the result in a temporary file" in reply.message
    assert "TMPDIR" in reply.message
    assert not session.unread


@pytest.mark.trio
async def test_other_tasks_run_while_a_value_with_many_columns_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayforce_trio._tasks.TIME_SLICE", 0.0)
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_turns)
        session = PartialSession(WIDE, 1_000_000)
        value = await spool(session, session.reply, lambda _: None)
        assert isinstance(value, SpooledValue)
        assert turns >= 1000
        for use in value.description, partial(value.batch, 0, 1), value.release:
            before = turns
            await use()
            assert turns - before >= 1000 // 20
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_value_can_be_used_after_a_batch_was_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    session = PartialSession(WIDE, 1_000_000)
    value = await spool(session, session.reply, lambda _: None)
    assert isinstance(value, SpooledValue)
    expected = await value.batch(0, 1)
    monkeypatch.setattr("rayforce_trio._tasks.TIME_SLICE", 0.0)
    with trio.CancelScope() as scope:
        scope.cancel()
        await value.batch(0, 1)
    assert scope.cancelled_caught
    assert await value.batch(0, 1) == expected
    assert bytes(expected.frame[HEADER_SIZE:]) == WIDE


@pytest.mark.trio
async def test_a_table_with_a_column_of_an_unknown_type_is_an_error() -> None:
    table = table_of(["n"], [NUMBERS]).replace(NUMBERS[:2], b"\x4d\x00")
    session = PartialSession(table, 10_000)
    reply = await spool(session, session.reply, lambda _: None)
    assert isinstance(reply, Failure)
    assert "the result cannot be divided into batches" in reply.message
