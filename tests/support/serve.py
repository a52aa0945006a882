"""Serve in a process of its own, for clients on either event loop: `python -m support.serve ENGINE`.

ENGINE is one of these:

- `in-process`: `InProcessEngine`
- `in-process PORT`: at this port, and with the default limit of connections that are being opened
- `native`: `NativeEngine`, connected to a native server that this process starts
- `gateway NATIVE_PORT [PORT]`: `NativeEngine`, connected to the native server at NATIVE_PORT; serves at PORT
- `child`: `NativeProcess`
- `read-only`: `NativeProcess(read_only=True)`
- `journal child BASE`, `journal native BASE`: `NativeProcess` or `NativeEngine`, with a journal
- `short-replies`: `NativeProcess`, with replies of 1 MiB at most
- `tls DIRECTORY`: `InProcessEngine` behind TLS, with the certificates in DIRECTORY
- `theirs`: rayforce-py's server

Prints the port as soon as the server listens. Ends with its standard input, so the server cannot outlive the tests.
"""

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from rayforce_trio import InProcessEngine, NativeEngine, NativeProcess, WSServer
from rayforce_trio._engines import Engine
from rayforce_trio.auth import Request
from support.native import native_server


async def _wait_for_end_of_input(_server: WSServer) -> None:
    await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


async def ours(
    engine: Engine, body: Callable[[WSServer], Awaitable[None]] = _wait_for_end_of_input, **options: Any
) -> None:
    """Serve, print the port, and stop when `body` returns, which is called with the server. A checkpoint."""
    defaults: dict[str, Any] = {
        "port": 0,
        "max_connections": None,
        "max_connections_per_address": None,
        "max_unauthenticated": None,
    }
    server = WSServer(host="127.0.0.1", engine=engine, **{**defaults, **options})
    async with server:
        print(server.port, flush=True)
        await body(server)


def let_in(request: Request) -> bool:
    """Let every client in, except at the path `/members`, which requires a certificate."""
    return request.path != "/members" or request.certificate is not None


async def theirs() -> None:
    from rayforce.network.websocket import WSServer as RayforceServer

    with socket.socket() as probe:  # it cannot choose a free port by itself
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = RayforceServer(port)
    await server.start()
    print(port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop()


if __name__ == "__main__":
    match sys.argv[1]:
        case "in-process" if len(sys.argv) > 2:
            trio.run(partial(ours, InProcessEngine(), port=int(sys.argv[2]), max_unauthenticated=32))
        case "in-process":
            trio.run(ours, InProcessEngine())
        case "child":
            trio.run(ours, NativeProcess())
        case "short-replies":
            trio.run(partial(ours, NativeProcess(), max_reply_size=1024 * 1024))
        case "read-only":
            trio.run(ours, NativeProcess(read_only=True))
        case "native":
            with native_server() as native:
                trio.run(ours, NativeEngine("127.0.0.1", native.port))
        case "gateway":
            engine = NativeEngine("127.0.0.1", int(sys.argv[2]))
            trio.run(partial(ours, engine, port=int(sys.argv[3]) if len(sys.argv) > 3 else 0))
        case "journal" if sys.argv[2] == "child":
            trio.run(ours, NativeProcess(journal=sys.argv[3]))
        case "journal":
            with native_server("-l", sys.argv[3]) as native:
                trio.run(ours, NativeEngine("127.0.0.1", native.port))
        case "tls":
            from support.certificates import server_context  # it needs trustme, which the benchmark does not install

            trio.run(partial(ours, InProcessEngine(), ssl_context=server_context(sys.argv[2]), authenticate=let_in))
        case "theirs":
            asyncio.run(theirs())
