"""`WSServer(sockets=...)`: sockets that the program has bound, and those that systemd passes."""

import fcntl
import os
import select
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from support.activation import activated
from support.engines import GateEngine
from support.leaks import descriptors, no_leaks

from rayforce_trio import WSClient, WSServer, auth, errors, systemd_sockets
from rayforce_trio._server._systemd import FIRST_DESCRIPTOR, PassedDescriptor, notify_systemd, passed_descriptors

LOCAL = "127.0.0.1"


def bound_tcp(host: str = LOCAL) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    made.bind((host, 0))
    return made


def listening_tcp(host: str = LOCAL) -> socket.socket:
    made = bound_tcp(host)
    made.listen()
    return made


def bound_unix(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    return made


def listening_unix(path: Path) -> socket.socket:
    made = bound_unix(path)
    made.listen()
    return made


def abstract(_: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(f"\0rayforce-trio-test-{os.getpid()}")
    return made


class Subclass(socket.socket):
    """trio does not accept it, nor an `ssl.SSLSocket`."""


async def check_answers(url: str) -> None:
    async with WSClient.from_url(url).connect() as connection:
        assert await connection.execute("(+ 1 2)") == 3


@pytest.mark.trio
@pytest.mark.parametrize(
    ("make", "scheme"),
    [
        (lambda _: bound_tcp(), "ws://127.0.0.1:"),
        (lambda _: listening_tcp(), "ws://127.0.0.1:"),
        (lambda _: bound_tcp("::1"), "ws://[::1]:"),
        (bound_unix, "unix:/"),
        (listening_unix, "unix:/"),
    ],
    ids=["bound TCP", "listening TCP", "IPv6", "bound Unix", "listening Unix"],
)
async def test_it_serves_on_a_socket_and_closes_it(
    make: Callable[[Path], socket.socket], scheme: str, short_path: Path
) -> None:
    with trio.fail_after(30):
        async with no_leaks(within=5):
            made = make(short_path / "s")
            server = WSServer(sockets=[made])
            assert server.url.startswith(scheme)
            async with server:
                await check_answers(server.url)
            assert made.fileno() < 0


@pytest.mark.trio
async def test_of_several_sockets_each_is_served_and_has_a_url(short_path: Path) -> None:
    with trio.fail_after(30):
        async with no_leaks(within=5):
            unix, first, second = listening_unix(short_path / "s"), listening_tcp(), listening_tcp()
            ports = [one.getsockname()[1] for one in (first, second)]
            async with WSServer(sockets=iter([unix, first, second])) as server:
                assert server.urls == (f"unix:{short_path}/s", *(f"ws://{LOCAL}:{port}" for port in ports))
                assert (server.url, server.port, server.host) == (server.urls[0], ports[0], server.urls[0])
                assert repr(server) == f"WSServer({', '.join(server.urls)})"
                for url in server.urls:
                    await check_answers(url)
        assert (short_path / "s").exists()  # the program has made it


@pytest.mark.trio
async def test_a_socket_for_both_versions_of_ip_reports_addresses_of_ipv4_as_such() -> None:
    both = socket.socket(socket.AF_INET6)
    both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    both.bind(("::", 0))
    peers = []

    def authenticate(request: auth.Request) -> bool:
        peers.append(request.peer)
        return True

    async with WSServer(sockets=[both], authenticate=authenticate) as server:
        url = f"ws://127.0.0.1:{server.port}"
        origin = {"Origin": url.replace("ws:", "http:")}
        async with WSClient.from_url(url, headers=origin).connect() as connection:
            assert await connection.execute("(+ 1 2)") == 3
    assert peers == ["127.0.0.1"]


@pytest.mark.trio
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has names of sockets outside of the file system")
async def test_the_name_of_an_abstract_socket_is_shown_with_an_at(short_path: Path) -> None:
    async with WSServer(sockets=[abstract(short_path)]) as server:
        assert server.url == f"unix:@rayforce-trio-test-{os.getpid()}"
        assert server.port == 0


@pytest.mark.trio
async def test_a_server_that_has_closed_its_sockets_cannot_serve_again() -> None:
    server = WSServer(sockets=[listening_tcp()])
    async with server:
        pass
    with pytest.raises(errors.ListenError, match=r"cannot listen on ws://127\.0\.0\.1:\d+: a socket is closed"):
        await server.serve()


@pytest.mark.trio
async def test_a_server_that_cannot_start_closes_its_sockets() -> None:
    class Broken(GateEngine):
        async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:  # noqa: ARG002
            await trio.lowlevel.checkpoint()
            raise errors.EngineError("broken")

    made = listening_tcp()
    async with no_leaks():
        with pytest.raises(errors.EngineError):
            await WSServer(sockets=[made], engine=Broken()).serve()
    assert made.fileno() < 0


@pytest.mark.trio
async def test_a_server_that_is_cancelled_closes_its_sockets() -> None:
    made = listening_tcp()
    async with trio.open_nursery() as nursery:
        await WSServer(sockets=[made]).start(nursery)
        nursery.cancel_scope.cancel()
    assert made.fileno() < 0


def closed() -> socket.socket:
    made = listening_tcp()
    made.close()
    return made


def connected(opened: ExitStack) -> socket.socket:
    one, other = socket.socketpair()
    opened.enter_context(other)
    return one


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda _: closed(), "is closed"),
        (lambda _: socket.socket(), "is not bound to an address"),
        (lambda _: socket.socket(socket.AF_UNIX), "is not bound to an address"),
        (lambda _: socket.socket(type=socket.SOCK_DGRAM), "is not a stream socket of TCP or Unix"),
        (connected, "is a connection; pass a socket that listens"),
        (lambda _: Subclass(), "is not a socket.socket; pass ssl_context for TLS"),
    ],
    ids=["closed", "not bound", "not bound Unix", "datagrams", "connected", "subclass"],
)
def test_sockets_of_another_kind_are_refused_and_stay_with_the_caller(
    make: Callable[[ExitStack], socket.socket], problem: str
) -> None:
    with ExitStack() as opened:
        good = opened.enter_context(listening_tcp())
        bad = opened.enter_context(make(opened))
        with pytest.raises(errors.RayforceValueError, match=f"Invalid sockets: <.* {problem}$"):
            WSServer(sockets=[good, bad])
        assert good.fileno() >= 0


