"""Opening a connection over real sockets: the client on both event loops, and the server on trio."""

import os
import socket
from contextlib import ExitStack, suppress
from dataclasses import replace

import anyio
import pytest
import trio
import trio.testing
from support.certificates import client_context, local_certificates, server_context
from support.leaks import no_leaks
from support.raw import HELLO, RawPeer, connect_raw, frame, raw_server, response, upgrade, upgraded
from support.rounds import counted_rounds

from rayforce_trio._addresses import Endpoint
from rayforce_trio._transports import (
    AcceptOptions,
    BadRequest,
    HttpRequestServed,
    HttpResponse,
    KeepAlive,
    OpeningRequest,
    Refusal,
    Transport,
    accept,
    connect,
    refuse,
)
from rayforce_trio._transports._step_limiter import StepLimiter
from rayforce_trio._websocket import parse_request
from rayforce_trio.errors import ConnectionRejected, HandshakeError

LOCAL = "127.0.0.1"
SUBPROTOCOLS = ["rayforce.v1", "other"]
OPTIONS = AcceptOptions(subprotocols=SUBPROTOCOLS, max_message_size=1024, keepalive=KeepAlive())
TIMEOUT = 10  # seconds


async def open_client(port: int, *, host: str = LOCAL, tls: bool = False) -> Transport:
    context = client_context(local_certificates()) if tls else None
    return await connect(
        Endpoint(host, port, "/path?query=1", context),
        subprotocols=SUBPROTOCOLS,
        headers=[("X-Extra", "a b")],
        max_message_size=1024,
        keepalive=KeepAlive(),
    )


# The client


@pytest.mark.anyio
async def test_the_request_is_the_same_on_both_event_loops() -> None:
    async def script(peer: RawPeer) -> None:
        requests.append(await peer.receive_head())

    requests: list[bytes] = []
    with anyio.fail_after(TIMEOUT):
        async with raw_server(script) as port:
            with pytest.raises(HandshakeError):
                await open_client(port)
    [request] = requests
    key = next(line for line in request.split(b"\r\n") if line.startswith(b"Sec-WebSocket-Key: "))
    # Older versions of wsproto write WebSocket for websocket.
    request = request.replace(key, b"Sec-WebSocket-Key: KEY").replace(b"WebSocket\r\n", b"websocket\r\n")
    assert request.decode().split("\r\n") == [
        "GET /path?query=1 HTTP/1.1",
        f"Host: {LOCAL}:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: KEY",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: rayforce.v1, other",
        "X-Extra: a b",
        "",
        "",
    ]


@pytest.mark.anyio
async def test_the_scope_of_an_ipv6_address_stays_on_this_machine() -> None:
    async def script(peer: RawPeer) -> None:
        requests.append(await peer.receive_head())

    requests: list[bytes] = []
    with anyio.fail_after(TIMEOUT):
        async with raw_server(script, "::1") as port:
            with pytest.raises(HandshakeError):
                await open_client(port, host=f"::1%{socket.if_nametoindex('lo')}")
    assert f"\r\nHost: [::1]:{port}\r\n".encode() in requests[0]


@pytest.mark.anyio
async def test_frames_right_behind_the_response_are_received() -> None:
    async def script(peer: RawPeer) -> None:
        headers = {"Sec-WebSocket-Protocol": "other", "Rayforce-Max-Message-Size": "123"}
        await peer.send(upgraded(await peer.receive_head(), headers) + frame(b"early", masked=False))
        await peer.receive_rest()

    with anyio.fail_after(TIMEOUT):
        async with raw_server(script) as port:
            transport = await open_client(port)
            try:
                assert await transport.receive() == b"early"
                assert (transport.subprotocol, transport.peer_max_message_size) == ("other", 123)
                assert transport.peer == f"{LOCAL}:{port}"
            finally:
                transport.abort()


@pytest.mark.anyio
@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 101 ", response("HTTP/1.1 403 Forbidden", {"Content-Length": "10"}, b"half")],
    ids=["before the response", "in its head", "in its body"],
)
async def test_a_cancelled_opening_leaves_nothing_open(answer: bytes) -> None:
    async def script(peer: RawPeer) -> None:
        await peer.receive_head()
        await peer.send(answer)
        received.set()
        assert await peer.receive_rest() == b""
        ended.set()

    async def open_and_wait() -> None:
        await open_client(port)

    received, ended = anyio.Event(), anyio.Event()
    with anyio.fail_after(TIMEOUT):
        async with no_leaks(within=5.0), raw_server(script) as port:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(open_and_wait)
                await received.wait()
                tasks.cancel_scope.cancel()
            await ended.wait()


# The server


async def let_in(request: OpeningRequest) -> None:
    await trio.lowlevel.checkpoint()


async def accept_one(listener: trio.SocketListener, options: AcceptOptions = OPTIONS) -> Transport:
    return await accept(await listener.accept(), options, decide=let_in)


