"""Every documented snippet, run as its reader would run it: as a program of its own.

They differ from the documentation of `rayforce.network.websocket` in the import, in how the event loop is started, and
in the port where a test needs another.
"""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
from rayforce import I64

from rayforce_trio import WSClient, WSServer, errors

SERVER = """
import trio
from rayforce_trio import WSServer

async def main():
    await WSServer(port=8765).run()

trio.run(main)
"""

SERVER_AT_ONCE = """
import trio
from rayforce_trio import WSServer

trio.run(WSServer(port=8765).run)
"""

CONNECT = """
from rayforce_trio import WSClient

async def main():
    client = WSClient(host="localhost", port=8765)
    connection = await client.connect()
    # Use connection
    await connection.close()
"""

EXECUTE = """
from rayforce import String
from rayforce_trio import WSClient

async def main():
    client = WSClient(host="localhost", port=8765)
    connection = await client.connect()

    # Execute string queries
    result1 = await connection.execute(String("(+ 1 2)"))
    print(result1)  # 3

    # Execute query objects
    from rayforce import Table, Column
    table = Table("server_table")
    query = table.select("id", "name")
    result2 = await connection.execute(query)

    await connection.close()
"""

CONTEXT_MANAGER = """
from rayforce import String
from rayforce_trio import WSClient

async def main():
    client = WSClient(host="localhost", port=8765)
    async with await client.connect() as connection:
        result = await connection.execute("(+ 1 2)")
        print(result)
"""

ERRORS = """
from rayforce import String
from rayforce_trio import WSClient, errors

async def main():
    client = WSClient(host="localhost", port=9999)
    try:
        connection = await client.connect()
        result = await connection.execute(String("(+ 1 2)"))
    except errors.RayforceWSError as e:
        print(f"WebSocket Error: {e}")
"""

RUN = {
    "trio.run": "import trio; trio.run(main)",
    "asyncio.run": "import asyncio; asyncio.run(main())",
    "anyio.run on trio": 'import anyio; anyio.run(main, backend="trio")',
    "anyio.run on asyncio": 'import anyio; anyio.run(main, backend="asyncio")',
}

BANNER = re.compile(r"Rayforce WebSocket served on ws://0\.0\.0\.0:(\d+)\n")
FAREWELL = "\nRayforce WebSocket Server stopped.\n"


def run_client(snippet: str, how: str, port: int) -> str:
    """Run a snippet to its end and return what it printed; anything on stderr is an error."""
    program = re.sub("8765|9999", str(port), snippet) + RUN[how]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


