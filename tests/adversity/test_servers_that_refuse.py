"""Servers that refuse a connection or break the opening handshake: the error of `connect` says what is wrong."""

import re
import select
from functools import partial

import anyio
import anyio.lowlevel
import pytest
from support.clocks import stand_still
from support.raw import (
    BINARY,
    HELLO,
    HELLO_REPLY,
    TEXT,
    RawPeer,
    accept_raw,
    close_frame,
    frame,
    raw_server,
    response,
    upgraded,
)
from support.scripted_server import Script, answer_the_close, fail_to_connect, failure_of, take_request_and_say

from rayforce_trio import WSClient
from rayforce_trio._client._client import OPEN_TIMEOUT
from rayforce_trio._client._exchange import Exchange
from rayforce_trio._protocol import string_frame
from rayforce_trio._websocket import BODY_LIMIT, HEAD_LIMIT
from rayforce_trio.errors import (
    ConnectError,
    ConnectionClosed,
    ConnectionLost,
    ConnectionRejected,
    HandshakeError,
    ProtocolError,
    RayforceWSError,
)


@pytest.mark.anyio
async def test_a_silent_server_fails_the_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayforce_trio._client._client.OPEN_TIMEOUT", 0.2)
    error = await fail_to_connect(RawPeer.receive_rest)  # type: ignore[arg-type]  # it returns bytes
    assert type(error) is HandshakeError
    assert "took longer than 0.2 seconds" in str(error)


BASELINE = {"Sec-WebSocket-Protocol": None}


