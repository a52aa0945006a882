"""A server behind proxies: how it identifies their clients, for its limits, log, pages and protected mode.

The proxies are scripted. Real ones are in tests/interop/foreign.
"""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from support.certificates import client_context, local_certificates, server_context
from support.leaks import no_leaks
from support.opening import LOCAL, HttpResponse, answer_to, parse_answer
from support.raw import HELLO, HELLO_REPLY, RawPeer, connect_raw, response, upgrade

from rayforce_trio import WSServer, auth
from rayforce_trio.auth import Request

KEY = "a-token-that-nobody-can-guess"
BEARER = {"Authorization": f"Bearer {KEY}"}
V2 = b"\r\n\r\n\0\r\nQUIT\n"
TCP4 = V2 + b"\x21\x11\0\x0c" + bytes([192, 0, 2, 7, 127, 0, 0, 1]) + (4711).to_bytes(2) + (443).to_bytes(2)
ITSELF = V2 + b"\x20\0\0\0"
TRUSTED: dict[str, Any] = {"trusted_proxies": ["127.0.0.1"]}
X_FORWARDED_FOR: dict[str, Any] = {**TRUSTED, "proxy_header": "X-Forwarded-For"}
PROXY_PROTOCOL: dict[str, Any] = {**TRUSTED, "proxy_protocol": True}


@asynccontextmanager
async def served(**options: Any) -> AsyncIterator[WSServer]:
    with trio.fail_after(60):
        async with no_leaks(within=5.0), WSServer(0, host=LOCAL, **options) as server:
            yield server


def through(*clients: str) -> dict[str, str]:
    """Return the headers of a request that has come through proxies."""
    return {"X-Forwarded-For": ", ".join(clients)}


async def page(port: int, path: str, headers: Mapping[str, str] | None = None, *, before: bytes = b"") -> HttpResponse:
    """Return the answer to a plain HTTP request.

    Args:
        before: the bytes that the proxy sends before the request.
    """
    with trio.fail_after(10), connect_raw(port) as peer:
        await peer.send(before + response(f"GET {path} HTTP/1.1", {"Host": LOCAL, **(headers or {})}))
        return parse_answer(await peer.receive_head(), await peer.receive_rest())


async def open_through(port: int, headers: Mapping[str, str | None] | None = None, *, before: bytes = b"") -> RawPeer:
    """Open a connection, and return it when the server has greeted."""
    peer = connect_raw(port)
    await peer.send(before + upgrade({"Sec-WebSocket-Protocol": "rayforce.v1", **(headers or {})}))
    head = await peer.receive_head()
    assert head.startswith(b"HTTP/1.1 101 "), head
    await peer.send_frame(HELLO)
    assert (await peer.receive_frame())[1] == HELLO_REPLY
    return peer


# Headers


@pytest.mark.trio
@pytest.mark.parametrize(
    ("options", "headers", "client"),
    [
        (X_FORWARDED_FOR, through("192.0.2.7"), "192.0.2.7"),
        (X_FORWARDED_FOR, through("127.0.0.1", "192.0.2.7"), "192.0.2.7"),
        (
            X_FORWARDED_FOR,
            {"X-Forwarded-For": "192.0.2.7\r\nX-Forwarded-For: 2001:db8::7\r\nX-Forwarded-For: 127.0.0.1"},
            "2001:db8::7",
        ),
        (X_FORWARDED_FOR, {"Forwarded": "for=192.0.2.7"}, LOCAL),
        (X_FORWARDED_FOR, {}, LOCAL),
        ({**TRUSTED, "proxy_header": "Forwarded"}, {"Forwarded": 'for="[2001:db8::7]:4711"'}, "2001:db8::7"),
        ({**TRUSTED, "proxy_header": "Forwarded"}, through("192.0.2.7"), LOCAL),
        ({"trusted_proxies": ["192.0.2.0/24"], "proxy_header": "Forwarded"}, {"Forwarded": "for=192.0.2.7"}, LOCAL),
        (TRUSTED, through("192.0.2.7"), LOCAL),
        ({}, through("192.0.2.7"), LOCAL),
    ],
)
async def test_authenticate_gets_the_address_of_the_client(
    options: dict[str, Any], headers: dict[str, str], client: str
) -> None:
    seen: list[str] = []

    def authenticate(request: Request) -> str:
        seen.append(request.peer)
        return "ann"

    async with served(authenticate=authenticate, **options) as server:
        assert (await answer_to(server.port, headers)).status == 101
    assert seen == [client]


