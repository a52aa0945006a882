"""TLS from end to end: both loops, with certificates and without, and where one end does not speak it."""

import ssl
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
import trio
from support.certificates import CLIENT, certificates, client_context, local_certificates, server_context
from support.leaks import no_leaks
from support.processes import server_process
from support.raw import RawPeer, connect_raw, raw_server

from rayforce_trio import NativeProcess, WSClient, WSServer
from rayforce_trio.errors import ConnectionRejected, HandshakeError, RayforceValueError

LOCAL = "127.0.0.1"
TIMEOUT = 30  # seconds


@pytest.fixture(scope="module")
def tls_port() -> Iterator[int]:
    """The port of a server that speaks TLS, and knows members by their certificates."""
    with server_process("tls", str(local_certificates())) as port:
        yield port


def trusting(**options: Any) -> ssl.SSLContext:
    return client_context(local_certificates(), **options)


# Queries


@pytest.mark.anyio
@pytest.mark.parametrize("count", [3, 1_000, 100_000, 2_000_000])
async def test_replies_of_any_size_pass(tls_port: int, count: int) -> None:
    with anyio.fail_after(TIMEOUT):
        async with no_leaks(), WSClient("localhost", tls_port, ssl=trusting()).connect() as connection:
            reply = (await connection.execute(f"(til {count})")).to_numpy()
            assert len(reply) == count
            assert reply[-1] == count - 1


@pytest.mark.anyio
async def test_a_large_query_passes(tls_port: int) -> None:
    with anyio.fail_after(TIMEOUT):
        async with no_leaks(), WSClient("localhost", tls_port, ssl=trusting()).connect() as connection:
            assert (await connection.execute(f'(count "{"x" * 9_000_000}")')).value == 9_000_000


@pytest.mark.anyio
async def test_many_tasks_share_a_connection(tls_port: int) -> None:
    async def ask(n: int) -> None:
        assert (await connection.execute(f"(+ {n} 1)")).value == n + 1

    with anyio.fail_after(TIMEOUT):
        async with (
            no_leaks(),
            WSClient("localhost", tls_port, ssl=trusting()).connect() as connection,
            anyio.create_task_group() as tasks,
        ):
            for n in range(300):
                tasks.start_soon(ask, n)


@pytest.mark.anyio
async def test_a_cancelled_call_leaves_the_connection_in_step(tls_port: int) -> None:
    with anyio.fail_after(TIMEOUT):
        async with no_leaks(), WSClient("localhost", tls_port, ssl=trusting()).connect() as connection:
            for n in range(50):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(connection.execute, f"(til {n * 20_000})")
                    for _ in range(n % 5):
                        await anyio.lowlevel.checkpoint()
                    tasks.cancel_scope.cancel()
                assert (await connection.execute(f"(+ {n} 1)")).value == n + 1


@pytest.mark.trio
async def test_a_query_is_stopped_in_a_native_engine() -> None:
    with trio.fail_after(TIMEOUT):
        context = server_context(local_certificates())
        async with (
            WSServer(0, host=LOCAL, engine=NativeProcess(), ssl_context=context) as server,
            WSClient("localhost", server.port, ssl=trusting()).connect() as connection,
        ):
            with trio.move_on_after(0.1) as patience:
                await connection.execute("(while true 1)")
            assert patience.cancelled_caught
            assert (await connection.execute("(+ 1 2)")).value == 3


# Who is who


@pytest.mark.anyio
async def test_a_certificate_shows_who_a_client_is(tls_port: int) -> None:
    with anyio.fail_after(TIMEOUT):
        client = WSClient("localhost", tls_port, ssl=trusting(shows_itself=True), path="/members")
        async with client.connect() as connection:
            assert (await connection.execute("(+ 1 2)")).value == 3
        with pytest.raises(ConnectionRejected) as caught:
            await WSClient("localhost", tls_port, ssl=trusting(), path="/members").connect()
        assert caught.value.status == 401


@pytest.mark.anyio
async def test_a_server_of_an_unknown_authority_is_not_trusted(tls_port: int) -> None:
    for context in (True, client_context(certificates("localhost"))):
        with anyio.fail_after(TIMEOUT), pytest.raises(HandshakeError, match="its certificate cannot be trusted"):
            await WSClient("localhost", tls_port, ssl=context).connect()


