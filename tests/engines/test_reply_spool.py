import errno
import hashlib
import os
import tempfile
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from unittest import mock

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from support.leaks import descriptors, no_leaks

from rayforce_trio._engines import _reply_spool
from rayforce_trio._engines._reply_spool import MEMORY_LIMIT, WAIT_LIMIT, ReplySpool

FULL = bytes(MEMORY_LIMIT)

sizes = st.integers(1, 40)


@pytest.fixture
def reply_spool() -> Iterator[ReplySpool]:
    with closing(ReplySpool()) as made:
        yield made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What finds no room in memory goes to the file at once."""
    monkeypatch.setattr(_reply_spool, "WAIT_LIMIT", 0.0)


def numbered(sizes: list[int]) -> list[bytes]:
    """Return pieces of these sizes, in which no byte is like one near to it."""
    numbers = count()
    return [bytes(next(numbers) % 251 for _ in range(size)) for size in sizes]


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


async def take(reply_spool: ReplySpool, size: int) -> bytes:
    """Get pieces until they hold so many bytes."""
    data = b""
    with trio.fail_after(30):
        while len(data) < size:
            piece = await reply_spool.get()
            assert piece
            data += piece
    assert len(data) == size
    return data


# First in, first out


@given(st.integers(1, 100), st.lists(sizes | st.none()))
def test_what_is_put_is_got_in_order(limit: int, steps: list[int | None]) -> None:
    """A step puts so many bytes, or gets some if there are any."""

    async def run() -> None:
        left = b"".join(pieces)
        unread = 0
        for step in steps:
            if step is not None:
                await reply_spool.put(pieces.pop(0))
                unread += step
            elif unread:
                data = await reply_spool.get()
                assert data
                assert left.startswith(data)
                left = left[len(data) :]
                unread -= len(data)
        assert await take(reply_spool, unread) == left

    pieces = numbered([step for step in steps if step is not None])
    with mock.patch.multiple(_reply_spool, MEMORY_LIMIT=limit, WAIT_LIMIT=0.0), closing(ReplySpool()) as reply_spool:
        trio.run(run)


@given(st.data())
def test_two_tasks_at_any_pace_keep_the_order(data: st.DataObject) -> None:
    pieces = numbered(data.draw(st.lists(sizes, max_size=20)))
    got: list[bytes] = []

    async def pause(length: int) -> None:
        for _ in range(length):
            await trio.lowlevel.checkpoint()

    async def put_all() -> None:
        for piece, length in zip(pieces, put_pauses, strict=False):
            await pause(length)
            await reply_spool.put(piece)

    async def get_all() -> None:
        left = sum(map(len, pieces))
        while left:
            await pause(get_pauses[len(got) % len(get_pauses)])
            got.append(await reply_spool.get())
            left -= len(got[-1])

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put_all)
            nursery.start_soon(get_all)

    pauses = st.integers(0, 20)
    put_pauses = data.draw(st.lists(pauses, min_size=len(pieces), max_size=len(pieces)))
    get_pauses = data.draw(st.lists(pauses, min_size=1, max_size=5))
    patience = data.draw(st.sampled_from([0.0, 1000.0]))
    limit = data.draw(st.integers(1, 100))
    with (
        mock.patch.multiple(_reply_spool, MEMORY_LIMIT=limit, WAIT_LIMIT=patience),
        closing(ReplySpool()) as reply_spool,
    ):
        trio.run(run)
    assert b"".join(got) == b"".join(pieces)


@pytest.mark.trio
async def test_many_megabytes_come_back_in_order(reply_spool: ReplySpool, impatient: None) -> None:
    put, got = hashlib.sha256(), hashlib.sha256()
    total = 64 * 700_000

    async def put_all() -> None:
        for n in range(64):
            piece = bytes([n]) * 700_000
            put.update(piece)
            await reply_spool.put(piece)

    async with no_leaks():
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(put_all)
                while total:
                    piece = await reply_spool.get()
                    got.update(piece)
                    total -= len(piece)
        reply_spool.close()
    assert got.digest() == put.digest()


@pytest.mark.trio
async def test_get_waits_for_what_comes(reply_spool: ReplySpool) -> None:
    got = []

    async def get() -> None:
        got.append(await reply_spool.get())

    with trio.fail_after(30):
        for n in range(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(get)
                await trio.testing.wait_all_tasks_blocked()
                assert len(got) == n
                await reply_spool.put(bytes([n]))
    assert got == [b"\0", b"\1", b"\2"]


@pytest.mark.trio
async def test_put_is_no_checkpoint_while_there_is_room_nor_get_while_there_is_something(
    reply_spool: ReplySpool,
) -> None:
    for _ in range(2):
        with trio.testing.assert_no_checkpoints():
            await reply_spool.put(FULL[1:])
            await reply_spool.put(b"1")
            assert await reply_spool.get() == FULL[1:]
            assert await reply_spool.get() == b"1"


@pytest.mark.trio
async def test_a_get_that_finds_nothing_is_a_checkpoint(reply_spool: ReplySpool) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await reply_spool.get()
    assert scope.cancelled_caught
    await reply_spool.put(b"1")
    assert await reply_spool.get() == b"1"


# Memory


@pytest.mark.trio
async def test_memory_is_bounded(reply_spool: ReplySpool, impatient: None) -> None:
    tracemalloc.start()
    try:
        for n in range(500):
            await reply_spool.put(bytes([n % 256]) * 64 * 1024)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * MEMORY_LIMIT


@pytest.mark.trio
@pytest.mark.parametrize("size", [100, 64 * 1024, MEMORY_LIMIT // 3, MEMORY_LIMIT])
async def test_no_more_stays_in_memory_than_its_limit(reply_spool: ReplySpool, impatient: None, size: int) -> None:
    with trio.testing.assert_no_checkpoints():
        for _ in range(MEMORY_LIMIT // size):
            await reply_spool.put(bytes(size))
    with trio.testing.assert_checkpoints():
        await reply_spool.put(bytes(size))


@pytest.mark.trio
async def test_a_piece_beyond_the_limit_is_taken_alone(reply_spool: ReplySpool, impatient: None) -> None:
    with trio.testing.assert_no_checkpoints():
        await reply_spool.put(FULL + b"1")
    with trio.testing.assert_checkpoints():
        await reply_spool.put(b"2")
    assert await take(reply_spool, len(FULL) + 2) == FULL + b"12"


@pytest.mark.trio
async def test_a_file_that_was_read_to_its_end_is_done_with(reply_spool: ReplySpool, impatient: None) -> None:
    """What comes later is kept in memory again; when that is full, the file has room again."""
    for n in range(3):
        await reply_spool.put(FULL)
        await reply_spool.put(bytes([n]))
        with trio.testing.assert_checkpoints():
            await reply_spool.put(bytes([n]))
        assert await take(reply_spool, len(FULL) + 2) == FULL + bytes([n, n])
        with trio.testing.assert_no_checkpoints():
            await reply_spool.put(b"in memory")
        assert await reply_spool.get() == b"in memory"


# Patience


class Put:
    """A put in a task of its own; `done` is set at its end."""

    def __init__(self, nursery: trio.Nursery, reply_spool: ReplySpool, data: bytes) -> None:
        self.done = trio.Event()
        nursery.start_soon(self._run, reply_spool, data)

    async def _run(self, reply_spool: ReplySpool, data: bytes) -> None:
        await reply_spool.put(data)
        self.done.set()

    async def waits(self) -> bool:
        await trio.testing.wait_all_tasks_blocked()
        return not self.done.is_set()


@pytest.mark.trio
async def test_a_put_that_finds_no_room_waits_until_there_is(
    reply_spool: ReplySpool, mock_clock: trio.testing.MockClock
) -> None:
    async with no_leaks(), trio.open_nursery() as nursery:
        await reply_spool.put(FULL)
        put = Put(nursery, reply_spool, b"1")
        assert await put.waits()
        mock_clock.jump(WAIT_LIMIT / 2)
        assert await put.waits()
        assert await reply_spool.get() == FULL
        await put.done.wait()
        with trio.testing.assert_no_checkpoints():
            assert await reply_spool.get() == b"1"


@pytest.mark.trio
async def test_a_put_waits_no_longer_than_the_patience(
    reply_spool: ReplySpool, mock_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        await reply_spool.put(FULL)
        put = Put(nursery, reply_spool, b"1")
        assert await put.waits()
        mock_clock.jump(WAIT_LIMIT)
        await put.done.wait()
    assert await take(reply_spool, len(FULL) + 1) == FULL + b"1"


@pytest.mark.trio
async def test_all_puts_together_wait_no_longer_than_the_patience(
    reply_spool: ReplySpool, mock_clock: trio.testing.MockClock
) -> None:
    await reply_spool.put(FULL)
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            put = Put(nursery, reply_spool, FULL)
            assert await put.waits()
            mock_clock.jump(WAIT_LIMIT / 5)
            assert await put.waits()
            assert await reply_spool.get() == FULL
            await put.done.wait()
        put = Put(nursery, reply_spool, b"1")
        assert await put.waits()
        mock_clock.jump(WAIT_LIMIT / 5 + 0.001)
        await put.done.wait()
    assert await take(reply_spool, len(FULL) + 1) == FULL + b"1"
    waited_until = trio.current_time()
    for _ in range(3):
        await reply_spool.put(FULL)
        assert trio.current_time() == waited_until
    assert await take(reply_spool, 3 * len(FULL)) == 3 * FULL


@pytest.mark.trio
async def test_only_waiting_uses_up_patience(reply_spool: ReplySpool, mock_clock: trio.testing.MockClock) -> None:
    await reply_spool.put(FULL)
    mock_clock.jump(100 * WAIT_LIMIT)
    async with trio.open_nursery() as nursery:
        put = Put(nursery, reply_spool, b"1")
        mock_clock.jump(WAIT_LIMIT / 2)
        assert await put.waits()
        assert await reply_spool.get() == FULL


# The file


@pytest.mark.trio
async def test_the_file_has_no_name_and_is_given_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, impatient: None
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with no_leaks():
        before = descriptors()
        with closing(ReplySpool()) as reply_spool:
            await reply_spool.put(FULL)
            assert descriptors() == before
            await reply_spool.put(b"1")
            assert len(descriptors() - before) == 1
            assert names_in(tmp_path) == []
        assert descriptors() == before


@pytest.mark.trio
async def test_closing_again_is_nothing(reply_spool: ReplySpool, impatient: None) -> None:
    reply_spool.close()
    reply_spool.close()
    await reply_spool.put(FULL)
    await reply_spool.put(b"1")
    reply_spool.close()
    reply_spool.close()


@pytest.mark.trio
async def test_a_get_that_reads_the_file_while_it_is_closed_ends_as_usual(
    monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    """An engine can be lost at any moment. The descriptor must not be given to another file meanwhile."""
    pread = os.pread
    reading, may_read = threading.Event(), threading.Event()
    before = descriptors()

    def slow_pread(file: int, size: int, offset: int) -> bytes:
        reading.set()
        may_read.wait(30)
        return pread(file, size, offset)

    async def get() -> None:
        with scope:
            got.append(await reply_spool.get())

    scope, got, reply_spool = trio.CancelScope(), list[bytes](), ReplySpool()
    await reply_spool.put(FULL)
    await reply_spool.put(b"1")
    await take(reply_spool, len(FULL))
    monkeypatch.setattr(os, "pread", slow_pread)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(get)
            await trio.to_thread.run_sync(reading.wait, 30)
            scope.cancel()
            reply_spool.close()
            may_read.set()
    assert got == [b"1"]
    assert descriptors() == before


@pytest.mark.trio
async def test_a_file_system_that_takes_little_at_a_time_gets_it_all(
    monkeypatch: pytest.MonkeyPatch, reply_spool: ReplySpool, impatient: None
) -> None:
    pwrite, pread = os.pwrite, os.pread
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: pwrite(file, data[:7], offset))
    monkeypatch.setattr(os, "pread", lambda file, size, offset: pread(file, min(size, 3), offset))
    pieces = numbered([100, 1, 49])
    await reply_spool.put(FULL)
    for piece in pieces:
        await reply_spool.put(piece)
    assert await take(reply_spool, len(FULL) + 150) == FULL + b"".join(pieces)


@pytest.mark.trio
async def test_what_is_being_written_is_not_read_yet(
    monkeypatch: pytest.MonkeyPatch, reply_spool: ReplySpool, impatient: None
) -> None:
    pwrite = os.pwrite
    written, may_return = threading.Event(), threading.Event()

    def slow_pwrite(file: int, data: memoryview, offset: int) -> int:
        count = pwrite(file, data, offset)
        written.set()
        may_return.wait(30)
        return count

    await reply_spool.put(FULL)
    await reply_spool.put(b"one")
    monkeypatch.setattr(os, "pwrite", slow_pwrite)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reply_spool.put, b"two")
            await trio.to_thread.run_sync(written.wait, 30)
            assert await take(reply_spool, len(FULL) + 3) == FULL + b"one"
            may_return.set()
            assert await take(reply_spool, 3) == b"two"


@pytest.mark.trio
@pytest.mark.parametrize("room", [0, 100])
async def test_when_the_disk_is_full_put_says_so(monkeypatch: pytest.MonkeyPatch, impatient: None, room: int) -> None:
    """And what was written before can still be read."""
    pwrite = os.pwrite

    def pwrite_within(file: int, data: memoryview, offset: int) -> int:
        if offset >= room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(file, data[: room - offset], offset)

    monkeypatch.setattr(os, "pwrite", pwrite_within)
    async with no_leaks():
        with closing(ReplySpool()) as reply_spool:
            await reply_spool.put(FULL)
            with pytest.raises(OSError, match="No space left on device") as caught:
                await reply_spool.put(bytes(range(200)))
            assert caught.value.errno == errno.ENOSPC
            assert await take(reply_spool, len(FULL) + room) == FULL + bytes(range(room))


@pytest.mark.trio
async def test_when_no_file_can_be_made_put_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reply_spool: ReplySpool, impatient: None
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    await reply_spool.put(FULL)
    with pytest.raises(FileNotFoundError, match=r"; set TMPDIR to a writable directory$"):
        await reply_spool.put(b"1")
    assert await reply_spool.get() == FULL


@pytest.mark.trio
async def test_little_is_decompressed_at_once() -> None:
    """Compressed bytes may become 64 times as many."""
    with closing(ReplySpool(lambda data: data * 64)) as reply_spool:
        await reply_spool.put(FULL)
        await reply_spool.put(b"1")
        left = 64 * len(FULL)
        while left:
            piece = await reply_spool.get()
            assert len(piece) <= 4 * 1024 * 1024
            assert not piece.strip(b"\0")
            left -= len(piece)
        assert await reply_spool.get() == b"1" * 64
