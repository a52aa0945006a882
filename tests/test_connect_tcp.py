"""Connecting over TCP on every event loop: several addresses, errors, cancellation."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import aiohappyeyeballs
import anyio
import pytest
from support.leaks import no_leaks
from support.streams import EVENT_LOOPS, LOCAL, socket_of

from rayforce_trio._streams import connect_tcp

pytestmark = pytest.mark.anyio

TIMEOUT = 20  # seconds
HOST = "several.example"

Address = tuple[str, int]
Resolve = Callable[..., None]


@pytest.fixture(params=EVENT_LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Each test runs on every event loop."""
    return request.param


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """Have the host `HOST` resolve to the given IPv4 addresses and ports, or fail with the given error."""
    original = socket.getaddrinfo

    def resolves_to(*addresses: Address | OSError) -> None:
        def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
            if host not in (HOST, HOST.encode()):
                return original(host, *args, **options)
            flags = args[4] if len(args) > 4 else options.get("flags", 0)
            if flags & socket.AI_NUMERICHOST:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            for address in addresses:
                if isinstance(address, OSError):
                    raise address
            return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address) for address in addresses]

        async def async_getaddrinfo(*args: Any, **kwargs: Any) -> Any:
            return getaddrinfo(*args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        monkeypatch.setattr(anyio, "getaddrinfo", async_getaddrinfo)  # uvloop does not use the socket module

    return resolves_to


@pytest.fixture
def listening() -> Iterator[Address]:
    """The address of a socket that listens."""
    with socket.create_server((LOCAL, 0)) as listener:
        yield listener.getsockname()


@pytest.fixture
def dropping() -> Iterator[Address]:
    """An address that drops the packets of new connections: its queue of connections is full."""
    with socket.socket() as listener, ExitStack() as clients:
        listener.bind((LOCAL, 0))
        listener.listen(0)
        while True:
            client = clients.enter_context(socket.socket())
            client.settimeout(0.2)
            try:
                client.connect(listener.getsockname())
            except TimeoutError:
                break
        yield listener.getsockname()


@contextmanager
def refusing() -> Iterator[Address]:
    """An address that refuses connections: a socket is bound to it that does not listen."""
    with socket.socket() as bound:
        bound.bind((LOCAL, 0))
        yield bound.getsockname()


async def test_it_connects_to_an_ip_address(listening: Address) -> None:
    with anyio.fail_after(TIMEOUT):
        async with no_leaks(), await connect_tcp(*listening) as stream:
            assert socket_of(stream).getpeername() == listening
            assert socket_of(stream).getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_it_connects_to_a_host_name(listening: Address) -> None:
    with anyio.fail_after(TIMEOUT):
        async with await connect_tcp("localhost", listening[1]) as stream:
            assert socket_of(stream).getpeername() == listening


async def test_an_address_that_drops_packets_delays_the_next_one_by_a_moment(
    resolve: Resolve, dropping: Address, listening: Address
) -> None:
    resolve(dropping, listening)
    with anyio.fail_after(TIMEOUT):
        async with no_leaks(), await connect_tcp(HOST, 1) as stream:
            assert socket_of(stream).getpeername() == listening


async def test_an_address_that_refuses_does_not_stop_the_next_one(resolve: Resolve, listening: Address) -> None:
    with anyio.fail_after(TIMEOUT), refusing() as address:
        resolve(address, address, listening)
        async with no_leaks(), await connect_tcp(HOST, 1) as stream:
            assert socket_of(stream).getpeername() == listening


@pytest.mark.parametrize("attempts", [1, 3])
async def test_if_all_addresses_refuse_a_single_error_says_so(resolve: Resolve, attempts: int) -> None:
    with anyio.fail_after(TIMEOUT), refusing() as address:
        resolve(*[address] * attempts)
        async with no_leaks():
            with pytest.raises(ConnectionRefusedError) as caught:
                await connect_tcp(HOST, 1)
            assert caught.value.__cause__ is None


async def test_an_address_that_the_system_refuses_at_once_is_a_checkpoint() -> None:
    with anyio.fail_after(TIMEOUT), anyio.CancelScope() as scope:
        scope.cancel()
        await connect_tcp("255.255.255.255", 1)
    assert scope.cancelled_caught


async def test_of_different_errors_the_last_is_raised(resolve: Resolve) -> None:
    with anyio.fail_after(TIMEOUT), refusing() as address:
        resolve(("255.255.255.255", 1), address)
        async with no_leaks():
            with pytest.raises(ConnectionRefusedError) as caught:
                await connect_tcp(HOST, 1)
            assert caught.value.__cause__ is None


async def test_a_name_that_cannot_be_resolved_is_an_error(resolve: Resolve) -> None:
    resolve(socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"))
    with anyio.fail_after(TIMEOUT):
        async with no_leaks():
            with pytest.raises(socket.gaierror, match="Temporary failure"):
                await connect_tcp(HOST, 1)


async def test_a_name_that_is_not_valid_is_an_error() -> None:
    with anyio.fail_after(TIMEOUT), pytest.raises(UnicodeError):
        await connect_tcp("caf\xe9..example", 1)


@pytest.mark.parametrize("attempts", [1, 2])
async def test_a_cancelled_attempt_leaves_nothing_open(resolve: Resolve, dropping: Address, attempts: int) -> None:
    resolve(*[dropping] * attempts)
    with anyio.fail_after(TIMEOUT):
        async with no_leaks():
            with anyio.move_on_after(0.3) as scope:  # with two attempts, after the second began
                await connect_tcp(HOST, 1)
            assert scope.cancelled_caught


async def test_a_cancelled_attempt_to_an_ip_address_leaves_nothing_open(dropping: Address) -> None:
    with anyio.fail_after(TIMEOUT):
        async with no_leaks():
            with anyio.move_on_after(0.1) as scope:
                await connect_tcp(*dropping)
            assert scope.cancelled_caught


async def test_an_ip_address_that_refuses_is_an_error() -> None:
    with anyio.fail_after(TIMEOUT), refusing() as address:
        async with no_leaks():
            with pytest.raises(ConnectionRefusedError):
                await connect_tcp(*address)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("by_scope", [False, True])
async def test_a_cancellation_that_aiohappyeyeballs_swallows_is_raised(
    resolve: Resolve, listening: Address, monkeypatch: pytest.MonkeyPatch, by_scope: bool
) -> None:
    resolve(listening)
    original = aiohappyeyeballs.start_connection

    async def start_connection(*args: Any, **kwargs: Any) -> socket.socket:
        sock = await original(*args, **kwargs)
        if by_scope:
            scope.cancel()
        else:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        return sock

    monkeypatch.setattr(aiohappyeyeballs, "start_connection", start_connection)
    with anyio.CancelScope() as scope:
        async with no_leaks():
            if by_scope:
                await connect_tcp(HOST, 1)
            task = asyncio.create_task(connect_tcp(HOST, 1))
            with pytest.raises(asyncio.CancelledError):
                await task
    assert scope.cancelled_caught == by_scope


async def test_the_scope_of_an_ipv6_address_is_kept() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener, anyio.fail_after(TIMEOUT):
        port = listener.getsockname()[1]
        async with await connect_tcp("::1%1", port) as stream:
            assert socket_of(stream).getpeername()[:2] == ("::1", port)