@pytest.mark.anyio
async def test_a_certificate_for_another_name_is_not_trusted() -> None:
    directory = certificates("elsewhere.example.org")
    with (
        server_process("tls", str(directory)) as port,
        anyio.fail_after(TIMEOUT),
        pytest.raises(HandshakeError, match=r"cannot be trusted.*localhost"),
    ):
        await WSClient("localhost", port, ssl=client_context(directory)).connect()


@pytest.mark.anyio
@pytest.mark.parametrize("data", [b"", b"\x16\x03\x03\x00\x05"])
async def test_a_server_that_hangs_up_in_the_tls_handshake_is_told_from_one_that_is_not_there(data: bytes) -> None:
    async def hang_up(peer: RawPeer) -> None:
        await peer.send(data)

    with anyio.fail_after(TIMEOUT):
        async with raw_server(hang_up) as port:
            with pytest.raises(
                HandshakeError,
                match=r"^Failed to connect to wss://localhost:\d+: the TLS handshake failed: .*",
            ):
                await WSClient("localhost", port, ssl=trusting()).connect()


@pytest.mark.trio
async def test_a_server_that_wants_a_certificate_that_it_trusts_says_so() -> None:
    context = server_context(local_certificates())
    context.verify_mode = ssl.CERT_REQUIRED
    with trio.fail_after(TIMEOUT):
        async with WSServer(0, host=LOCAL, ssl_context=context) as server:
            with pytest.raises(HandshakeError, match=r"the TLS handshake failed: it requires a client certificate"):
                await WSClient("localhost", server.port, ssl=trusting()).connect()
            stranger = trusting()
            stranger.load_cert_chain(certificates("elsewhere.example.org") / CLIENT)
            with pytest.raises(HandshakeError, match="it does not trust the certificate of this side"):
                await WSClient("localhost", server.port, ssl=stranger).connect()
            async with WSClient("localhost", server.port, ssl=trusting(shows_itself=True)).connect() as connection:
                assert (await connection.execute("(+ 1 2)")).value == 3


@pytest.mark.trio
async def test_a_server_without_a_certificate_asks_for_it_in_its_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with trio.fail_after(TIMEOUT):
        async with WSServer(0, host=LOCAL, ssl_context=context) as server:
            with pytest.raises(HandshakeError):
                await WSClient("localhost", server.port, ssl=trusting()).connect()
    assert "no shared cipher (does the server's context have a certificate? See load_cert_chain)" in caplog.text


# One end alone


@pytest.mark.anyio
async def test_a_client_without_tls_is_told_to_use_it(tls_port: int) -> None:
    with anyio.fail_after(TIMEOUT), pytest.raises(ConnectionRejected, match="wss://") as caught:
        await WSClient(LOCAL, tls_port).connect()
    assert caught.value.status == 400


@pytest.mark.anyio
async def test_tls_with_a_server_without_it_says_so(in_process_port: int) -> None:
    with anyio.fail_after(TIMEOUT), pytest.raises(HandshakeError, match="does not speak TLS"):
        await WSClient("localhost", in_process_port, ssl=trusting()).connect()


