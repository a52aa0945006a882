"""A large result beside other clients: in batches, and as a whole; and the memory that a client needs for it."""

import subprocess
import sys
from collections.abc import Callable
from statistics import median

import pytest
import trio
from support.processes import server_process

from rayforce_trio import WSClient, WSServer

from . import _servers
from .harness import ServerProcess, attacked, served

pytestmark = pytest.mark.withstand

ROWS = 5_000_000
ROUNDS, SECONDS = 3, 3.0
CLIENTS = 10  # whose requests are due every 2 ms together
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


async def prepare(port: int, count: int) -> None:
    """Have the engine keep a table of five columns. A checkpoint."""
    column = f"(til {count})"
    async with WSClient("127.0.0.1", port).connect() as connection:
        await connection.execute(f"(do (set rows (table [a b c d e] (list {' '.join([column] * 5)}))) null)")


async def receive(port: int, in_batches: bool, *, task_status: trio.TaskStatus[None]) -> None:
    """Receive the table again and again until cancelled, as a whole or in batches. Starts once connected."""
    async with WSClient("127.0.0.1", port, max_message_size=1024**3).connect() as connection:
        task_status.started()
        while True:
            if in_batches:
                async with connection.stream("rows") as batches:
                    assert sum([len(columns) async for columns in batches]) == ROWS
            else:
                assert len(await connection.fetch("rows")) == ROWS


def worst_wait(server: ServerProcess, *, in_batches: bool) -> float:
    """Return how long a small query of another client takes at most beside such a client, in seconds."""
    with attacked(receive, server, in_batches=in_batches):
        timing = server.measure("requests", clients=CLIENTS, seconds=SECONDS)["requests"]
    print(f"{'in batches' if in_batches else 'as a whole'}: {timing}")
    assert not timing.errors
    return timing.longest


@pytest.mark.parametrize(("make", "times_shorter"), [(_servers.child, 10), (_servers.in_process, 2)])
def test_others_wait_less_beside_a_stream_of_five_million_rows(
    make: Callable[..., WSServer], times_shorter: int
) -> None:
    """Compare rounds that take turns. The clients have processes of their own, so they do not delay each other.

    In process, even the whole reply delays others for 20 ms only: the time to copy 200 MB once. The rest is sent in
    small parts. A batch takes 1 to 2 ms.
    """
    with served(make) as server:
        trio.run(prepare, server.port, ROWS)
        whole, batches = [], []
        for _ in range(ROUNDS):
            whole.append(worst_wait(server, in_batches=False))
            batches.append(worst_wait(server, in_batches=True))
    print(f"worst waits: {median(whole) * 1000:.0f} ms as a whole, {median(batches) * 1000:.1f} ms in batches")
    assert median(batches) <= median(whole) / times_shorter


def test_a_client_needs_memory_for_at_most_four_batches_of_80_megabytes() -> None:
    with server_process("native") as port:
        trio.run(prepare, port, 2_000_000)
        program = MEMORY.replace("PORT", str(port))
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    print(f"{float(done.stdout):.1f} batches")
    assert float(done.stdout) <= 4