@pytest.mark.anyio
@pytest.mark.parametrize("headers", [{}, BASELINE], ids=["extended", "baseline"])
async def test_a_server_that_does_not_answer_the_hello_fails_the_handshake(
    headers: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayforce_trio._client._client.OPEN_TIMEOUT", 0.2)

    async def upgrade_only(peer: RawPeer) -> None:
        await accept_raw(peer, hello=None, headers=headers)
        await peer.receive_rest()

    error = await fail_to_connect(upgrade_only)
    assert type(error) is HandshakeError
    assert "took longer than 0.2 seconds" in str(error)


@pytest.mark.anyio
async def test_the_first_request_does_not_wait_for_the_answer_to_the_hello() -> None:
    async def script(peer: RawPeer) -> None:
        await accept_raw(peer, hello=None)
        assert await peer.receive_frame() == (BINARY, HELLO)
        await peer.receive_frame()
        await peer.send(frame(HELLO_REPLY, masked=False) + frame(string_frame("answer"), masked=False))
        await answer_the_close(peer)

    with anyio.fail_after(20):
        async with raw_server(script) as port, WSClient("127.0.0.1", port).connect() as connection:
            assert (await connection.execute("(+ 1 2)")).to_python() == "answer"


@pytest.mark.anyio
@pytest.mark.parametrize("checkpoints", range(4))
async def test_a_program_may_block_the_event_loop_before_its_first_request(
    checkpoints: int, in_process_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time for the answer to the hello begins when the client can receive it."""
    received: list[object] = []
    monkeypatch.setattr("rayforce_trio._client._client.check_hello_reply", received.append)
    async with WSClient("127.0.0.1", in_process_port).connect() as connection:
        for _ in range(checkpoints):
            await anyio.lowlevel.checkpoint()
        if not received:
            assert isinstance(connection._exchange, Exchange)
            stream = connection._exchange._transport._stream  # type: ignore[attr-defined]
            assert select.select([stream._socket], [], [], 20)[0]
        stand_still(OPEN_TIMEOUT + 1, monkeypatch)
        assert (await connection.execute("(+ 1 2)")).value == 3


async def hang_up(peer: RawPeer) -> None:
    peer.close()


async def reset(peer: RawPeer) -> None:
    await peer.receive_head()
    peer.reset()


ADDRESS = r"ws://127\.0\.0\.1:\d+"
CLOSED = "the peer closed the connection during the opening handshake"

NOT_HTTP: dict[str, tuple[Script, str]] = {
    "closes at once": (hang_up, "the (peer closed the connection|connection broke) during the opening handshake"),
    "resets": (reset, "the connection broke during the opening handshake"),
    "garbage": (partial(take_request_and_say, b"\x00garbage\r\n\r\n"), "its answer is not HTTP"),
    "another protocol": (partial(take_request_and_say, b"SSH-2.0-server\r\n"), "its answer is not HTTP"),
    "a TLS alert": (
        partial(take_request_and_say, b"\x15\x03\x01\x00\x02\x02\x46"),
        "it speaks TLS; connect to it with wss://",
    ),
    "a head without an end": (
        partial(take_request_and_say, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"),
        CLOSED,
    ),
    "a head over the limit": (
        partial(take_request_and_say, b"HTTP/1.1 101 X\r\nX-Long: " + b"x" * 2_000_000),
        f"the head is longer than {HEAD_LIMIT} bytes",
    ),
    "a folded header": (
        partial(take_request_and_say, b"HTTP/1.1 101 X\r\nUpgrade: websocket,\r\n h2c\r\n\r\n"),
        "a header is folded over several lines",
    ),
}


@pytest.mark.anyio
@pytest.mark.parametrize(("script", "reason"), NOT_HTTP.values(), ids=NOT_HTTP.keys())
async def test_an_answer_that_is_not_http_fails_the_handshake(script: Script, reason: str) -> None:
    error = await fail_to_connect(script)
    assert type(error) is HandshakeError
    conclusion = "" if "during the opening handshake" in reason else "the peer is not a WebSocket server: "
    assert re.fullmatch(rf"Failed to connect to {ADDRESS}: {conclusion}{reason}", str(error))


WRONG_UPGRADES: dict[str, tuple[dict[str, str | None], str]] = {
    "wrong accept key": (
        {"Sec-WebSocket-Accept": "d3Jvbmc="},
        "the Sec-WebSocket-Accept header does not match the key of the request",
    ),
    "no accept key": ({"Sec-WebSocket-Accept": None}, "the Sec-WebSocket-Accept header is missing"),
    "wrong subprotocol": (
        {"Sec-WebSocket-Protocol": "rayforce.v9"},
        "it chose the subprotocol 'rayforce.v9', which was not requested",
    ),
    "wrong Upgrade": ({"Upgrade": "h2c"}, "the Upgrade header is 'h2c', not 'websocket'"),
    "no Upgrade": ({"Upgrade": None}, "the Upgrade header is missing"),
    "no Connection": ({"Connection": None}, "the Connection header is missing"),
    "wrong Connection": ({"Connection": "close"}, "the Connection header is 'close', not 'Upgrade'"),
    "Upgrade that is not ASCII": ({"Upgrade": "w\xe9bsocket"}, "the value of the upgrade header is not ASCII"),
    "an extension": (
        {"Sec-WebSocket-Extensions": "permessage-deflate"},
        "it chose the extension 'permessage-deflate', which was not requested",
    ),
}


@pytest.mark.anyio
@pytest.mark.parametrize(("headers", "reason"), WRONG_UPGRADES.values(), ids=WRONG_UPGRADES.keys())
async def test_a_wrong_upgrade_fails_the_handshake(headers: dict[str, str | None], reason: str) -> None:
    async def script(peer: RawPeer) -> None:
        await peer.send(upgraded(await peer.receive_head(), headers))
        await peer.receive_rest()

    error = await fail_to_connect(script)
    assert type(error) is HandshakeError
    assert str(error).endswith(f": the peer is not a WebSocket server: {reason}")


UNUSUAL_UPGRADES: dict[str, tuple[bytes, dict[str, str | None]]] = {
    "UTF-8 in a cookie": (b"Switching Protocols", {"Set-Cookie": "name=čeština".encode().decode("latin-1")}),
    "no reason phrase": (b"", {}),
    "a second Connection line": (b"Switching Protocols", {"Connection": "Upgrade\r\nConnection: keep-alive"}),
    "a line of 12 KB": (b"Switching Protocols", {"X-Long": "x" * 12_000}),
    "200 headers": (b"Switching Protocols", {f"X-{number}": "x" for number in range(200)}),
}


@pytest.mark.anyio
@pytest.mark.parametrize(("phrase", "headers"), UNUSUAL_UPGRADES.values(), ids=UNUSUAL_UPGRADES.keys())
async def test_an_unusual_upgrade_is_accepted(phrase: bytes, headers: dict[str, str | None]) -> None:
    async def script(peer: RawPeer) -> None:
        response = upgraded(await peer.receive_head(), headers).replace(b" Switching Protocols", b" " + phrase, 1)
        await peer.send(response.replace(b"101 \r\n", b"101\r\n") + frame(HELLO_REPLY, masked=False))
        await answer_the_close(peer)

    with anyio.fail_after(20):
        async with raw_server(script) as port, WSClient("127.0.0.1", port).connect():
            pass


@pytest.mark.anyio
@pytest.mark.parametrize("status", [301, 307, 401, 403, 404, 503])
async def test_an_http_status_is_reported_with_its_body(status: int) -> None:
    """A redirect is not followed, either."""
    answer = response(f"HTTP/1.1 {status} X", {"Content-Length": "5", "Location": "ws://127.0.0.1:1/"}, b"said\n")
    error = await fail_to_connect(partial(take_request_and_say, answer))
    assert type(error) is ConnectionRejected
    assert (error.status, error.body) == (status, "said\n")
    assert str(error) == f"the server refused the connection with HTTP status {status}: said"


@pytest.mark.anyio
async def test_the_body_of_a_rejection_is_truncated() -> None:
    body = b"no" * 150_000

    async def refuse(peer: RawPeer) -> None:
        await peer.receive_head()
        await peer.send(response("HTTP/1.1 403 Forbidden", {"Content-Length": str(len(body))}, body))
        await peer.receive_rest()

    with anyio.fail_after(5):
        async with raw_server(refuse) as port:
            with pytest.raises(ConnectionRejected) as rejected:
                await WSClient("127.0.0.1", port).connect()
    assert rejected.value.body == "no" * (BODY_LIMIT // 2)
    assert len(str(rejected.value)) < 300


@pytest.mark.anyio
@pytest.mark.parametrize("headers", [{"Content-Length": "6"}, {"Connection": "close"}], ids=["sized", "until the end"])
async def test_a_status_below_300_is_not_a_rejection(headers: dict[str, str | None]) -> None:
    answer = response("HTTP/1.1 200 OK", headers, b"a page")
    error = await fail_to_connect(partial(take_request_and_say, answer))
    assert type(error) is HandshakeError
    assert str(error).endswith(" is not a WebSocket server: it answered with HTTP status 200")


HELLO_ANSWERS = {
    "text": (
        frame(b"\x01", TEXT, masked=False),
        "not a Rayforce server: expected a binary handshake answer, got text",
        HandshakeError,
    ),
    "empty": (
        frame(b"", masked=False),
        "not a Rayforce server: expected a handshake answer of 1 byte, got 0",
        HandshakeError,
    ),
    "2 bytes": (frame(b"\x01\x00", masked=False), "not a Rayforce server: .*got 2", HandshakeError),
    "garbage": (b"\xff" * 100, "the peer broke the WebSocket protocol", ProtocolError),
    "a masked frame": (frame(HELLO_REPLY), "the peer broke the WebSocket protocol", ProtocolError),
    "close": (close_frame(1013, masked=False), "the peer closed the connection with code 1013", ConnectionClosed),
    "end": (b"", "the peer disconnected", ConnectionLost),
}


@pytest.mark.anyio
@pytest.mark.parametrize(("answer", "reason", "error_class"), HELLO_ANSWERS.values(), ids=HELLO_ANSWERS.keys())
async def test_a_wrong_answer_to_the_hello_fails_the_first_request(
    answer: bytes, reason: str, error_class: type[RayforceWSError]
) -> None:
    error = await fail_to_connect(partial(accept_raw, hello=answer))
    assert type(error) is error_class
    assert re.search(reason, str(error))


@pytest.mark.anyio
@pytest.mark.parametrize(("answer", "reason", "_"), HELLO_ANSWERS.values(), ids=HELLO_ANSWERS.keys())
async def test_a_wrong_answer_of_a_baseline_server_fails_the_handshake(answer: bytes, reason: str, _: object) -> None:
    async with raw_server(partial(accept_raw, hello=answer, headers=BASELINE)) as port:
        error = await failure_of(WSClient("127.0.0.1", port).connect())
    assert type(error) is HandshakeError
    assert re.search(reason, str(error))


@pytest.mark.anyio
async def test_a_port_without_a_listener_is_a_connect_error() -> None:
    async with raw_server(hang_up) as port:
        pass
    error = await failure_of(WSClient("127.0.0.1", port).connect())
    assert type(error) is ConnectError