@pytest.mark.trio
async def test_the_log_names_the_client(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rayforce_trio.server")
    async with served(authenticate=auth.token(KEY), **X_FORWARDED_FOR) as server:
        (await open_through(server.port, {**BEARER, **through("2001:db8::7")})).close()
        assert (await answer_to(server.port, through("192.0.2.7:4711"))).status == 401
    assert "connection 1 (token at [2001:db8::7]): open" in caplog.messages
    assert any(message.startswith("connection 2 (192.0.2.7:4711): refused with 401: ") for message in caplog.messages)


@pytest.mark.trio
async def test_a_malformed_header_is_refused_and_the_log_shows_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rayforce_trio.server")
    says = "The proxy sent an invalid X-Forwarded-For header: 'nonsense' is not an IP address."
    async with served(allow_unauthenticated=True, **X_FORWARDED_FOR) as server:
        for answer in (
            await answer_to(server.port, through("nonsense")),
            await page(server.port, "/healthz", through("192.0.2.7, nonsense")),
        ):
            assert (answer.status, answer.body) == (400, f"{says}\n")
        assert server.statistics().connections.refused == {400: 2}
    assert caplog.text.count(f"refused with 400: {says}") == 2


@pytest.mark.trio
async def test_connections_count_for_the_client_and_not_for_the_proxy() -> None:
    options = {"max_connections_per_address": 2, "max_connections": None, **X_FORWARDED_FOR}
    async with served(allow_unauthenticated=True, **options) as server:
        with ExitStack() as peers:
            for number in range(40):
                for _ in range(2):
                    peers.enter_context(await open_through(server.port, through(f"192.0.2.{number}")))
            answer = await answer_to(server.port, through("192.0.2.7"))
            assert (answer.status, "max_connections_per_address" in answer.body) == (503, True)
            for client in ("2001:db8::1", "2001:db8::2"):  # of one network
                peers.enter_context(await open_through(server.port, through(client)))
            assert (await answer_to(server.port, through("2001:db8::3"))).status == 503
            assert (await answer_to(server.port, through("2001:db8:0:1::3"))).status == 101


@pytest.mark.trio
async def test_a_proxy_may_have_all_openings(mock_clock: trio.testing.MockClock) -> None:
    options = {"max_unauthenticated": 4, "allow_unauthenticated": True}
    async with served(**options, **X_FORWARDED_FOR) as server:
        with ExitStack() as slow:
            for _ in range(3):  # one address alone may have half of four
                slow.enter_context(connect_raw(server.port))
            await trio.testing.wait_all_tasks_blocked()
            (await open_through(server.port, through("192.0.2.7"))).close()


@pytest.mark.trio
async def test_failures_count_for_the_client_and_not_for_the_proxy(mock_clock: trio.testing.MockClock) -> None:
    async with served(authenticate=auth.password("s3cret"), **X_FORWARDED_FOR) as server:
        wrong, right = {"Authorization": "Basic Ondyb25n"}, {"Authorization": "Basic OnMzY3JldA=="}
        for _ in range(5):
            assert (await answer_to(server.port, {**wrong, **through("192.0.2.7")})).status == 401
        assert (await answer_to(server.port, {**right, **through("192.0.2.7")})).status == 429
        assert (await answer_to(server.port, {**right, **through("192.0.2.7", "192.0.2.8")})).status == 101


# This machine


@pytest.mark.trio
@pytest.mark.parametrize(
    "headers", [{}, through("127.0.0.1"), through("::1"), through("192.0.2.7"), through("unknown"), {"Via": "1.1 x"}]
)
async def test_no_client_of_a_proxy_is_on_this_machine(headers: dict[str, str]) -> None:
    for options in (TRUSTED, X_FORWARDED_FOR, {**TRUSTED, "proxy_header": "Forwarded"}):
        async with served(metrics=True, **options) as server:
            answer = await answer_to(server.port, headers)
            assert answer.status == 403
            assert "a proxy, whose clients may be anywhere" in answer.body
            assert (await page(server.port, "/healthz", headers)).status == 200
            assert (await page(server.port, "/metrics", headers)).status == 403
            assert (await page(server.port, "/healthz?deep", headers)).status == 403
        async with served(metrics=True, allow_unauthenticated=True, **options) as server:
            assert (await answer_to(server.port, headers)).status == 101
            assert (await page(server.port, "/metrics", headers)).status == 403
            assert (await page(server.port, "/healthz?deep", headers)).status == 403


@pytest.mark.trio
@pytest.mark.parametrize(
    "trace", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP", "X-Forwarded-Proto", "X-Forwarded-Host"]
)
async def test_a_proxy_that_nobody_has_named_is_recognized_by_its_headers(trace: str) -> None:
    headers = {trace: "127.0.0.1"}
    async with served(metrics=True) as server:
        answer = await answer_to(server.port, headers)
        assert (answer.status, "name the proxy in trusted_proxies" in answer.body) == (403, True)
        assert (await page(server.port, "/healthz", headers)).status == 200
        assert (await answer_to(server.port)).status == 101
    async with served(metrics=True, allow_unauthenticated=True) as server:
        assert (await page(server.port, "/metrics", headers)).status == 403
        assert (await page(server.port, "/metrics")).status == 200


# The PROXY protocol


@pytest.mark.trio
async def test_the_proxy_protocol_names_the_client(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rayforce_trio.server")
    seen: list[str] = []

    def authenticate(request: Request) -> str:
        seen.append(request.peer)
        return "ann"

    async with served(authenticate=authenticate, **PROXY_PROTOCOL) as server:
        (await open_through(server.port, through("192.0.2.99"), before=TCP4)).close()
        with connect_raw(server.port) as peer:
            for byte in TCP4 + upgrade():
                await peer.send(bytes([byte]))
                await trio.testing.wait_all_tasks_blocked()
            assert (await peer.receive_head()).startswith(b"HTTP/1.1 101 ")
    assert seen == ["192.0.2.7", "192.0.2.7"]
    assert "connection 1 (ann at 192.0.2.7:4711): open" in caplog.messages


@pytest.mark.trio
async def test_the_header_of_the_proxy_protocol_comes_before_tls() -> None:
    options = {"ssl_context": server_context(local_certificates()), "authenticate": auth.token(KEY)}
    async with served(**options, **PROXY_PROTOCOL) as server:
        stream = await trio.open_tcp_stream(LOCAL, server.port)
        await stream.send_all(TCP4)
        secure = trio.SSLStream(
            stream, client_context(local_certificates()), server_hostname="localhost", https_compatible=True
        )
        async with secure:
            await secure.send_all(response("GET /healthz?deep HTTP/1.1", {"Host": LOCAL, **BEARER}))
            assert (await secure.receive_some()).startswith(b"HTTP/1.1 200 ")


async def hang(request: Request) -> str:
    await trio.sleep_forever()
    return "nobody"


@pytest.mark.trio
async def test_a_client_that_finds_no_slot_reads_why_over_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayforce_trio._server._openings.QUEUE_TIMEOUT", 0.1)
    options = {"ssl_context": server_context(local_certificates()), "authenticate": hang, "max_unauthenticated": 1}
    async with served(**options, **PROXY_PROTOCOL) as server, AsyncExitStack() as clients:
        answers = []
        for _ in range(2):
            stream = await trio.open_tcp_stream(LOCAL, server.port)
            await stream.send_all(TCP4)
            secure = trio.SSLStream(
                stream, client_context(local_certificates()), server_hostname="localhost", https_compatible=True
            )
            clients.push_async_callback(trio.aclose_forcefully, secure)
            await secure.send_all(upgrade(BEARER))
            answers.append(secure)
        assert (await answers[1].receive_some()).startswith(b"HTTP/1.1 503 ")


@pytest.mark.trio
async def test_the_log_names_a_client_that_has_asked_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rayforce_trio.server")
    async with served(allow_unauthenticated=True, **PROXY_PROTOCOL) as server:
        assert (await page(server.port, "/\0", before=TCP4)).status == 400
    assert "connection 1 (192.0.2.7:4711): refused with 400" in caplog.text


@pytest.mark.trio
async def test_the_health_check_of_the_proxy_itself_is_answered_and_is_not_of_this_machine() -> None:
    async with served(metrics=True, **PROXY_PROTOCOL) as server:
        assert (await page(server.port, "/healthz", before=ITSELF)).status == 200
        assert (await page(server.port, "/metrics", before=ITSELF)).status == 403
        assert (await page(server.port, "/healthz?deep", before=ITSELF)).status == 403


@pytest.mark.trio
@pytest.mark.parametrize(
    ("begins", "says"),
    [
        (b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 443\r\n", "The proxy uses version 1 of the PROXY protocol."),
        (b"", "The connection does not begin with a header of the PROXY protocol, version 2."),
        (b"X", "The connection does not begin with a header of the PROXY protocol, version 2."),
        (V2 + b"\x21\x11\xff\xff", "The header of the PROXY protocol is longer than 4112 bytes."),
        (V2 + b"\x31\x11\0\x0c", "The header of the PROXY protocol has an unknown version"),
    ],
)
@pytest.mark.parametrize("tls", [False, True])
async def test_a_trusted_proxy_without_a_valid_header_is_refused_and_the_log_says_why(
    begins: bytes, says: str, tls: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rayforce_trio.server")
    options: dict[str, Any] = {"ssl_context": server_context(local_certificates())} if tls else {}
    async with served(allow_unauthenticated=True, **options, **PROXY_PROTOCOL) as server:
        answer = await page(server.port, "/healthz", before=begins)
        assert (answer.status, answer.body.startswith(says)) == (400, True)
        assert server.statistics().connections.refused == {400: 1}
    assert f"refused with 400: {says}" in caplog.text


@pytest.mark.trio
@pytest.mark.parametrize("data", [b"", V2[:5], TCP4[:16], TCP4[:20]])
async def test_a_header_that_is_cut_is_no_connection(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rayforce_trio.server")
    async with served(allow_unauthenticated=True, **PROXY_PROTOCOL) as server:
        with connect_raw(server.port) as peer:
            await peer.send(data)
            peer.half_close()
            assert await peer.receive_rest() == b""
        with connect_raw(server.port) as peer:
            await peer.send(data)
            await trio.testing.wait_all_tasks_blocked()
            peer.reset()
        while server.statistics().connections.failed < 2:
            await trio.lowlevel.checkpoint()
    assert "the header of the PROXY protocol was complete" in caplog.text


@pytest.mark.trio
async def test_a_header_that_does_not_come_ends_with_the_time_of_the_opening(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with served(allow_unauthenticated=True, open_timeout=5, **PROXY_PROTOCOL) as server:
        with connect_raw(server.port) as silent, connect_raw(server.port) as slow:
            await slow.send(TCP4[:20])
            since = trio.current_time()
            assert await silent.receive_rest() == await slow.receive_rest() == b""
            assert trio.current_time() - since <= 6


@pytest.mark.trio
@pytest.mark.parametrize("before", [TCP4, ITSELF, b""])
async def test_a_peer_that_is_not_a_trusted_proxy_is_refused(before: bytes) -> None:
    async with served(authenticate=auth.token(KEY), trusted_proxies=["192.0.2.1"], proxy_protocol=True) as server:
        answer = await page(server.port, "/healthz", before=before)
        assert answer.status == 403
        assert "accepts connections only from its proxies" in answer.body


@pytest.mark.trio
async def test_the_proxy_protocol_is_never_guessed() -> None:
    async with served(allow_unauthenticated=True, **X_FORWARDED_FOR) as server:
        assert (await page(server.port, "/healthz", before=TCP4)).status == 400