async def listen() -> tuple[trio.SocketListener, int]:
    [listener] = await trio.open_tcp_listeners(0, host=LOCAL)
    return listener, listener.socket.getsockname()[1]


@pytest.mark.trio
@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
async def test_both_ends_agree(tls: bool) -> None:
    async def decide(request: OpeningRequest) -> None:
        requests.append(request)

    async def serve() -> None:
        servers.append(await accept(await listener.accept(), options, decide=decide))

    options = AcceptOptions(
        subprotocols=["other"],
        max_message_size=123,
        keepalive=KeepAlive(),
        tls=server_context(local_certificates()) if tls else None,
    )
    requests: list[OpeningRequest] = []
    servers: list[Transport] = []
    listener, port = await listen()
    with trio.fail_after(TIMEOUT):
        async with listener:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                client = await open_client(port, tls=tls)
            [server], [request] = servers, requests
            assert (client.subprotocol, server.subprotocol) == ("other", "other")
            assert (client.peer_max_message_size, server.peer_max_message_size) == (123, None)
            assert (client.peer, server.peer.rpartition(":")[0]) == (f"{LOCAL}:{port}", LOCAL)
            assert (request.path, request.headers["x-extra"]) == ("/path?query=1", "a b")
            assert (request.peer.address, request.own_address) == (LOCAL, (LOCAL, port))
            assert request.subprotocols == tuple(SUBPROTOCOLS)
            await client.send(b"to the server")
            await server.send(b"to the client")
            assert await server.receive() == b"to the server"
            assert await client.receive() == b"to the client"
            client.abort()
            server.abort()


@pytest.mark.trio
@pytest.mark.parametrize(
    ("proposed", "chosen"),
    [(None, None), ("unknown", None), ("other, rayforce.v1", "rayforce.v1"), ("other", "other")],
)
async def test_the_server_chooses_the_subprotocol_it_prefers(proposed: str | None, chosen: str | None) -> None:
    listener, port = await listen()
    with trio.fail_after(TIMEOUT):
        async with listener:
            with connect_raw(port) as peer:
                await peer.send(upgrade({"Sec-WebSocket-Protocol": proposed}))
                server = await accept_one(listener)
                head = (await peer.receive_head()).decode()
                assert server.subprotocol == chosen
                assert (f"Sec-WebSocket-Protocol: {chosen}\r\n" in head) == (chosen is not None)
                assert ("Rayforce-Max-Message-Size: 1024\r\n" in head) == (chosen is not None)
                server.abort()


@pytest.mark.trio
async def test_frames_right_behind_the_request_are_received() -> None:
    listener, port = await listen()
    with trio.fail_after(TIMEOUT):
        async with listener:
            with connect_raw(port) as peer:
                await peer.send(upgrade() + frame(HELLO) + frame(b"rest")[:3])
                server = await accept_one(listener)
                assert await server.receive() == HELLO
                await peer.send(frame(b"rest")[3:])
                assert await server.receive() == b"rest"
                server.abort()


