"""Listening: on every address of a host, on a shared port, and when file descriptors run out."""

import errno
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from support.engine_processes import LOCAL
from support.gateway import gateway
from support.leaks import no_leaks
from support.raw import connect_raw

from rayforce_trio import WSClient, WSServer, errors
from rayforce_trio._engines import Engine, Session
from rayforce_trio._protocol import Failure, Frame, Reply, Result, string_frame
from rayforce_trio._server._listening import open_listeners

BOTH = "both.test"
"""A host name with two addresses: 127.0.0.1 and ::1."""


class Named(Engine):
    """Answers everything with a name."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def open_session(self) -> Session:
        await trio.lowlevel.checkpoint()
        return _NamedSession(self.name)


class _NamedSession(Session):
    def __init__(self, name: str) -> None:
        self._name = name

    async def request(self, frame: Frame) -> Reply:  # noqa: ARG002
        await trio.lowlevel.checkpoint()
        return Result(string_frame(self._name))

    async def post(self, frame: Frame) -> Failure | None:  # noqa: ARG002
        await trio.lowlevel.checkpoint()
        return None

    def cancel(self) -> None:
        pass

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


def named(name: str, port: int = 0, *, host: str = LOCAL, reuse_port: bool = True) -> WSServer:
    return WSServer(port, host=host, engine=Named(name), reuse_port=reuse_port)


async def who(port: int, host: str = LOCAL) -> str:
    async with WSClient(host, port).connect() as connection:
        return str((await connection.execute("1")).to_python())


async def check_all_serve(names: set[str], port: int, host: str = LOCAL) -> None:
    """Connect until each was met: the system chooses by the client's port, which is another one each time."""
    met = set[str]()
    while met != names:
        met.add(await who(port, host))
        assert met <= names


class Resolver(trio.abc.HostnameResolver):
    """Knows `BOTH`."""

    async def getaddrinfo(self, host: Any, port: Any, *options: Any) -> Any:
        found = []
        for address in ("127.0.0.1", "::1") if host == BOTH.encode() else (host,):
            found += await trio.to_thread.run_sync(socket.getaddrinfo, address, port, *options)
        return found

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


@pytest.mark.trio
async def test_two_servers_share_a_port() -> None:
    with trio.fail_after(30):
        async with no_leaks(), named("one") as one, named("other", one.port) as other:
            assert one.port == other.port
            await check_all_serve({"one", "other"}, one.port)


@pytest.mark.trio
async def test_when_one_of_them_ends_the_other_serves_all() -> None:
    with trio.fail_after(30):
        async with no_leaks(), named("one") as one:
            async with named("other", one.port):
                await check_all_serve({"one", "other"}, one.port)
            for _ in range(20):
                assert await who(one.port) == "one"


@pytest.mark.trio
async def test_two_processes_share_a_port() -> None:
    with trio.fail_after(60):
        async with no_leaks(), named("one") as one:
            with server_process(one.port):
                met = set[str]()
                while met != {"one", "1"}:  # the other process evaluates
                    met.add(await who(one.port))


SERVE = f"""
import sys
import trio
from rayforce_trio import WSServer
trio.run(WSServer(int(sys.argv[1]), host={LOCAL!r}, reuse_port=True).run)
"""


