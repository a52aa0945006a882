"""Files that are read in threads, and their end."""

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio

from rayforce_trio._cli._console import UsageError
from rayforce_trio._cli._files import BYTES_PER_BATCH, open_source
from rayforce_trio._cli._input_file import InputFile

BOUND = 30


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[InputFile]:
    os.mkfifo(tmp_path / "pipe")
    with closing(InputFile(str(tmp_path / "pipe"))) as file:
        yield file


def test_a_peek_does_not_change_the_next_reads(tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(b"0123456789")
    with closing(InputFile(str(tmp_path / "rows"))) as file:
        assert file.peek(4) == b"0123"
        assert [file.read(2), file.read(3), file.read(9)] == [b"01", b"234", b"56789"]
        assert file.tell() == file.size == 10
        assert file.read(1) == b""


def test_a_peek_may_find_the_end(tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(b"012")
    with closing(InputFile(str(tmp_path / "rows"))) as file:
        assert file.peek(4) == b"012"
        assert file.read(4) == b"012"


def test_a_read_from_a_pipe_waits_until_all_is_there(pipe: InputFile) -> None:
    with Path(pipe.name).open("wb", buffering=0) as writer:
        writer.write(b"01")
        threading.Timer(0, writer.write, [b"23"]).start()
        assert pipe.read(4) == b"0123"
        writer.write(b"4")
    assert pipe.read(4) == b"4"


@pytest.mark.parametrize(("name", "says"), [("missing", "No such file or directory"), ("", "Is a directory")])
def test_a_file_that_cannot_be_opened(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"^{tmp_path / name} cannot be read: {says}"):
        InputFile(str(tmp_path / name))


@pytest.mark.trio
async def test_errors_of_the_function_are_raised_as_they_are(pipe: InputFile) -> None:
    with pytest.raises(ZeroDivisionError):
        await pipe.call(lambda: 1 // 0)
    assert await pipe.call(lambda: 7) == 7
    assert not pipe.closed


def is_closed(file: InputFile) -> bool:
    return all(opened.closed for opened in (file._file, file._ended, file._end))


@pytest.mark.trio
async def test_the_thread_keeps_neither_the_function_nor_its_result(pipe: InputFile) -> None:
    """Otherwise it could be the one to free them, which a thread must not do while the process ends."""

    class Source:
        def read(self) -> "Source":
            return Source()

    for _ in range(100):
        source = Source()
        result = await pipe.call(source.read)
        kept = [weakref.ref(source), weakref.ref(result)]
        del source, result
        assert [reference() for reference in kept] == [None, None]


def reading(file: InputFile, *, begins: Callable[[], object], ends: list[bytes]) -> None:
    begins()
    ends.append(file.read(4))


@pytest.mark.trio
@pytest.mark.parametrize("is_written_to", [False, True])
async def test_a_cancelled_call_ends_with_its_thread(pipe: InputFile, is_written_to: bool) -> None:
    begun = trio.Event()
    ends: list[bytes] = []
    with trio.fail_after(BOUND):
        writer = os.open(pipe.name, os.O_WRONLY) if is_written_to else None
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                await pipe.call(lambda: reading(pipe, begins=lambda: trio.from_thread.run_sync(begun.set), ends=ends))
                raise AssertionError("it was not cancelled")

            nursery.start_soon(read)
            await begun.wait()
            nursery.cancel_scope.cancel()
        assert ends == [b""]
        if writer is not None:
            os.close(writer)
    assert not is_closed(pipe)
    pipe.close()
    assert is_closed(pipe)


@pytest.mark.trio
async def test_a_call_in_a_cancelled_scope_reads_nothing(pipe: InputFile) -> None:
    with trio.fail_after(BOUND), trio.CancelScope() as scope:
        scope.cancel()
        await pipe.call(lambda: pipe.read(1))
    assert scope.cancelled_caught


@pytest.mark.trio
async def test_an_error_after_the_cancellation_is_dropped(pipe: InputFile) -> None:
    """It comes from the end of the reads."""
    begun = trio.Event()

    def fail() -> None:
        trio.from_thread.run_sync(begun.set)
        pipe.read(1)
        raise EOFError

    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pipe.call, fail)
            await begun.wait()
            nursery.cancel_scope.cancel()


def test_close_ends_the_reads_of_other_threads(pipe: InputFile) -> None:
    """Once it has returned, no thread is about to use the descriptor, which the next file may get."""
    begun = threading.Event()
    ends: list[bytes] = []
    thread = threading.Thread(target=lambda: reading(pipe, begins=begun.set, ends=ends))
    thread.start()
    assert begun.wait(BOUND)
    pipe.close()
    pipe.close()
    thread.join(BOUND)
    assert ends == [b""]
    assert pipe.read(1) == b""


def test_every_close_waits_for_the_reads(pipe: InputFile) -> None:
    """None may return while a thread is about to read the descriptor, which the next file may get."""
    happened = []

    def close() -> None:
        pipe.close()
        happened.append("closed")

    threads = [threading.Thread(target=close, daemon=True) for _ in range(2)]
    with pipe._reading:
        for thread in threads:
            thread.start()
        happened.append("reads have ended")
    for thread in threads:
        thread.join(BOUND)
    assert happened == ["reads have ended", "closed", "closed"]
    assert is_closed(pipe)


def test_pyarrows_thread_has_left_the_reads_when_the_file_is_closed(
    pipe: InputFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it asked for the interpreter while the process ends, the process would be aborted."""
    was_left_behind: list[bool] = []
    has_returned = threading.Event()
    read = InputFile.read

    def late_read(file: InputFile, size: int) -> bytes:
        data = read(file, size)
        if file.closed:
            was_left_behind.append(has_returned.wait(0.1))  # as if the system had suspended the thread
        return data

    monkeypatch.setattr(InputFile, "read", late_read)
    with Path(pipe.name).open("wb") as rows:  # it stays open, so pyarrow waits for more
        writer = threading.Thread(target=rows.write, args=[b"n\n" + b"1\n" * BYTES_PER_BATCH])
        writer.start()
        source = open_source(pipe, {})
        assert source.next_batch().num_rows > 0
        writer.join(BOUND)
        pipe.close()
        seen = [*was_left_behind]
        has_returned.set()
    assert seen
    assert not any(seen)
