"""`WSServer`: how it starts, how it ends, and that nothing is left of it."""

import asyncio
import gc
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
import trio.lowlevel
from support.engines import GateEngine
from support.leaks import no_leaks
from trio.testing import wait_all_tasks_blocked

from rayforce_trio import InProcessEngine, WSClient, WSClientConnection, WSServer, errors
from rayforce_trio._protocol import ServerRequest

on_each_engine = pytest.mark.usefixtures("each_engine")

LOCAL = "127.0.0.1"


def local_server(port: int = 0, **options: Any) -> WSServer:
    return WSServer(port, host=LOCAL, **options)


@asynccontextmanager
async def in_time() -> AsyncIterator[None]:
    """Bound a test, and hold it to leaving nothing behind."""
    with trio.fail_after(30):
        async with no_leaks():
            yield


async def check_answers(port: int, host: str = LOCAL) -> None:
    async with WSClient(host, port).connect() as connection:
        assert (await connection.execute("(+ 1 2)")).to_python() == 3


async def by_serve(server: WSServer) -> None:
    await server.serve()


async def by_starting_serve(server: WSServer) -> None:
    """Raise what came out of `nursery.start` itself."""
    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(server.serve)
        except Exception as error:  # noqa: BLE001 - raised below, outside the nursery
            caught = error
        else:
            nursery.cancel_scope.cancel()
    raise caught


async def by_start(server: WSServer) -> None:
    async with trio.open_nursery() as nursery:
        try:
            await server.start(nursery)
        except Exception as error:  # noqa: BLE001 - raised below, outside the nursery
            caught = error
        else:
            nursery.cancel_scope.cancel()
    raise caught


async def by_entering(server: WSServer) -> None:
    async with server:
        pass


async def by_run(server: WSServer) -> None:
    await server.run()


every_way_to_start = pytest.mark.parametrize("start", [by_serve, by_starting_serve, by_start, by_entering, by_run])
Start = Callable[[WSServer], Awaitable[None]]


@on_each_engine
@pytest.mark.trio
async def test_started_in_a_nursery_it_serves_until_the_nursery_is_cancelled() -> None:
    async with in_time(), trio.open_nursery() as nursery:
        server = await nursery.start(local_server().serve)
        assert isinstance(server, WSServer)
        await check_answers(server.port)
        nursery.cancel_scope.cancel()


@on_each_engine
@pytest.mark.trio
async def test_entered_it_serves_for_the_block() -> None:
    async with in_time():
        async with local_server() as server:
            await check_answers(server.port)
        with pytest.raises(errors.ConnectError):
            await WSClient(LOCAL, server.port or 1).connect()


@on_each_engine
@pytest.mark.trio
async def test_it_serves_between_start_and_stop() -> None:
    async with in_time(), trio.open_nursery() as nursery:
        server = local_server()
        await server.start(nursery)
        await check_answers(server.port)
        await server.stop()


@on_each_engine
@pytest.mark.trio
async def test_it_can_serve_again() -> None:
    async with in_time():
        server = local_server()
        for _ in range(2):
            async with server:
                await check_answers(server.port)
            async with trio.open_nursery() as nursery:
                await server.start(nursery)
                await check_answers(server.port)
                await server.stop()


@pytest.mark.trio
async def test_stopping_a_server_that_is_not_started_is_an_error() -> None:
    server = local_server()
    with pytest.raises(errors.RayforceWSError, match=r"^Server not started$"):
        await server.stop()
    async with server:
        await server.stop()
    with pytest.raises(errors.RayforceWSError, match=r"^Server not started$"):
        await server.stop()


@pytest.mark.trio
async def test_it_cannot_serve_twice_at_once() -> None:
    async with in_time(), local_server() as server:
        with pytest.raises(errors.RayforceWSError, match="already running"):
            await server.serve()
        with pytest.raises(errors.RayforceWSError, match="already running"):
            async with server:
                pass
        await check_answers(server.port)


@pytest.mark.trio
async def test_port_and_url_tell_where_it_listens() -> None:
    server = local_server()
    assert (server.port, server.url) == (0, "ws://127.0.0.1:0")
    async with server:
        assert server.port > 0
        assert server.url == f"ws://127.0.0.1:{server.port}"
        assert repr(server) == f"WSServer(port={server.port})"
    assert server.port == 0