@pytest.mark.parametrize("sockets", [[], None.__class__, 3, ["unix:/run/x"], [3]])
def test_other_values_are_refused(sockets: Any) -> None:
    with pytest.raises(errors.RayforceValueError, match="Invalid sockets: "):
        WSServer(sockets=sockets)


def test_a_socket_may_occur_only_once() -> None:
    with listening_tcp() as made, pytest.raises(errors.RayforceValueError, match="one of them occurs twice"):
        WSServer(sockets=[made, made])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "The server needs a port, host='unix:/path', sockets, or listen=False"),
        ({"port": 1, "sockets": []}, "sockets and port contradict each other"),
        ({"port": 0, "sockets": []}, "sockets and port contradict each other"),
        ({"host": LOCAL, "sockets": []}, "sockets and host contradict each other"),
        ({"host": "unix:/run/x", "sockets": []}, "sockets and host contradict each other"),
        ({"reuse_port": True, "sockets": []}, "reuse_port needs a port"),
        ({"unix_mode": 0o660, "sockets": []}, "unix_mode needs host='unix:/path'"),
        ({"unix_mode": 0o660, "port": 1}, "unix_mode needs host='unix:/path'"),
        ({"host": "unix:/run/x", "port": 1}, "Invalid port: 1. A Unix socket has no port"),
        ({"host": "unix:/run/x", "reuse_port": True}, "reuse_port needs a port"),
        ({"host": "unix:/run/x", "unix_mode": 660}, "Invalid unix_mode: 660. Must be permissions up to 0o777"),
        ({"host": "unix:/run/x", "unix_mode": 0o060}, "Invalid unix_mode: 48. Must be permissions up to 0o777"),
        ({"host": "unix:/run/x", "unix_mode": "660"}, "Invalid unix_mode: '660'"),
        ({"host": "unix:"}, "Invalid path of a Unix socket: 'unix:'"),
        ({"host": "unix:/a\0b"}, "Invalid path of a Unix socket: "),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(errors.RayforceValueError) as caught:
        WSServer(**options)
    assert str(caught.value).startswith(says)


# systemd