@pytest.mark.trio
async def test_of_openings_with_long_steps_only_one_continues_in_each_round_of_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So they do not delay the connections that are open."""

    def parse(received: bytes) -> object:
        parsed_in.append(rounds.number)
        return parse_request(received)

    async def open_one() -> None:
        (await accept_one(listener, options)).abort()

    parsed_in: list[int] = []
    options = replace(OPTIONS, limiter=StepLimiter())
    monkeypatch.setattr("rayforce_trio._transports._step_limiter.ROUND_SHARE", 0.0)
    monkeypatch.setattr("rayforce_trio._transports._accepting.parse_request", parse)
    listener, port = await listen()
    with trio.fail_after(TIMEOUT), ExitStack() as peers, counted_rounds() as rounds:
        async with listener, trio.open_nursery() as nursery:
            for _ in range(20):
                await peers.enter_context(connect_raw(port)).send(upgrade())
            for _ in range(20):
                nursery.start_soon(open_one)
    assert len(set(parsed_in)) == 20


@pytest.mark.trio
async def test_a_refused_client_reads_why_and_is_closed() -> None:
    async def decide(request: OpeningRequest) -> Refusal:
        return Refusal(403, "Not you.", (("X-Extra", "a b"),))

    async def ask() -> None:
        with connect_raw(port) as peer:
            await peer.send(upgrade())
            answers.append(await peer.receive_head() + await peer.receive_rest())

    answers: list[bytes] = []
    listener, port = await listen()
    with trio.fail_after(TIMEOUT):
        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            with pytest.raises(ConnectionRejected, match="403: Not you"):
                await accept(await listener.accept(), OPTIONS, decide=decide)
    assert answers[0].decode().split("\r\n") == [
        "HTTP/1.1 403 Forbidden",
        "Content-Type: text/plain; charset=utf-8",
        "Connection: close",
        "X-Extra: a b",
        "Content-Length: 9",
        "",
        "Not you.\n",
    ]


@pytest.mark.trio
async def test_a_plain_request_is_answered_or_not_valid() -> None:
    async def answer(request: OpeningRequest) -> HttpResponse:
        return HttpResponse(200, request.path.encode())

    async def ask() -> None:
        with connect_raw(port) as peer:
            await peer.send(response("GET /page HTTP/1.1", {"Host": LOCAL}))
            answers.append(await peer.receive_head() + await peer.receive_rest())

    answers: list[bytes] = []
    listener, port = await listen()
    with trio.fail_after(TIMEOUT):
        async with listener:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                with pytest.raises(HttpRequestServed):
                    await accept(await listener.accept(), OPTIONS, decide=let_in, answer=answer)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                with pytest.raises(BadRequest, match="the Upgrade header is missing") as failed:
                    await accept_one(listener)
    assert failed.value.status == 426
    assert answers[0].startswith(b"HTTP/1.1 200 OK\r\n")
    assert answers[0].endswith(b"\r\n\r\n/page")
    assert answers[1].startswith(b"HTTP/1.1 426 Upgrade Required\r\n")


@pytest.mark.trio
@pytest.mark.parametrize("data", [b"", upgrade()[:-1]], ids=["at once", "in the head"])
async def test_a_peer_that_leaves_fails_the_handshake(data: bytes) -> None:
    listener, port = await listen()
    with trio.fail_after(TIMEOUT):
        async with listener, no_leaks():
            with connect_raw(port) as peer:
                await peer.send(data)
            with pytest.raises(HandshakeError, match="the peer closed the connection during the opening handshake"):
                await accept_one(listener)


@pytest.mark.trio
async def test_a_peer_that_resets_fails_the_handshake() -> None:
    listener, port = await listen()
    with trio.fail_after(TIMEOUT):
        async with listener, no_leaks():
            peer = connect_raw(port)
            stream = await listener.accept()
            peer.reset()
            with pytest.raises(HandshakeError):
                await accept(stream, OPTIONS, decide=let_in)


@pytest.mark.trio
async def test_a_peer_that_resets_while_the_server_decides_fails_the_handshake() -> None:
    async def decide(request: OpeningRequest) -> None:
        peer.reset()

    listener, port = await listen()
    with trio.fail_after(TIMEOUT):
        async with listener, no_leaks():
            peer = connect_raw(port)
            await peer.send(upgrade())
            stream = await listener.accept()
            with pytest.raises(HandshakeError, match="the connection broke during the opening handshake"):
                await accept(stream, OPTIONS, decide=decide)


@pytest.mark.trio
async def test_an_error_of_the_decision_is_raised_as_it_is() -> None:
    async def decide(request: OpeningRequest) -> None:
        raise KeyError("a bug")

    listener, port = await listen()
    with trio.fail_after(TIMEOUT):
        async with listener, no_leaks():
            with connect_raw(port) as peer:
                await peer.send(upgrade())
                with pytest.raises(KeyError, match="a bug"):
                    await accept(await listener.accept(), OPTIONS, decide=decide)


@pytest.mark.trio
@pytest.mark.parametrize("data", [b"", upgrade()[:-1], upgrade()], ids=["at once", "in the head", "in the decision"])
async def test_a_cancelled_acceptance_leaves_nothing_open(data: bytes) -> None:
    async def decide(request: OpeningRequest) -> None:
        await trio.sleep_forever()

    listener, port = await listen()
    with trio.fail_after(TIMEOUT):
        async with listener, no_leaks():
            with connect_raw(port) as peer:
                await peer.send(data)
                async with trio.open_nursery() as nursery:
                    stream = await listener.accept()

                    @nursery.start_soon
                    async def _accept() -> None:
                        await accept(stream, OPTIONS, decide=decide)

                    await trio.testing.wait_all_tasks_blocked()
                    nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_peer_that_reads_nothing_is_not_waited_for_after_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the network takes nothing of the answer: the whole refusal takes no longer than the timeout."""
    monkeypatch.setattr("rayforce_trio._transports._accepting._LINGER_TIMEOUT", 0.1)
    listener, port = await listen()
    with trio.fail_after(TIMEOUT):
        async with listener, no_leaks():
            with connect_raw(port, receive_buffer=4096):
                stream = await listener.accept()
                with suppress(BlockingIOError):
                    while True:
                        os.write(stream.socket.fileno(), bytes(1_000_000))
                await refuse(stream, Refusal(503, "Try again later."))


@pytest.mark.trio
async def test_a_peer_is_refused_before_it_asks() -> None:
    listener, port = await listen()
    answers: list[bytes] = []

    async def ask() -> None:
        with connect_raw(port) as peer:
            answers.append(await peer.receive_head() + await peer.receive_rest())

    with trio.fail_after(TIMEOUT):
        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await refuse(await listener.accept(), Refusal(503, "Try again later.", (("Retry-After", "5"),)))
    assert answers[0].startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert answers[0].endswith(b"\r\n\r\nTry again later.\n")
