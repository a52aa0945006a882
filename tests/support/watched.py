"""Queries and engine processes watched from outside: by files that queries write, by what Linux tells in `/proc`."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import count
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any

import anyio

from rayforce_trio._codec import decode, encode
from rayforce_trio._protocol import HEADER_SIZE, MessageType, Result, parse_header
from support import raw
from support.polling import until
from support.proxy import Lane

_CLOSE_WAIT = "08"
_numbers = count(1_000_000)


class WatchedQuery:
    """A query of which one can tell whether the engine has begun with it, and whether it came to its end.

    By itself it runs until it is released, and so shows that it was stopped, or that it was not, without any timing.

    Args:
        directory: where it leaves its traces.
        work: what it does instead of waiting to be released.

    Attributes:
        text: the query.
        value: what it comes to.
    """

    def __init__(self, directory: Path, work: str | None = None) -> None:
        self.value = next(_numbers)
        self._begun = directory / f"{self.value}.begun"
        self._ended = directory / f"{self.value}.ended"
        self._gate = directory / f"{self.value}.gate"
        self._gate.mkdir()
        work = work or f'(while (== 0 (count (.fs.list "{self._gate}"))) 1)'
        self.text = f'(do (write "{self._begun}" "") {work} (write "{self._ended}" "") {self.value})'

    @property
    def has_begun(self) -> bool:
        return self._begun.exists()

    @property
    def has_ended(self) -> bool:
        """Whether its last step was done."""
        return self._ended.exists()

    async def begun(self) -> None:
        """Wait until the engine has begun with it."""
        await until(lambda: self.has_begun)

    async def ended(self) -> None:
        """Wait until its last step was done."""
        await until(lambda: self.has_ended)

    def release(self) -> None:
        """Let it come to its end. Idempotent."""
        (self._gate / "open").touch()


class Queries:
    """Makes watched queries; none of them outlives its test, whatever the test finds."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._made: list[WatchedQuery] = []

    def __call__(self, work: str | None = None) -> WatchedQuery:
        query = WatchedQuery(self._directory, work)
        self._made.append(query)
        return query

    def release_all(self) -> None:
        for query in self._made:
            query.release()


def cpu_seconds(pid: int) -> float:
    """Return the processor time that all threads of a process have taken."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_asleep(pid: int) -> bool:
    """Return whether no thread of a process is running. Linux only."""
    threads = Path(f"/proc/{pid}/task").glob("*/stat")
    return all(thread.read_text().rpartition(")")[2].split()[0] == "S" for thread in threads)


def unread_bytes(pid: int) -> int:
    """Return how many bytes wait in the TCP sockets of a process until it reads them."""
    return sum(int(row[4].partition(":")[2], 16) for row in _sockets(pid))


def _sockets(pid: int) -> list[list[str]]:
    """Return what the system tells of the TCP sockets of a process."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            kind, _, inode = str(entry.readlink()).partition(":")
            if kind == "socket":
                inodes.add(inode.strip("[]"))
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return [row for row in rows if row[9] in inodes]


async def until_passed(lane: Lane, size: int) -> None:
    """Wait until so many bytes went through a lane of a proxy."""
    await until(lambda: lane.passed >= size)


async def until_read(port: int) -> None:
    """Wait until a server has read what reached it before, and acted on it, by having it refuse somebody else."""
    for _ in range(3):
        with raw.connect_raw(port) as peer, anyio.fail_after(30):
            await peer.send(raw.upgrade({"Origin": "http://elsewhere.example"}))
            assert (await peer.receive_head()).startswith(b"HTTP/1.1 403 ")


async def until_unread(pid: int, size: int) -> None:
    """Wait until so many bytes wait in a process's sockets."""
    await until(lambda: unread_bytes(pid) >= size)


async def until_hung_up(pid: int) -> None:
    """Wait until the other end of one of a process's connections was closed, and its own was not."""
    await until(lambda: any(row[3] == _CLOSE_WAIT for row in _sockets(pid)))


@asynccontextmanager
async def stopped(pid: int) -> AsyncIterator[None]:
    """Have the system stop a process for as long as the block runs."""
    with _continued(pid):
        os.kill(pid, SIGSTOP)
        await until(lambda: state_of(pid) == "T")
        yield


@contextmanager
def _continued(pid: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.kill(pid, SIGCONT)


def state_of(pid: int) -> str:
    """Return the letter that the system gives to the state of a process."""
    return _stat(pid)[0]


def parent_of(pid: int) -> int:
    """Return the parent of a process; that of an engine process is its supervisor."""
    return int(_stat(pid)[1])


def _stat(pid: int) -> list[str]:
    """Return what the system tells of a process, from its state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


async def ask_natively(port: int, query: str) -> Any:
    """Ask a native server, by its own protocol and on a connection of its own."""
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:

        async def exactly(size: int) -> bytes:
            data = b""
            while len(data) < size:
                data += await stream.receive(size - len(data))
            return data

        await stream.send(b"\x03\x00")
        assert await exactly(2) == b"\x03\x00"
        await stream.send(encode(query, MessageType.SYNC))
        header = await exactly(HEADER_SIZE)
        return decode(Result(header + await exactly(parse_header(header).size)))