PID = 4711


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({}, []),
        ({"LISTEN_FDS": "1"}, []),
        ({"LISTEN_PID": "4711"}, []),
        ({"LISTEN_PID": "4711", "LISTEN_FDS": "1"}, ["unknown"]),
        ({"LISTEN_PID": "4711", "LISTEN_FDS": "2"}, ["unknown", "unknown"]),
        ({"LISTEN_PID": "4712", "LISTEN_FDS": "1"}, []),
        ({"LISTEN_PID": "", "LISTEN_FDS": ""}, []),
        ({"LISTEN_PID": "4711", "LISTEN_FDS": "0"}, []),
        ({"LISTEN_PID": "4711", "LISTEN_FDS": "-1"}, []),
        ({"LISTEN_PID": "4711", "LISTEN_FDS": "one"}, []),
        ({"LISTEN_PID": "4711", "LISTEN_FDS": "20000000"}, []),
        ({"LISTEN_PID": "4711", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web"}, ["web"]),
        ({"LISTEN_PID": "4711", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "web:local"}, ["web", "local"]),
        ({"LISTEN_PID": "4711", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "web:web"}, ["web", "web"]),
        ({"LISTEN_PID": "4711", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "web"}, ["unknown", "unknown"]),
        ({"LISTEN_PID": "4711", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web:local"}, ["unknown"]),
        ({"LISTEN_PID": "4711", "LISTEN_FDS": "1", "LISTEN_FDNAMES": ""}, ["unknown"]),
    ],
)
def test_which_descriptors_systemd_has_passed(environment: dict[str, str], names: list[str]) -> None:
    expected = [PassedDescriptor(FIRST_DESCRIPTOR + index, name) for index, name in enumerate(names)]
    assert passed_descriptors(environment, PID) == expected


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[socket.socket]]:
    """Two sockets that systemd seems to have passed to this process, with the names `web` and `local`."""
    with listening_tcp() as one, listening_tcp() as other:
        first = fcntl.fcntl(one, fcntl.F_DUPFD, 500)  # no other test has so many descriptors
        with (
            socket.socket(fileno=first) as moved,
            socket.socket(fileno=fcntl.fcntl(other, fcntl.F_DUPFD, first + 1)) as other_moved,
        ):
            monkeypatch.setattr("rayforce_trio._server._systemd.FIRST_DESCRIPTOR", first)
            pretend(monkeypatch, fds="2", names="web:local")
            yield [moved, other_moved]


def pretend(monkeypatch: pytest.MonkeyPatch, *, fds: str, names: str) -> None:
    for name, value in ("PID", str(os.getpid())), ("FDS", fds), ("FDNAMES", names):
        monkeypatch.setenv(f"LISTEN_{name}", value)


def test_the_sockets_are_duplicates_in_their_order(passed: list[socket.socket]) -> None:
    for _ in range(2):
        found = systemd_sockets()
        assert [one.getsockname() for one in found] == [one.getsockname() for one in passed]
        assert not any(one.get_inheritable() for one in (*passed, *found))
        for one in found:
            one.close()
    assert all(one.fileno() >= 0 for one in passed)


def test_sockets_are_found_by_their_name(passed: list[socket.socket]) -> None:
    [found] = systemd_sockets("local")
    with found:
        assert found.getsockname() == passed[1].getsockname()
    with pytest.raises(errors.ListenError, match="no socket with the name 'other'; the names are 'local', 'web'"):
        systemd_sockets("other")


def test_without_systemd_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    with pytest.raises(errors.ListenError, match="systemd has passed no sockets to this process: "):
        systemd_sockets()


@pytest.mark.parametrize("is_open", [True, False], ids=["a file", "not open"])
def test_a_descriptor_that_is_not_a_socket_is_an_error_that_names_it(
    is_open: bool, passed: list[socket.socket], monkeypatch: pytest.MonkeyPatch, short_path: Path
) -> None:
    number = passed[1].fileno() + 1
    pretend(monkeypatch, fds="3", names="")
    with ExitStack() as opened:
        if is_open:
            file = opened.enter_context((short_path / "file").open("w"))
            os.dup2(file.fileno(), number)
            opened.callback(os.close, number)
        before = descriptors()
        with pytest.raises(errors.ListenError, match=f"descriptor {number} from systemd is not a socket: "):
            systemd_sockets()
        assert descriptors() == before


ACTIVATED = """
import sys
import trio
from rayforce_trio import WSServer, systemd_sockets

async def main():
    async with WSServer(sockets=systemd_sockets()) as server:
        print(*server.urls, flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)

trio.run(main)
"""


@pytest.mark.trio
async def test_a_client_that_connects_before_the_service_starts_is_served(short_path: Path) -> None:
    """As systemd does it: it listens, and starts the service when a client connects."""
    with trio.fail_after(60), listening_tcp() as one, moved_up(one) as tcp, listening_unix(short_path / "s") as other:
        url = f"ws://{LOCAL}:{tcp.getsockname()[1]}"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(check_answers, url)
            await trio.to_thread.run_sync(wait_for_client, tcp)
            with moved_up(other) as unix, activated([tcp, unix], sys.executable, "-c", ACTIVATED) as service:
                assert service.stdout is not None
                assert service.stdout.readline() == f"{url} unix:{short_path}/s\n"
                await check_answers(f"unix:{short_path}/s")
                await check_answers(url)
        assert service.returncode == 0


def moved_up(sock: socket.socket) -> socket.socket:
    """Return a duplicate with a file descriptor that the program does not use."""
    return socket.socket(fileno=fcntl.fcntl(sock, fcntl.F_DUPFD_CLOEXEC, 100))


def wait_for_client(listener: socket.socket) -> None:
    """Wait until a connection can be accepted, without accepting it."""
    select.select([listener], [], [], 20)


def test_a_systemd_that_reads_nothing_does_not_stop_the_event_loop(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(short_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
    ):
        systemd.bind(path)
        other.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                other.sendto(b"full", path)
        notify_systemd("READY=1")
