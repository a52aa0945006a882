"""Unix sockets: the file that a server makes, its clients and their credentials, and clients on every event loop."""

# ruff: noqa: ASYNC240 - the files are local

import fcntl
import logging
import os
import re
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from support.certificates import client_context, local_certificates, server_context
from support.commands import BOUND, FAREWELL, command, environment, started
from support.engines import GateEngine
from support.leaks import no_leaks
from support.opening import HttpResponse, parse_answer
from support.polling import until
from support.raw import RawPeer, response, upgrade
from support.short_paths import short_directory
from support.streams import EVENT_LOOPS

from rayforce_trio import WSClient, WSServer, auth, errors
from rayforce_trio._addresses import ClientAddress, UnixPeer, is_on_this_machine, network_of, os_error_text
from rayforce_trio._server._unix_files import bind_unix
from rayforce_trio._streams import connect_unix
from rayforce_trio._streams._socket_addresses import peer_address, unix_peer_of

OWN_UID = f"unix:uid={os.getuid()}"

linux_waits_for_room = pytest.mark.skipif(
    sys.platform != "linux", reason="other systems refuse a connection for which there is no room"
)


@pytest.fixture
def path(short_path: Path) -> Path:
    return short_path / "s"


@asynccontextmanager
async def served(path: Path, **options: Any) -> AsyncIterator[WSServer]:
    with trio.fail_after(60):
        async with no_leaks(within=5.0), WSServer(host=f"unix:{path}", **options) as server:
            yield server


async def check_answers(url: str) -> None:
    async with WSClient(url).connect() as connection:
        assert await connection.execute("(+ 1 2)") == 3


def connect_raw(path: Path) -> RawPeer:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    return RawPeer(sock, is_client=True)


async def answer_to(path: Path, request: bytes) -> HttpResponse:
    with trio.fail_after(10), connect_raw(path) as peer:
        await peer.send(request)
        head = await peer.receive_head()
        return parse_answer(head, b"" if head.startswith(b"HTTP/1.1 101 ") else await peer.receive_rest())


async def status_with(path: Path, headers: Mapping[str, str]) -> int:
    return (await answer_to(path, upgrade({"Host": "localhost", **headers}))).status


def leave_stale(path: Path) -> None:
    """Leave the file of a socket on which nobody listens."""
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
        bound.listen()


# The file


@pytest.mark.trio
async def test_a_server_makes_the_file_and_removes_it(path: Path) -> None:
    async with served(path) as server:
        assert server.url == server.host == f"unix:{path}"
        assert (server.urls, server.port) == ((server.url,), 0)
        assert repr(server) == f"WSServer(unix:{path})"
        await check_answers(server.url)
    assert not path.exists()


@pytest.mark.trio
async def test_it_can_serve_again(path: Path) -> None:
    server = WSServer(host=f"unix:{path}")
    for _ in range(2):
        async with server:
            await check_answers(server.url)
    assert not path.exists()


@pytest.mark.trio
@pytest.mark.parametrize(
    ("options", "mode"), [({}, 0o600), ({"unix_mode": 0o660}, 0o660), ({"unix_mode": 0o666}, 0o666)]
)
async def test_the_file_has_the_permissions_asked_for_whatever_the_umask(
    options: dict[str, Any], mode: int, path: Path
) -> None:
    for umask in 0o000, 0o077:
        before = os.umask(umask)
        try:
            async with served(path, **options):
                assert stat.S_IMODE(path.stat().st_mode) == mode
        finally:
            os.umask(before)


@pytest.mark.trio
async def test_the_file_of_a_server_that_was_killed_is_replaced(path: Path) -> None:
    leave_stale(path)
    async with served(path) as server:
        await check_answers(server.url)
    assert not path.exists()


@pytest.mark.trio
async def test_a_server_that_listens_there_goes_on(path: Path) -> None:
    async with served(path) as server:
        with pytest.raises(errors.ListenError, match=f"cannot listen on unix:{path}: .*in use"):
            await WSServer(host=f"unix:{path}").serve()
        await check_answers(server.url)


@pytest.mark.trio
@linux_waits_for_room
async def test_a_server_whose_queue_is_full_counts_as_listening(path: Path) -> None:
    with listener_with_full_queue(path), pytest.raises(errors.ListenError, match="in use"):
        await WSServer(host=f"unix:{path}").serve()


