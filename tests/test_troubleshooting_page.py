"""The error messages on the page about troubleshooting are those of the package."""

import ast
import asyncio
import http.client
import re
import ssl
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from support.certificates import SERVER, local_certificates
from support.pages import DOCS, ROOT, blocks

from rayforce_trio import NativeEngine, NativeProcess, WSClient, WSServer, auth

HOST = "127.0.0.1"
Tell = Callable[[str], None]

WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}
UNUSED = 1  # a port on which nobody listens

NOT_PROVOKED = 8  # libraries that are not installed, and what takes seconds

QUOTED = [
    line
    for block in blocks(DOCS / "troubleshooting.md")
    if block.language == "text"
    for line in block.code.splitlines()
]


async def error(call: Callable[[], Awaitable[object]]) -> str:
    """Return the class and the text of the error that a call raises, on one line."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the caller looks at it
        await call()
    return " ".join(f"{type(caught.value).__name__}: {caught.value}".split())


async def refusal(port: int, **options: Any) -> str:
    return await error(WSClient(HOST, port, **options).connect().__aenter__)


async def answer(port: int, headers: dict[str, str]) -> str:
    """Return the status and the body that an HTTP request gets."""

    def get() -> str:
        connection = http.client.HTTPConnection(HOST, port)
        connection.request("GET", "/", headers=headers)
        response = connection.getresponse()
        text = f"HTTP status {response.status}: {response.read().decode().strip()}"
        connection.close()
        return text

    return await trio.to_thread.run_sync(get)


async def while_connecting(tell: Tell) -> None:
    tell(await refusal(UNUSED))
    tell(await error(WSClient("no-such-host.invalid", UNUSED).connect().__aenter__))
    async with WSServer(port=0, host=HOST, authenticate=auth.token("a" * 20)) as server:
        for _ in range(6):
            tell(await refusal(server.port, token="wrong"))
    async with WSServer(port=0, host=HOST, max_connections=1) as server:
        tell(await refusal(server.port, headers={"X-Forwarded-For": "192.0.2.1"}))
        tell(await refusal(server.port, headers={"Origin": "https://example.org"}))
        tell(await refusal(server.port, ssl=True))
        tell(await answer(server.port, {}))
        tell(await answer(server.port, WEBSOCKET | {"Host": "example.org"}))
        async with WSClient(HOST, server.port).connect():
            tell(await refusal(server.port))
        tell(await error(WSServer(port=server.port, host=HOST).__aenter__))
    async with WSServer(port=0, host=HOST, engine=NativeEngine(HOST, UNUSED)) as server:
        tell(await refusal(server.port))
    certificate = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.load_cert_chain(local_certificates() / SERVER)
    async with WSServer(port=0, host=HOST, ssl_context=certificate) as server:
        tell(await refusal(server.port, ssl=True))
        tell(await refusal(server.port))


async def no_websocket(tell: Tell) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    [listener] = await trio.open_tcp_listeners(0, host=HOST)
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, serve, [listener])
        tell(await refusal(listener.socket.getsockname()[1]))
        nursery.cancel_scope.cancel()


async def in_queries(tell: Tell) -> None:
    async with (
        WSServer(port=0, host=HOST, engine=NativeProcess(), query_timeout=0.05, max_in_flight=1) as server,
        WSClient(HOST, server.port).connect() as connection,
    ):
        tell(await error(lambda: connection.execute("(while true 1)")))
        async with trio.open_nursery() as nursery:
            running = nursery.start_soon
            running(error, lambda: connection.execute("(while true 1)"))
            running(error, lambda: connection.execute("(while true 1)"))
            await trio.testing.wait_all_tasks_blocked()
            tell(await error(lambda: connection.execute("(+ 1 2)")))
        tell(await error(lambda: connection.execute("""(== "a" 'a)""")))
        tell(await error(lambda: connection.execute("(count no_such_table)")))
        tell(await error(lambda: connection.execute("x", {"x": 1j})))
        tell(await error(lambda: connection.execute(42)))  # type: ignore[arg-type]
        tell(await error(lambda: connection.fetch("(+ 1 2)")))
        tell(await error(connection.stream("(+ 1 2)").__aenter__))
        tell(await error(lambda: connection.execute("(exit 0)")))
    tell(await error(lambda: connection.execute("(+ 1 2)")))
    async with (
        WSServer(port=0, host=HOST, engine=NativeProcess(read_only=True)) as server,
        WSClient(HOST, server.port).connect() as connection,
    ):
        tell(await error(lambda: connection.execute("(set a 1)")))


async def too_large(tell: Tell) -> None:
    async with WSServer(port=0, host=HOST, max_message_size=1000, max_reply_size=1 << 20) as server:
        async with WSClient(HOST, server.port).connect() as connection:
            tell(await error(lambda: connection.execute("(til 1000000)")))
            tell(await error(lambda: connection.execute(" " * 1000 + "1")))
        async with WSClient(HOST, server.port, max_message_size=1000).connect() as connection:
            tell(await error(lambda: connection.execute("(til 1000)")))


async def other_threads_and_loops(tell: Tell) -> None:
    async with WSServer(port=0, host=HOST) as server, WSClient(HOST, server.port).connect() as connection:
        in_thread = trio.to_thread.run_sync

        async def execute() -> None:
            await connection.execute("(+ 1 2)")

        tell(await error(lambda: in_thread(trio.run, execute)))
        tell(await error(lambda: in_thread(trio.run, WSServer(port=0, host=HOST).__aenter__)))
        tell(await error(lambda: in_thread(asyncio.run, WSServer(port=0, host=HOST).__aenter__())))
        tell(await error(lambda: in_thread(WSClient(HOST, server.port).connect().__aenter__().send, None)))


async def starting(tell: Tell, folder: Path) -> None:
    script = folder / "broken.rfl"
    script.write_text("(no_such_function 1)", encoding="utf-8")
    tell(await error(WSServer(port=0, host=HOST, engine=NativeProcess(script)).__aenter__))
    script.unlink()

    async def start() -> None:
        NativeProcess(script)

    tell(await error(start))


def in_source() -> Iterator[str]:
    """Return the texts in the source, with `…` for the values in them."""
    for file in (ROOT / "rayforce_trio").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def pattern(quoted: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, quoted.split("…"))))


@pytest.mark.trio
async def test_messages_on_the_page_are_those_of_the_package(tmp_path: Path) -> None:
    told: list[str] = []
    for provoke in while_connecting, no_websocket, in_queries, too_large, other_threads_and_loops:
        await provoke(told.append)
    await starting(told.append, tmp_path)

    not_told = [quoted for quoted in QUOTED if not any(map(pattern(quoted).fullmatch, told))]
    texts = list(in_source())
    without_class = [re.sub(r"^\w+Error: |^\w+(Lost|Subscriber|Gap): ", "", quoted) for quoted in not_told]
    assert [quoted for quoted in without_class if not any(map(pattern(quoted).search, texts))] == []
    assert len(told) > 30
    assert len(not_told) == NOT_PROVOKED
