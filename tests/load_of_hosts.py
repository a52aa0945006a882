"""A bounded load on a server that listens itself, and on the same server under each host: `python load_of_hosts.py`.

Each server runs in a process of its own. The program prints the requests that 50 clients are answered per second.
"""

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter

import trio
from support.hosts import HOSTS, MakeHost

from rayforce_trio import WSClient, WSServer

CLIENTS = 50
REQUESTS = 100
ROUNDS = 3


@asynccontextmanager
async def alone(server: WSServer) -> AsyncIterator[str]:
    async with server:
        yield server.url


CONTESTANTS: dict[str, MakeHost] = {"alone": alone, **{host.__name__: host for host in HOSTS}}


async def serve(name: str) -> None:
    """Serve until standard input ends. A checkpoint; if cancelled, the server has ended."""
    options = {"port": 0, "host": "127.0.0.1"} if name == "alone" else {"listen": False}
    # The clients connect at once, from one address and one busy process: none of them may be refused for that.
    server = WSServer(max_connections_per_address=None, max_unauthenticated=None, **options)
    async with CONTESTANTS[name](server) as url:
        print(url, flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)


async def answered_per_second(url: str) -> float:
    """Return how many requests are answered per second. A checkpoint; if cancelled, all clients have closed."""

    async def ask(n: int) -> None:
        async with WSClient.from_url(url).connect() as connection:
            for k in range(REQUESTS):
                assert await connection.execute(f"(+ {n} {k})") == n + k

    start = perf_counter()
    async with trio.open_nursery() as nursery:
        for n in range(CLIENTS):
            nursery.start_soon(ask, n)
    return CLIENTS * REQUESTS / (perf_counter() - start)


def measured(name: str) -> float:
    """Return the best of several rounds."""
    command = [sys.executable, __file__, name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8") as child:
        assert child.stdout is not None
        url = child.stdout.readline().strip()
        best = max(trio.run(answered_per_second, url) for _ in range(ROUNDS))
        child.communicate("")
    assert child.returncode == 0
    return best


if __name__ == "__main__":
    if sys.argv[1:]:
        trio.run(serve, sys.argv[1])
    else:
        rates = {name: measured(name) for name in CONTESTANTS}
        for name, rate in rates.items():
            print(f"{name:18} {rate:6,.0f} requests a second, {rate / rates['alone']:.2f} of the server alone")