@pytest.mark.trio
@pytest.mark.parametrize("data", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"])
async def test_a_tls_handshake_that_stops_is_cut(data: bytes) -> None:
    context = server_context(local_certificates())
    with trio.fail_after(TIMEOUT):
        async with no_leaks(), WSServer(0, host=LOCAL, ssl_context=context, open_timeout=1.0) as server:
            with connect_raw(server.port) as peer:
                await peer.send(data)
                assert await peer.receive_rest() == b""
            async with WSClient("localhost", server.port, ssl=trusting()).connect() as connection:
                assert (await connection.execute("(+ 1 2)")).value == 3


@pytest.mark.trio
async def test_garbage_on_a_tls_port_ends_its_own_connection_only() -> None:
    context = server_context(local_certificates())
    with trio.fail_after(TIMEOUT):
        async with no_leaks(), WSServer(0, host=LOCAL, ssl_context=context) as server:
            for data in (bytes(1000), b"\x16\x03\x01\x00\x05garbage", b"SSH-2.0-x\r\n"):
                with connect_raw(server.port) as peer:
                    await peer.send(data)
                    await peer.receive_rest()
            async with WSClient("localhost", server.port, ssl=trusting()).connect() as connection:
                assert (await connection.execute("(+ 1 2)")).value == 3


@pytest.mark.trio
async def test_one_connection_too_many_is_told_so_over_tls() -> None:
    context = server_context(local_certificates())
    with trio.fail_after(TIMEOUT):
        async with (
            WSServer(0, host=LOCAL, ssl_context=context, max_connections=1) as server,
            WSClient("localhost", server.port, ssl=trusting()).connect(),
        ):
            with pytest.raises(ConnectionRejected, match="max_connections") as caught:
                await WSClient("localhost", server.port, ssl=trusting()).connect()
            assert caught.value.status == 503


# Options


@pytest.mark.parametrize("wrong", [True, "cert.pem", ssl.create_default_context()])
def test_a_server_wants_a_context_for_servers(wrong: Any) -> None:
    with pytest.raises(RayforceValueError, match="for a server"):
        WSServer(0, ssl_context=wrong)


@pytest.mark.parametrize("wrong", ["yes", 1, ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)])
def test_a_client_wants_a_context_for_clients(wrong: Any) -> None:
    with pytest.raises(RayforceValueError, match="for a client"):
        WSClient("localhost", ssl=wrong)


def test_tls_shows_in_urls_and_reprs() -> None:
    context = server_context(local_certificates())
    assert WSServer(8765, host=LOCAL, ssl_context=context).url == "wss://127.0.0.1:8765"
    assert repr(WSClient("example.org", ssl=True)) == "WSClient(wss://example.org)"
    assert repr(WSClient("::1", 8765, ssl=True, path="/a?token=secret")) == "WSClient(wss://[::1]:8765/a)"


# URLs


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ws://localhost:8765", "ws://localhost:8765"),
        ("ws://localhost", "ws://localhost"),
        ("wss://example.org/", "wss://example.org"),
        ("wss://[::1]:1/a/b?c=d", "wss://[::1]:1/a/b"),
    ],
)
def test_a_url_says_it_all(url: str, shown: str) -> None:
    assert WSClient.from_url(url).uri == shown


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8765",
        "http://localhost",
        "ws://",
        "ws:///path",
        "ws://localhost:0",
        "ws://localhost:65536",
        "ws://localhost:port",
        "ws://localhost/#fragment",
        "ws://localhost/a b",
        "ws://user:secret@localhost",
        "ws://[::1",
        None,
        b"ws://localhost",
    ],
)
def test_what_is_no_such_url_is_refused_and_not_shown(url: Any) -> None:
    with pytest.raises(RayforceValueError) as caught:
        WSClient.from_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("url", "option"), [("ws://localhost", True), ("wss://localhost", False)])
def test_an_option_that_contradicts_the_url_is_refused(url: str, option: bool) -> None:
    with pytest.raises(RayforceValueError, match="contradicts"):
        WSClient.from_url(url, ssl=option)


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ({"user": "bob"}, "contradicts the URL"),
        ({"port": 5}, "port is part of the URL"),
        ({"path": "/"}, "path is part"),
    ],
    ids=str,
)
def test_what_the_url_says_is_no_option(option: dict[str, Any], why: str) -> None:
    with pytest.raises(RayforceValueError, match=why):
        WSClient.from_url("ws://ann@localhost", password="x", **option)
    assert "ann" not in repr(WSClient.from_url("ws://ann@localhost", user="ann", password="x"))


@pytest.mark.anyio
async def test_a_url_connects(tls_port: int) -> None:
    with anyio.fail_after(TIMEOUT):
        client = WSClient.from_url(f"wss://user%40home@localhost:{tls_port}/x", ssl=trusting(), password="secret")
        async with client.connect() as connection:
            assert (await connection.execute("(+ 1 2)")).value == 3
        assert "secret" not in repr(client)