PRINTS_IMPORTS = """
import sys
import trio
from rayforce_trio import WSServer

async def main():
    async with WSServer(0, host="127.0.0.1") as server:
        before = set(sys.modules)
        print(server.port, flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        print(*sorted(set(sys.modules) - before))

trio.run(main)
"""


@pytest.mark.trio
async def test_connections_import_nothing() -> None:
    """An import would delay the other connections."""
    async with in_time():
        server = await trio.lowlevel.open_process(
            [sys.executable, "-c", PRINTS_IMPORTS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert server.stdin is not None
        assert server.stdout is not None
        async with server.stdin, server.stdout:
            await check_answers(int(await server.stdout.receive_some()))
            await server.stdin.send_all(b"\n")
            imported = b"".join([data async for data in server.stdout]).split()
            await server.wait()
    assert not imported


@pytest.mark.trio
async def test_a_host_of_several_addresses_gets_one_port_on_all_of_them() -> None:
    addresses = set()
    for family, *_, address in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM):
        with socket.socket(family) as probe:
            try:
                probe.bind((address[0], 0))
            except OSError:  # the name has an address that this machine has not
                continue
            addresses.add(str(address[0]))
    assert addresses
    async with in_time(), WSServer(0, host="localhost") as server:
        for found in addresses:
            await check_answers(server.port, found)


@pytest.mark.trio
async def test_the_default_address_is_every_address() -> None:
    async with in_time(), WSServer(0) as server:
        assert server.url == f"ws://0.0.0.0:{server.port}"
        await check_answers(server.port)


@pytest.mark.parametrize("port", [-1, 65536, True, "8765", 80.0])
def test_a_port_that_is_none_is_refused(port: Any) -> None:
    with pytest.raises(errors.RayforceValueError, match=r"Invalid port: .*Must be an int between 0 and 65535"):
        WSServer(port)


@pytest.mark.parametrize("size", [0, -1, True, "1", 1.5])
def test_a_message_size_that_is_none_is_refused(size: Any) -> None:
    with pytest.raises(errors.RayforceValueError, match="Invalid max_message_size"):
        WSServer(0, max_message_size=size)


@pytest.mark.parametrize("option", ["ping_interval", "ping_timeout"])
@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_a_ping_time_that_is_none_is_refused(option: str, seconds: float) -> None:
    options: dict[str, Any] = {option: seconds}
    with pytest.raises(errors.RayforceValueError, match=option):
        WSServer(0, **options)


@pytest.mark.parametrize("origins", ["https://example.org", ["example.org"], ["https://example.org/path"]])
def test_origins_that_are_none_are_refused(origins: Any) -> None:
    with pytest.raises(errors.RayforceValueError, match="origin"):
        WSServer(0, allowed_origins=origins)


@every_way_to_start
@pytest.mark.trio
async def test_a_port_in_use_is_a_plain_error_that_names_the_address(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server((LOCAL, 0)) as taken:
        port = taken.getsockname()[1]
        async with in_time():
            with pytest.raises(errors.ListenError, match=rf"cannot listen on ws://127\.0\.0\.1:{port}: .*in use"):
                await start(local_server(port))
    assert capsys.readouterr().out == ""


class NoSuchHost(trio.abc.HostnameResolver):
    async def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> Any:  # noqa: ARG002
        await trio.lowlevel.checkpoint()
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


@pytest.mark.trio
async def test_an_unknown_host_is_a_plain_error_that_names_it() -> None:
    trio.socket.set_custom_hostname_resolver(NoSuchHost())
    async with in_time():
        with pytest.raises(errors.ListenError, match=r"cannot listen on ws://nowhere\.invalid:0: name or service"):
            await WSServer(0, host="nowhere.invalid").serve()


class Broken(InProcessEngine):
    """Fails to start, or once it is told to."""

    def __init__(self, fails: trio.Event | None = None) -> None:
        self.fails = fails

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        if self.fails is not None:
            task_status.started()
            await self.fails.wait()
        raise errors.RayforceWSError("the engine is broken")


@every_way_to_start
@pytest.mark.trio
async def test_an_engine_that_fails_to_start_is_a_plain_error(start: Start) -> None:
    async with in_time():
        with pytest.raises(errors.RayforceWSError, match=r"^the engine is broken$"):
            await start(local_server(engine=Broken()))


@pytest.mark.trio
async def test_an_engine_that_ends_ends_the_server_with_its_error() -> None:
    async with in_time():
        fails = trio.Event()
        with pytest.raises(errors.RayforceWSError, match=r"^the engine is broken$"):  # noqa: PT012 - the block is tested
            async with local_server(engine=Broken(fails)) as server:
                await check_answers(server.port)
                fails.set()
                await trio.sleep_forever()


@on_each_engine
@pytest.mark.trio
async def test_the_bodys_exceptions_come_out_as_they_are() -> None:
    async with in_time():
        with pytest.raises(KeyError, match="mine"):  # noqa: PT012 - the block is tested
            async with local_server() as server:
                await check_answers(server.port)
                raise KeyError("mine")


@on_each_engine
@pytest.mark.trio
async def test_cancelling_the_block_cancels_nothing_else() -> None:
    async with in_time():
        with trio.CancelScope() as scope:
            async with local_server() as server:
                await check_answers(server.port)
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught


async def by_cancelling(server: WSServer, nursery: trio.Nursery) -> None:
    nursery.cancel_scope.cancel()
    await trio.lowlevel.checkpoint_if_cancelled()


async def by_stopping(server: WSServer, nursery: trio.Nursery) -> None:
    await server.stop()


@pytest.mark.parametrize("finish", [by_cancelling, by_stopping])
@on_each_engine
@pytest.mark.trio
async def test_when_it_ends_its_clients_see_close_code_1001(
    finish: Callable[[WSServer, trio.Nursery], Awaitable[None]],
) -> None:
    async with in_time(), trio.open_nursery() as clients:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(local_server().serve)
            connections = [await WSClient(LOCAL, server.port).connect(clients) for _ in range(5)]
            await finish(server, nursery)
        for connection in connections:
            with pytest.raises(errors.ConnectionClosed, match="code 1001") as caught:
                await connection.execute("1")
            assert caught.value.code == 1001
            await connection.close()


@pytest.mark.trio
async def test_it_ends_at_once_although_a_client_is_still_opening() -> None:
    """A peer that connects and says nothing does not hold up the end."""
    async with in_time():
        async with local_server() as server:
            silent = await trio.open_tcp_stream(LOCAL, server.port)
            await check_answers(server.port)  # by then, the silent one was accepted, too
        assert await silent.receive_some() == b""
        await silent.aclose()


class Hanging(InProcessEngine):
    """Its sessions cannot be opened, and take long to say so."""

    def __init__(self) -> None:
        self.asked = trio.Event()

    async def open_session(self) -> Any:
        self.asked.set()
        await trio.sleep_forever()


@pytest.mark.trio
async def test_it_ends_although_a_session_is_still_opening() -> None:
    async with in_time(), trio.open_nursery() as nursery:
        engine = Hanging()
        server = local_server(engine=engine)
        await server.start(nursery)

        async def connect() -> None:
            with pytest.raises(errors.HandshakeError, match="closed the connection during the opening handshake"):
                await WSClient(LOCAL, server.port).connect()

        nursery.start_soon(connect)
        await engine.asked.wait()
        await server.stop()


class Slow(GateEngine):
    """Never starts."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:  # noqa: ARG002
        await trio.sleep_forever()


@every_way_to_start
@pytest.mark.trio
async def test_it_can_be_stopped_while_its_engine_starts(start: Start) -> None:
    async with in_time(), trio.open_nursery() as nursery:
        server = local_server(engine=Slow())

        async def be_stopped() -> None:
            with pytest.raises(errors.RayforceWSError, match=r"^stop\(\) was called before the server was listening$"):
                await start(server)

        nursery.start_soon(be_stopped)
        await wait_all_tasks_blocked()
        await server.stop()


@pytest.mark.trio
async def test_run_needs_the_main_thread() -> None:
    with pytest.raises(errors.RayforceWSError, match=r"run\(\) needs the main thread"):
        await trio.to_thread.run_sync(trio.run, local_server().run)


@on_each_engine
@pytest.mark.trio
async def test_run_cancelled_ends_like_serve(capsys: pytest.CaptureFixture[str]) -> None:
    async with in_time():
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                server = local_server()
                nursery.start_soon(server.run)
                while not server.port:
                    await trio.lowlevel.checkpoint()
                await check_answers(server.port)
                scope.cancel()
        assert scope.cancelled_caught
    assert "stopped" not in capsys.readouterr().out


@pytest.mark.trio
async def test_connections_are_numbered_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "rayforce_trio.server"):
        async with local_server() as server:
            for _ in range(2):
                await check_answers(server.port)
    opened = [record.getMessage() for record in caplog.records if record.getMessage().endswith("): open")]
    assert [message.partition(" (127.0.0.1:")[0] for message in opened] == ["connection 1", "connection 2"]


# Stopping, whatever is under way


@pytest.mark.trio
async def test_stopping_does_not_wait_for_an_engine_that_cannot_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayforce_trio._server._connection.SHIELDED_CLOSE_TIMEOUT", 0.2)
    engine = GateEngine(stoppable=False)
    async with in_time(), trio.open_nursery() as nursery:
        server = local_server(engine=engine)
        await server.start(nursery)
        async with WSClient(LOCAL, server.port).connect() as connection:
            await connection.post("(slow)")
            await engine.until(begun=1)
            await server.stop(grace=0)
        assert engine.sessions == 0


@pytest.mark.trio
async def test_a_post_that_never_ends_is_given_up_after_its_sender_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayforce_trio._server._connection.CLOSE_TIMEOUT", 0.2)
    engine = GateEngine(stoppable=False)
    async with in_time(), local_server(engine=engine) as server:
        async with WSClient(LOCAL, server.port).connect() as connection:
            await connection.post("(slow)")
            await engine.until(begun=1)
        await engine.until(sessions=0)


@pytest.mark.trio
async def test_every_client_of_a_busy_server_hears_that_it_stops() -> None:
    heard: list[str] = []
    connected: list[WSClientConnection] = []
    all_are = trio.Event()

    async def ask(port: int) -> None:
        async with WSClient(LOCAL, port).connect() as connection:
            connected.append(connection)
            if len(connected) == 20:
                all_are.set()
            try:
                while True:
                    with suppress(errors.ServerClosing):  # of a request that came too late
                        await connection.execute("(sum (til 1000))")
            except errors.RayforceWSError as error:
                heard.append(str(error))

    async with in_time(), trio.open_nursery() as clients, local_server() as server:
        for _ in range(20):
            clients.start_soon(ask, server.port)
        await all_are.wait()
        await check_answers(server.port)
    assert heard == ["the peer closed the connection with code 1001: the server is shutting down"] * 20


@pytest.mark.trio
async def test_an_engine_that_cannot_be_reached_refuses_the_client_and_says_why() -> None:
    class Unreachable(InProcessEngine):
        async def open_session(self) -> Any:
            raise errors.RayforceWSError("nobody at home")

    async with in_time(), local_server(engine=Unreachable()) as server:
        with pytest.raises(errors.ConnectionRejected, match="503: The engine is not available: nobody at home"):
            await WSClient(LOCAL, server.port).connect()


@on_each_engine
@pytest.mark.trio
async def test_an_idle_connection_keeps_nothing_of_its_last_request(name: str) -> None:
    async with in_time(), local_server() as server, WSClient(LOCAL, server.port).connect() as connection:
        await connection.execute(f'(count "{name}")')
        await wait_all_tasks_blocked()
        held = [one for one in gc.get_objects() if type(one) is ServerRequest and name.encode() in one.frame]
        assert held == []


def test_a_server_on_asyncio_says_that_it_needs_trio() -> None:
    async def enter() -> None:
        async with local_server():
            pass

    for use in (local_server().run, local_server().serve, enter):
        with pytest.raises(errors.RayforceWSError, match=r"the server needs trio: use trio\.run\(server\.run\)"):
            asyncio.run(use())


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"host": "127.0.0.1:80"}, "The port is a separate argument"),
        ({"host": "ws://127.0.0.1"}, "Must be a host name or an IP address"),
        ({"host": ""}, "Must be a host name or an IP address"),
        ({"host": None}, "Must be a host name or an IP address"),
        ({"engine": InProcessEngine}, "Must be an engine, such as NativeProcess"),
        ({"allow_unauthenticated": "no"}, "Must be True or False"),
        ({"reuse_port": "no"}, "Must be True or False"),
        ({"allowed_origins": [5]}, "Must be a list of origins"),
        ({"ping_timeout": "30"}, "Must be a number of seconds"),
        ({"ping_interval": True}, "Must be a number of seconds"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused_at_once(options: dict[str, Any], why: str) -> None:
    with pytest.raises(errors.RayforceValueError, match=why):
        WSServer(0, **options)