@contextmanager
def server_process(port: int) -> Iterator[None]:
    child = subprocess.Popen([sys.executable, "-c", SERVE, str(port)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == f"Rayforce WebSocket served on ws://{LOCAL}:{port}\n"
        yield
    finally:
        child.kill()
        child.communicate()


@pytest.mark.trio
@pytest.mark.parametrize(("first", "second"), [(False, False), (True, False), (False, True)])
async def test_unless_both_ask_for_it_the_second_cannot_listen(first: bool, second: bool) -> None:
    with trio.fail_after(30):
        async with no_leaks(), named("one", reuse_port=first) as one:
            with pytest.raises(errors.ListenError, match=f"cannot listen on ws://{LOCAL}:{one.port}: .*in use"):
                await named("other", one.port, reuse_port=second).serve()
            assert await who(one.port) == "one"


@pytest.mark.trio
async def test_free_ports_are_not_shared() -> None:
    with trio.fail_after(30):
        async with no_leaks(), named("one") as one, named("other") as other:
            assert one.port != other.port


@pytest.mark.trio
@pytest.mark.parametrize("reuse_port", [False, True])
async def test_of_a_host_with_several_addresses_all_are_served_on_one_port(reuse_port: bool) -> None:
    trio.socket.set_custom_hostname_resolver(Resolver())
    with trio.fail_after(30):
        async with no_leaks(), named("one", host=BOTH, reuse_port=reuse_port) as one:
            assert await who(one.port, "127.0.0.1") == "one"
            assert await who(one.port, "::1") == "one"


@pytest.mark.trio
async def test_every_address_of_a_host_is_shared() -> None:
    trio.socket.set_custom_hostname_resolver(Resolver())
    with trio.fail_after(30):
        async with no_leaks(), named("one", host=BOTH) as one, named("other", one.port, host=BOTH):
            await check_all_serve({"one", "other"}, one.port, "127.0.0.1")
            await check_all_serve({"one", "other"}, one.port, "::1")


def listening_on_ipv6() -> socket.socket:
    """Listen on ::1, on a port below those that the system chooses: no other test gets it on 127.0.0.1."""
    for port in random.sample(range(20_000, 30_000), 100):
        with suppress(OSError):
            socket.create_server(("127.0.0.1", port)).close()
            return socket.create_server(("::1", port), family=socket.AF_INET6)
    raise OSError("no port is free")


@pytest.mark.trio
async def test_if_one_address_cannot_be_had_none_is_held() -> None:
    trio.socket.set_custom_hostname_resolver(Resolver())
    with listening_on_ipv6() as taken:
        port = taken.getsockname()[1]
        async with no_leaks():
            with pytest.raises(errors.ListenError, match="in use"):
                await named("one", port, host=BOTH).serve()
        async with named("one", port) as one:
            assert await who(one.port) == "one"


@pytest.mark.trio
@pytest.mark.parametrize("reuse_port", [False, True])
async def test_addresses_of_a_family_that_the_system_lacks_are_left_out(
    reuse_port: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Name services tell of IPv6 addresses on systems that have no IPv6."""
    make_socket = trio.socket.socket

    def make_ipv4_socket(family: Any = socket.AF_INET, *args: Any, **options: Any) -> Any:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return make_socket(family, *args, **options)

    monkeypatch.setattr(trio.socket, "socket", make_ipv4_socket)
    trio.socket.set_custom_hostname_resolver(Resolver())
    with trio.fail_after(30):
        async with no_leaks():
            async with named("one", host=BOTH, reuse_port=reuse_port) as one:
                assert await who(one.port, "127.0.0.1") == "one"
            with pytest.raises(errors.ListenError):
                await named("one", host="::1", reuse_port=reuse_port).serve()


@pytest.mark.trio
@pytest.mark.parametrize("reuse_port", [False, True])
@pytest.mark.parametrize("number", [errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT])
@pytest.mark.parametrize("lacking", [socket.AF_INET, socket.AF_INET6])
async def test_addresses_that_cannot_be_bound_are_left_out(
    lacking: socket.AddressFamily, number: int, reuse_port: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where IPv6 is switched off, sockets can be made, but ::1 cannot be bound."""

    class Unbindable:
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            self._inner.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        async def bind(self, _: Any) -> None:
            await trio.lowlevel.checkpoint()
            raise OSError(number, "Cannot assign requested address")

    make_socket = trio.socket.socket

    def make(family: Any = socket.AF_INET, *args: Any, **options: Any) -> Any:
        made = make_socket(family, *args, **options)
        return Unbindable(made) if family == lacking else made

    monkeypatch.setattr(trio.socket, "socket", make)
    trio.socket.set_custom_hostname_resolver(Resolver())
    own, other = ("127.0.0.1", "::1") if lacking == socket.AF_INET6 else ("::1", "127.0.0.1")
    with trio.fail_after(30):
        async with no_leaks():
            listeners = await open_listeners(BOTH, 0, reuse_port=reuse_port)
            assert [listener.socket.getsockname()[0] for listener in listeners] == [own]
            for listener in listeners:
                await listener.aclose()
            with pytest.raises(
                errors.ListenError, match=r"cannot assign requested address|address family not supported"
            ):
                await named("one", host=other, reuse_port=reuse_port).serve()


@pytest.mark.trio
async def test_a_system_that_cannot_share_ports_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    async with no_leaks():
        with pytest.raises(errors.ListenError, match=r"reuse_port needs SO_REUSEPORT"):
            await named("one").serve()
        async with named("one", reuse_port=False) as one:
            assert await who(one.port) == "one"


@pytest.mark.trio
async def test_an_unknown_host_is_a_plain_error_that_names_it() -> None:
    class NoSuchHost(Resolver):
        async def getaddrinfo(self, *_: Any, **__: Any) -> Any:
            await trio.lowlevel.checkpoint()
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    trio.socket.set_custom_hostname_resolver(NoSuchHost())
    async with no_leaks():
        with pytest.raises(errors.ListenError, match=r"cannot listen on ws://nowhere\.invalid:0: name or service"):
            await named("one", host="nowhere.invalid").serve()


@pytest.mark.trio
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can change the limits of another process")
async def test_a_server_that_ran_out_of_descriptors_goes_on_when_it_has_some_again(
    native_port: int, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with gateway(native_port, log) as server, trio.fail_after(60):
        async with WSClient(LOCAL, server.port).connect() as connection:
            server.leave_descriptors(4)
            with ExitStack() as peers:
                for _ in range(40):
                    peers.enter_context(connect_raw(server.port))
                while "cannot accept connections: Too many open files" not in log.read_text():
                    assert await connection.execute("(+ 1 2)") == 3
            served = False
            while not served:
                with suppress(errors.ConnectError):
                    async with WSClient(LOCAL, server.port).connect() as other:
                        served = await other.execute("(+ 1 2)") == 3
            assert await connection.execute("(+ 1 2)") == 3
