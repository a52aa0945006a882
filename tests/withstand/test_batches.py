"""A large result beside other clients: in batches, and as a whole; and the memory that a client needs for it."""

import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import pytest
import trio
from support.processes import server_process

from rayforce_trio import WSClient, WSClientConnection

pytestmark = pytest.mark.withstand

BATCH = 100_000 * 5 * 8  # bytes of 100,000 rows

MEMORY = f"""
import trio
from pathlib import Path
from rayforce_trio import WSClient

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))

async def main(port):
    async with WSClient("127.0.0.1", port).connect() as connection:
        async with connection.stream("(take rows 1000)", batch_size=100) as batches:
            [columns.to_numpy() async for columns in batches]  # whatever is imported on first use
        before = peak()
        async with connection.stream("rows") as batches:
            async for columns in batches:
                columns["a"].sum()
        print((peak() - before) / {BATCH})

trio.run(main, PORT)
"""


def rows(count: int) -> str:
    column = f"(til {count})"
    return f"(do (set rows (table [a b c d e] (list {' '.join([column] * 5)}))) null)"


async def worst_wait(port: int, work: Callable[[], Awaitable[object]]) -> float:
    """Return how long a small query of another client takes at most during some work, in seconds."""
    waits: list[float] = []

    async def ask(connection: WSClientConnection) -> None:
        while True:
            started = time.perf_counter()
            await connection.execute("(+ 1 2)")
            waits.append(time.perf_counter() - started)
            await trio.sleep(0.001)

    async with WSClient("127.0.0.1", port).connect() as connection, trio.open_nursery() as nursery:
        nursery.start_soon(ask, connection)
        await work()
        nursery.cancel_scope.cancel()
    return max(waits)


async def waits(port: int) -> tuple[float, float]:
    async with WSClient("127.0.0.1", port, max_message_size=1024**3).connect() as connection:
        await connection.execute(rows(5_000_000))

        async def whole() -> None:
            assert len(await connection.fetch("rows")) == 5_000_000

        async def in_batches() -> None:
            async with connection.stream("rows") as batches:
                assert sum([len(columns) async for columns in batches]) == 5_000_000

        return await worst_wait(port, whole), await worst_wait(port, in_batches)


def test_others_wait_a_tenth_as_long_beside_a_stream_of_five_million_rows() -> None:
    with server_process("native") as port:
        found = [trio.run(waits, port) for _ in range(3)]
    for whole, batches in found:
        print(f"beside the whole reply {whole * 1000:.0f} ms, beside batches {batches * 1000:.0f} ms")
    assert min(batches for _, batches in found) <= min(whole for whole, _ in found) / 10


def test_a_client_needs_memory_for_at_most_four_batches_of_80_megabytes() -> None:
    async def prepare(port: int) -> None:
        async with WSClient("127.0.0.1", port).connect() as connection:
            await connection.execute(rows(2_000_000))

    with server_process("native") as port:
        trio.run(prepare, port)
        program = MEMORY.replace("PORT", str(port))
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    print(f"{float(done.stdout):.1f} batches")
    assert float(done.stdout) <= 4