every_way_to_run = pytest.mark.parametrize("how", RUN)
every_loop = pytest.mark.parametrize("how", ["trio.run", "asyncio.run"])


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of the documented server, with a table called `server_table`."""
    with serving(SERVER) as (child, port):
        trio.run(make_server_table, port)
        yield port
        assert finish(child, signal.SIGTERM) == (0, FAREWELL, "")


async def make_server_table(port: int) -> None:
    async with WSClient("localhost", port).connect() as connection:
        await connection.execute("(set server_table (table [id name v] (list [1 2] [a b] [1.5 2.5])))")


@contextmanager
def serving(snippet: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a server's snippet, on a free port; yields the process, past its banner, and the port it told."""
    child = subprocess.Popen(
        [sys.executable, "-c", snippet.replace("8765", "0")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        banner = BANNER.fullmatch(child.stdout.readline())
        assert banner
        yield child, int(banner[1])
    finally:
        child.kill()
        child.communicate()


def finish(child: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str, str]:
    """Send a signal; returns the exit code, and what came on stdout and stderr."""
    child.send_signal(number)
    out, err = child.communicate(timeout=30)
    return child.returncode, out, err


# Clients


@every_loop
def test_connecting(port: int, how: str) -> None:
    assert run_client(CONNECT, how, port) == ""


@every_way_to_run
def test_executing_queries(port: int, how: str) -> None:
    assert run_client(EXECUTE, how, port) == "3\n"


@every_loop
def test_a_connection_as_a_context_manager(port: int, how: str) -> None:
    """What is printed is rayforce-py's own `str` of the result."""
    assert run_client(CONTEXT_MANAGER, how, port) == f"{I64(3)}\n"


@every_loop
def test_the_error_where_nobody_listens(how: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # taken, but nobody listens
        port = unused.getsockname()[1]
        assert run_client(ERRORS, how, port).startswith(
            f"WebSocket Error: Failed to connect to ws://localhost:{port}: connection refused"
        )


@pytest.mark.trio
async def test_a_result_shows_in_a_session_as_documented() -> None:
    async with WSServer(port=0) as server, await WSClient("localhost", server.port).connect() as connection:
        assert repr(await connection.execute("(+ 1 2)")) == "I64(3)"


def test_the_reprs() -> None:
    assert repr(WSServer(port=8765)) == "WSServer(port=8765)"
    assert repr(WSClient(host="localhost", port=8765)) == "WSClient(ws://localhost:8765)"


def test_ports_are_refused_as_documented() -> None:
    for make in (lambda port: WSServer(port=port), lambda port: WSClient(host="localhost", port=port)):
        with pytest.raises(errors.RayforceValueError, match=r"Invalid port: 70000\. Must be an int between"):
            make(70000)


# The server as a program

both_signals = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@both_signals
@pytest.mark.parametrize("snippet", [SERVER, SERVER_AT_ONCE], ids=["in main", "at once"])
def test_a_signal_ends_the_server_in_good_order(number: signal.Signals, snippet: str) -> None:
    with serving(snippet) as (child, _):
        assert finish(child, number) == (0, FAREWELL, "")


@both_signals
@pytest.mark.trio
async def test_a_signal_ends_the_server_while_clients_are_connected(number: signal.Signals) -> None:
    with trio.fail_after(60), serving(SERVER) as (child, port):
        async with connected(port, count=3) as connections:
            assert await trio.to_thread.run_sync(finish, child, number) == (0, FAREWELL, "")
            for connection in connections:
                with pytest.raises(errors.ConnectionClosed, match="code 1001"):
                    await connection.execute("1")


@both_signals
@pytest.mark.trio
async def test_a_signal_ends_the_server_after_the_query_that_is_running(number: signal.Signals, tmp_path: Path) -> None:
    started = tmp_path / "started"
    values = []

    async def execute(connection: Any) -> None:
        values.append(await connection.execute(f'(do (write "{started}" "") (count (til 100000000)))'))

    with trio.fail_after(60), serving(SERVER) as (child, port):
        async with connected(port, count=1) as (connection,), trio.open_nursery() as nursery:
            nursery.start_soon(execute, connection)
            while not started.exists():
                await trio.lowlevel.checkpoint()
            assert await trio.to_thread.run_sync(finish, child, number) == (0, FAREWELL, "")
            assert values == [100_000_000]
            with pytest.raises(errors.ConnectionClosed, match="code 1001"):
                await connection.execute("1")


@asynccontextmanager
async def connected(port: int, count: int) -> AsyncIterator[list[Any]]:
    """Connections to the server, each of which was answered once."""
    async with trio.open_nursery() as nursery:
        connections = [await WSClient("localhost", port).connect(nursery) for _ in range(count)]
        for connection in connections:
            await connection.execute("1")
        yield connections
        for connection in connections:
            await connection.close()


def test_a_port_in_use_ends_the_program_with_the_error_and_no_banner() -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        program = [sys.executable, "-c", SERVER.replace("8765", str(port))]
        done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    last_line = done.stderr.splitlines()[-1]
    assert re.search(rf"ListenError: cannot listen on ws://0\.0\.0\.0:{port}: .*in use", last_line)
    assert "ExceptionGroup" not in done.stderr