@pytest.mark.trio
@pytest.mark.parametrize("kind", ["file", "directory", "link"])
async def test_other_files_are_not_touched(kind: str, path: Path) -> None:
    target = path.with_name("target")
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        leave_stale(target)
        path.symlink_to(target)
    with pytest.raises(errors.ListenError, match=f"cannot listen on unix:{path}: the file exists and is not a socket"):
        await WSServer(host=f"unix:{path}").serve()
    assert path.is_symlink() if kind == "link" else path.exists()
    assert target.exists() is (kind == "link")


@pytest.mark.trio
@pytest.mark.parametrize(("name", "says"), [("none/s", "no such file"), ("x" * 200, "path too long")])
async def test_a_path_that_cannot_be_had_is_an_error_that_names_it(name: str, says: str, path: Path) -> None:
    async with no_leaks():
        with pytest.raises(errors.ListenError, match=f"cannot listen on unix:{path.parent}/{name}: .*{says}"):
            await WSServer(host=f"unix:{path.parent}/{name}").serve()


@pytest.mark.trio
async def test_if_the_permissions_cannot_be_set_no_file_is_left(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chmod(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("rayforce_trio._server._unix_files.os.chmod", chmod)
    async with no_leaks():
        with pytest.raises(errors.ListenError, match="operation not permitted"):
            await WSServer(host=f"unix:{path}").serve()
    assert not path.exists()


@pytest.mark.trio
async def test_if_the_file_disappears_the_socket_is_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chmod(*_: object) -> None:
        path.unlink()

    monkeypatch.setattr("rayforce_trio._server._unix_files.os.chmod", chmod)
    async with no_leaks():
        with pytest.raises(errors.ListenError, match="no such file"):
            await WSServer(host=f"unix:{path}").serve()


@pytest.mark.trio
async def test_the_file_of_a_relative_path_is_removed_if_the_directory_changes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    async with WSServer(host=f"unix:{path.name}"):
        assert path.exists()
        monkeypatch.chdir("/")
    assert not path.exists()


@pytest.mark.trio
async def test_the_file_of_another_server_is_not_removed(path: Path) -> None:
    async with served(path):
        path.unlink()
        leave_stale(path)
    assert path.exists()


@pytest.mark.trio
async def test_a_file_that_was_removed_already_is_no_error(path: Path) -> None:
    async with served(path):
        path.unlink()


@pytest.mark.trio
async def test_a_server_that_is_cancelled_removes_the_file(path: Path) -> None:
    async with trio.open_nursery() as nursery:
        await WSServer(host=f"unix:{path}").start(nursery)
        assert path.exists()
        nursery.cancel_scope.cancel()
    assert not path.exists()


@pytest.mark.trio
async def test_while_queries_finish_another_server_can_take_the_path(path: Path) -> None:
    engine = GateEngine()
    stopped = trio.Event()

    async def query(url: str) -> None:
        async with WSClient(url).connect() as connection:
            assert await connection.execute("1") == "released"

    async def stop(server: WSServer) -> None:
        await server.stop()
        stopped.set()

    async with served(path, engine=engine) as old, trio.open_nursery() as nursery:
        nursery.start_soon(query, old.url)
        await engine.until(begun=1)
        nursery.start_soon(stop, old)
        await until(lambda: not path.exists())
        async with served(path) as new:
            await check_answers(new.url)
            assert not stopped.is_set()
            engine.release()
            await stopped.wait()
            assert path.exists()
            await check_answers(new.url)


# Servers that start at the same moment

_STARTS = """
import sys, trio
from rayforce_trio import WSServer, errors

async def main(url):
    server = WSServer(host=url)
    print("ready", flush=True)
    sys.stdin.read()  # it ends for all processes at once
    try:
        async with server:
            print("serving", flush=True)
            await trio.sleep_forever()
    except errors.ListenError as error:
        print(error, flush=True)

trio.run(main, sys.argv[1])
"""

IN_USE = "(address already in use|another server is starting there at this moment)"


@pytest.mark.parametrize("stale", [True, False])
def test_of_many_threads_one_gets_the_path(stale: bool, path: Path) -> None:
    """Each system call of a thread lets others run, so they meet at every step of the way."""
    servers = 8
    together = threading.Barrier(servers)
    sockets: list[socket.socket] = []
    refusals: list[str] = []

    def bind() -> None:
        together.wait(BOUND)
        try:
            sockets.append(bind_unix(str(path), 0o600)[0])
        except OSError as error:
            refusals.append(os_error_text(error))

    for _ in range(100):
        if stale:
            leave_stale(path)
        with ThreadPoolExecutor(servers) as threads:
            for one in [threads.submit(bind) for _ in range(servers)]:
                one.result(BOUND)
        [winner] = sockets
        with winner, connect_raw(path):
            winner.accept()[0].close()
        assert len(refusals) == servers - 1
        assert all(re.fullmatch(IN_USE, refusal) for refusal in refusals)
        assert names_beside(path) == [path.name]
        sockets.clear()
        refusals.clear()
        path.unlink()


@pytest.mark.slow
def test_of_many_processes_one_serves(path: Path) -> None:
    leave_stale(path)
    reading, writing = os.pipe()
    with ExitStack() as opened:
        start = [sys.executable, "-c", _STARTS, f"unix:{path}"]
        processes = []
        for _ in range(6):
            process = subprocess.Popen(start, stdin=reading, stdout=subprocess.PIPE, text=True, env=environment())
            opened.enter_context(process)
            opened.callback(process.kill)
            processes.append(process)
        os.close(reading)
        try:
            assert [said(process) for process in processes] == ["ready"] * len(processes)
        finally:
            os.close(writing)
        results = sorted(said(process) for process in processes)
        assert results.pop() == "serving"
        assert all(re.fullmatch(f"cannot listen on unix:{path}: {IN_USE}", result) for result in results)
        trio.run(check_answers, f"unix:{path}")
        assert names_beside(path) == [path.name]


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip()


@pytest.mark.trio
async def test_a_server_does_not_wait_for_another_that_is_starting(path: Path) -> None:
    leave_stale(path)
    with lock_of(path).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(errors.ListenError, match=f"cannot listen on unix:{path}: another server is starting"):
            await WSServer(host=f"unix:{path}").serve()
        assert path.exists()
        assert lock_of(path).exists()
    async with served(path) as server:  # the file of a lock that nobody holds is no obstacle
        await check_answers(server.url)
        assert names_beside(path) == [path.name]


@pytest.mark.trio
async def test_the_file_is_left_to_a_server_that_is_starting(path: Path) -> None:
    with ExitStack() as held:
        async with WSServer(host=f"unix:{path}"):
            fcntl.flock(held.enter_context(lock_of(path).open("w")), fcntl.LOCK_EX)
        assert path.exists()


def test_a_lock_that_was_removed_since_it_was_opened_is_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lock_too_late(*_: object) -> None:
        lock_of(path).unlink()

    monkeypatch.setattr("rayforce_trio._server._unix_files.fcntl.flock", lock_too_late)
    with pytest.raises(OSError, match="another server is starting there"):
        bind_unix(str(path), 0o600)
    assert names_beside(path) == []


@pytest.mark.trio
async def test_no_link_is_followed_to_the_lock(path: Path) -> None:
    lock_of(path).symlink_to(path.with_name("precious"))
    with pytest.raises(errors.ListenError, match="cannot listen on"):
        await WSServer(host=f"unix:{path}").serve()
    assert names_beside(path) == [lock_of(path).name]


def names_beside(path: Path) -> list[str]:
    return [found.name for found in path.parent.iterdir()]


def lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.starting")


# Clients of the server


class Seen:
    """Lets everybody in, and keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[auth.Request] = []

    def __call__(self, request: auth.Request) -> str:
        self.requests.append(request)
        return "somebody"


@pytest.mark.trio
async def test_authenticate_gets_the_credentials_of_the_clients_process(path: Path) -> None:
    seen = Seen()
    async with served(path, authenticate=seen) as server:
        process = started("query", server.url, "(+ 1 2)")
        out, err = await trio.to_thread.run_sync(process.communicate)
        assert (out, err) == ("3\n", "")
        await check_answers(server.url)
    child, own = seen.requests
    assert child.unix_peer == UnixPeer(os.getuid(), os.getgid(), process.pid)
    assert own.unix_peer == UnixPeer(os.getuid(), os.getgid(), os.getpid())
    assert child.peer == OWN_UID
    assert repr(child) == f"Request(path='/', peer='{OWN_UID}')"


@pytest.mark.trio
async def test_clients_can_be_let_in_by_their_user(path: Path) -> None:
    def only(uid: int) -> Any:
        return lambda request: request.unix_peer is not None and request.unix_peer.uid == uid

    async with served(path, authenticate=only(os.getuid())) as server:
        await check_answers(server.url)
    async with served(path, authenticate=only(os.getuid() + 1)) as server:
        with pytest.raises(errors.ConnectionRejected, match="401"):
            await WSClient(server.url).connect()


@pytest.mark.trio
async def test_a_tcp_client_has_no_unix_peer() -> None:
    seen = Seen()
    async with WSServer(0, host="127.0.0.1", authenticate=seen) as server:
        await check_answers_on(server.port)
    assert seen.requests[0].unix_peer is None


async def check_answers_on(port: int) -> None:
    async with WSClient("127.0.0.1", port).connect() as connection:
        assert await connection.execute("(+ 1 2)") == 3


@pytest.mark.trio
async def test_the_log_names_the_user(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rayforce_trio.server")
    async with served(path, authenticate=Seen()) as server:
        await check_answers(server.url)
    assert f"connection 1 (somebody at {OWN_UID}): open" in caplog.messages


@pytest.mark.trio
async def test_the_connections_of_a_user_are_limited_together(path: Path) -> None:
    async with served(path, max_connections_per_address=1) as server:
        async with WSClient(server.url).connect() as connection:
            assert await connection.execute("(+ 1 2)") == 3
            with pytest.raises(errors.ConnectionRejected, match="max_connections_per_address"):
                await WSClient(server.url).connect()
        with trio.fail_after(10):
            await until_let_in(server.url)


async def until_let_in(url: str) -> None:
    while True:
        with suppress(errors.ConnectionRejected):
            return await check_answers(url)


@pytest.mark.trio
async def test_failures_of_a_user_are_limited_together(path: Path) -> None:
    async with served(path, authenticate=auth.password("right")) as server:
        statuses = []
        for _ in range(6):
            with pytest.raises(errors.ConnectionRejected) as caught:
                await WSClient(server.url, password="wrong").connect()
            statuses.append(caught.value.status)
    assert statuses == [401] * 5 + [429]


@pytest.mark.trio
async def test_users_with_hashed_passwords_can_log_in(path: Path) -> None:
    users = auth.users({"ann": auth.hash_password("right")})
    async with (
        served(path, authenticate=users) as server,
        WSClient(server.url, user="ann", password="right").connect() as connection,
    ):
        assert await connection.execute("(+ 1 2)") == 3


@pytest.mark.trio
async def test_a_query_has_no_time_limit_by_default(path: Path) -> None:
    async with served(path) as server:
        assert server._handler.query_timeout is None


@pytest.mark.trio
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 101),
        ({"Host": "localhost:8765"}, 101),
        ({"Host": "127.0.0.1"}, 101),
        ({"Host": "prices.example"}, 421),
        ({"Origin": "http://localhost"}, 403),
        ({"Origin": "http://localhost:8765"}, 403),
        ({"X-Forwarded-For": "192.0.2.7"}, 403),
        ({"Via": "1.1 proxy"}, 403),
    ],
)
async def test_protected_mode_and_the_checks_of_host_and_origin(
    headers: dict[str, str], status: int, path: Path
) -> None:
    """A Unix socket may be forwarded to a port, where browsers reach it."""
    async with served(path):
        assert await status_with(path, headers) == status


@pytest.mark.trio
async def test_allowed_hosts_and_origins_are_allowed(path: Path) -> None:
    options = {"allowed_hosts": ["prices.example"], "allowed_origins": ["https://prices.example"]}
    async with served(path, **options):
        assert await status_with(path, {"Host": "prices.example", "Origin": "https://prices.example"}) == 101


@pytest.mark.trio
async def test_pages_are_shown_to_local_clients(path: Path) -> None:
    async with served(path):
        for page in "/healthz", "/healthz?deep":
            answer = await answer_to(path, response(f"GET {page} HTTP/1.1", {"Host": "localhost"}))
            assert (answer.status, answer.body) == (200, "ok\n")


@pytest.mark.trio
async def test_a_trusted_proxy_names_its_client_and_hides_its_own_process(path: Path) -> None:
    seen = Seen()
    options: dict[str, Any] = {"trusted_proxies": ["unix:"], "proxy_header": "X-Forwarded-For", "authenticate": seen}
    async with served(path, **options):
        assert await status_with(path, {"X-Forwarded-For": "192.0.2.7"}) == 101
        assert await status_with(path, {}) == 101
    assert [(one.peer, one.unix_peer) for one in seen.requests] == [("192.0.2.7", None), (OWN_UID, None)]


@pytest.mark.trio
async def test_a_proxy_that_is_not_trusted_hides_its_own_process_too(path: Path) -> None:
    seen = Seen()
    async with served(path, trusted_proxies=["10.0.0.0/8"], authenticate=seen):
        assert await status_with(path, {"X-Forwarded-For": "192.0.2.7"}) == 101
    assert [(one.peer, one.unix_peer) for one in seen.requests] == [(OWN_UID, None)]


@pytest.mark.trio
async def test_without_authentication_the_clients_of_trusted_proxies_are_refused(path: Path) -> None:
    async with served(path, trusted_proxies=["unix:"]):
        assert await status_with(path, {}) == 403


@pytest.mark.trio
async def test_a_proxy_can_use_the_proxy_protocol(path: Path) -> None:
    seen = Seen()
    header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes([192, 0, 2, 7, 127, 0, 0, 1]) + struct.pack("!HH", 4711, 80)
    async with served(path, trusted_proxies=["unix:"], proxy_protocol=True, authenticate=seen):
        request = upgrade({"Host": "localhost"})
        assert (await answer_to(path, header + request)).status == 101
        assert (await answer_to(path, request)).status == 400
    assert [(one.peer, one.unix_peer) for one in seen.requests] == [("192.0.2.7", None)]


@pytest.mark.trio
async def test_tcp_peers_are_no_proxies_on_unix_sockets(path: Path) -> None:
    options: dict[str, Any] = {"trusted_proxies": ["127.0.0.1"], "proxy_protocol": True, "authenticate": Seen()}
    async with served(path, **options):
        assert await status_with(path, {}) == 403


@pytest.mark.trio
async def test_tls_works_with_the_name_localhost(path: Path) -> None:
    directory = local_certificates()
    async with served(path, ssl_context=server_context(directory)) as server:
        assert server.url == f"unix:{path}"
        context = client_context(directory)
        for client in WSClient(server.url, ssl=context), WSClient.from_url(server.url, ssl=context):
            async with client.connect() as connection:
                assert await connection.execute("(+ 1 2)") == 3
        with pytest.raises(errors.ConnectionRejected, match="This port speaks TLS"):
            await WSClient(server.url).connect()


def test_each_user_is_one_address() -> None:
    peers = [ClientAddress(f"unix:uid={uid}", unix_peer=UnixPeer(uid, 1, 2)) for uid in (1, 2)]
    assert [one.network for one in peers] == ["unix:uid=1", "unix:uid=2"]
    assert [str(one) for one in peers] == ["unix:uid=1", "unix:uid=2"]
    assert all(one.is_local for one in peers)
    assert network_of("unix:") == "unix:"
    assert is_on_this_machine("unix:/run/x")


class Reporting:
    """A socket for which the system reports credentials."""

    family = socket.AF_UNIX

    def __init__(self, answers: Mapping[tuple[int, int], bytes]) -> None:
        self._answers = answers

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes:
        answer = self._answers[level, option]
        assert len(answer) == size
        return answer

    def getpeername(self) -> str:
        return ""

    getsockname = getpeername


def test_the_credentials_on_macos() -> None:
    """From its headers: `struct xucred` in sys/ucred.h, the options in sys/un.h."""
    credentials = struct.pack("=IIhxx16I", 0, 501, 2, 20, 12, *[0] * 14)
    sock = Reporting({(0, 1): credentials, (0, 2): struct.pack("=i", 4711)})
    assert unix_peer_of(sock, "darwin") == UnixPeer(501, 20, 4711)


def test_on_systems_that_report_no_credentials_all_clients_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unix_peer_of(Reporting({}), "freebsd14") is None
    monkeypatch.setattr("rayforce_trio._streams._socket_addresses.unix_peer_of", lambda _: None)
    peer = peer_address(Reporting({}))
    assert (str(peer), peer.network, peer.is_local, peer.unix_peer) == ("unix:", "unix:", True, None)


# The client


@pytest.fixture(params=EVENT_LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Tests of the client run on every event loop."""
    return request.param


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The URL of a server in a process of its own, started by the command line."""
    with (
        short_directory() as directory,
        started("serve", "--engine", "in-process", "--host", f"unix:{(path := directory / 's')}") as process,
    ):
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"Rayforce WebSocket served on unix:{path}\n"
            yield f"unix:{path}"
            process.terminate()
            assert process.communicate(timeout=BOUND)[0] == FAREWELL
            assert not path.exists()
        finally:
            process.kill()


@asynccontextmanager
async def in_time() -> AsyncIterator[None]:
    with anyio.fail_after(30):
        async with no_leaks(within=5.0):
            yield


@pytest.mark.anyio
async def test_a_client_connects(url: str) -> None:
    async with in_time():
        for client in WSClient(url), WSClient.from_url(url), WSClient(url, path="/db"):
            assert (client.uri, repr(client)) == (url, f"WSClient({url})")
            async with client.connect() as connection:
                assert (await connection.execute("(+ 1 2)")).to_python() == 3


@pytest.mark.anyio
async def test_long_messages_go_both_ways(url: str) -> None:
    async with in_time(), WSClient(url).connect() as connection:
        assert (await connection.execute(f'(count "{"x" * 5_000_000}")')).to_python() == 5_000_000
        assert len(await connection.fetch("(til 2000000)")) == 2_000_000


@pytest.mark.anyio
async def test_a_connection_comes_back(url: str) -> None:
    async with in_time(), WSClient(url).connect(reconnect=True) as connection:
        assert (await connection.execute("(+ 1 2)")).to_python() == 3


@pytest.mark.anyio
async def test_errors_name_the_path_and_the_reason(path: Path) -> None:
    async with in_time():
        for reason in "no such file or directory", "connection refused":
            with pytest.raises(errors.ConnectError) as caught:
                await WSClient(f"unix:{path}").connect()
            assert str(caught.value) == f"Failed to connect to unix:{path}: {reason}"
            if not path.exists():
                leave_stale(path)
        with pytest.raises(errors.ConnectError, match="path too long"):
            await WSClient(f"unix:/{'x' * 200}").connect()


@contextmanager
def listener_with_full_queue(path: Path) -> Iterator[socket.socket]:
    """Listen on a Unix socket that has no room for another connection."""
    with ExitStack() as opened:
        listener = opened.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen(0)
        with suppress(BlockingIOError):
            while True:
                client = opened.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(str(path))
        yield listener


@pytest.mark.anyio
@linux_waits_for_room
async def test_connecting_waits_for_room_and_can_be_cancelled(path: Path) -> None:
    async with in_time():
        with listener_with_full_queue(path) as listener:
            for connect in partial(connect_unix, str(path)), WSClient(f"unix:{path}").connect:
                with anyio.move_on_after(0.05) as scope:
                    await connect()
                assert scope.cancelled_caught

            async def make_room() -> None:
                accepted, _ = listener.accept()
                accepted.close()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(make_room)  # it begins when the next line waits
                stream = await connect_unix(str(path))
            stream.close()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("unix:/run/x", 80), "Invalid port: 80. A Unix socket has no port; leave it out"),
        (("unix:",), "Invalid path of a Unix socket: 'unix:'. Must look like unix:/run/rayforce.sock"),
        (("unix:/a\0b",), "Invalid path of a Unix socket: "),
    ],
)
def test_what_is_no_unix_socket_is_refused(arguments: Any, says: str) -> None:
    with pytest.raises(errors.RayforceValueError) as caught:
        WSClient(*arguments)
    assert str(caught.value).startswith(says)


def test_the_command_line_asks_it(url: str) -> None:
    done = command("query", url, "(+ 1 2)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")
