"""Responses to an upgrade request: accepted, rejected with a body, or not from a WebSocket server, and why."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.raw import KEY, response, upgrade, upgraded

from rayforce_trio._websocket import (
    BODY_LIMIT,
    HEAD_LIMIT,
    MAX_HEADERS,
    InvalidResponse,
    ResponseParser,
    UpgradeAccepted,
    UpgradeRejected,
    normalized_response,
)

REQUEST = upgrade()
Response = UpgradeAccepted | UpgradeRejected | InvalidResponse | None


def parse(*pieces: bytes) -> Response:
    """Return the result of the first piece that has one; pieces after that are not received."""
    parser = ResponseParser(key=KEY, subprotocols=["rayforce.v1", "chat"])
    return next((result for piece in pieces if (result := parser.receive_data(piece)) is not None), None)


def answer(headers: dict[str, str | None] | None = None) -> bytes:
    return upgraded(REQUEST, headers)


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


# Responses that open the connection

ACCEPTED = {
    "as it should be": answer(),
    "other cases": answer({"Upgrade": "WebSocket", "Connection": "UPGRADE"}),
    "no reason phrase": answer().replace(b"101 Switching Protocols", b"101"),
    "an empty reason phrase": answer().replace(b"101 Switching Protocols", b"101 "),
    "a reason phrase that is not ASCII": answer().replace(b"Switching Protocols", b"\xff"),
    "Connection: keep-alive, Upgrade": answer({"Connection": "keep-alive, Upgrade"}),
    "a second Connection line": answer({"Connection": "Upgrade\r\nConnection: keep-alive"}),
    "a line over 8 KB": answer({"X-Long": "x" * 12_000}),
    "200 headers": answer({f"X-{number}": "x" for number in range(200)}),
    "UTF-8 in a header": answer({"Set-Cookie": "name=čeština".encode().decode("latin-1")}),
    "an empty list of extensions": answer({"Sec-WebSocket-Extensions": ""}),
    "interim responses": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + answer(),
    "a thousand interim responses": b"HTTP/1.1 102\r\n\r\n" * 1000 + answer(),
}


@pytest.mark.parametrize("data", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_a_valid_response_opens_the_connection(data: bytes) -> None:
    accepted = parse(data + b"\x81\x00frames")
    assert isinstance(accepted, UpgradeAccepted), accepted
    assert (accepted.subprotocol, accepted.leftover) == ("rayforce.v1", b"\x81\x00frames")


@pytest.mark.parametrize("data", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_a_valid_response_may_arrive_byte_by_byte(data: bytes) -> None:
    assert parse(data[:-1]) is None
    assert parse(*cut(data, 1 if len(data) < 1000 else 97)) == parse(data)


def test_the_parts_of_a_response() -> None:
    accepted = parse(answer({"Sec-WebSocket-Protocol": None, "X-A": "1\r\nx-a: \xe9"}))
    assert isinstance(accepted, UpgradeAccepted)
    assert accepted.subprotocol is None
    assert accepted.headers["x-a"] == "1, \xe9"


@pytest.mark.parametrize("subprotocol", [None, "chat"])
def test_a_normalized_response_accepts_in_the_same_way(subprotocol: str | None) -> None:
    accepted = parse(answer({"Sec-WebSocket-Protocol": subprotocol}))
    assert isinstance(accepted, UpgradeAccepted)
    again = parse(normalized_response(accepted, KEY))
    assert isinstance(again, UpgradeAccepted)
    assert again.subprotocol == subprotocol


# Responses that do not


def test_a_rejection_may_follow_an_interim_response() -> None:
    rejected = parse(b"HTTP/1.1 100 Continue\r\n\r\n" + response("HTTP/1.1 503", {"Content-Length": "5"}, b"later"))
    assert isinstance(rejected, UpgradeRejected)
    assert (rejected.status, rejected.body) == (503, b"later")


OVER = f"the head is longer than {HEAD_LIMIT} bytes"

INVALID: dict[str, tuple[bytes, str]] = {
    # Other protocols
    "SSH": (b"SSH-2.0-OpenSSH_9.6\r\n", "its answer is not HTTP"),
    "SMTP": (b"220 mail.example ESMTP\r\n", "its answer is not HTTP"),
    "a page without a head": (b"<html>", "its answer is not HTTP"),
    "zeros": (bytes(20), "its answer is not HTTP"),
    "a TLS alert": (b"\x15\x03\x01\x00\x02\x02\x46", "it speaks TLS; connect to it with wss://"),
    # Heads
    "a status that is not a number": (b"HTTP/1.1 OK\r\n\r\n", "illegal status line"),
    "a bare LF": (answer().replace(b"\r\n", b"\n"), "a line does not end with CR LF"),
    "a folded header": (answer({"X": "a\r\n b"}), "a header is folded over several lines"),
    "a control character": (answer({"X": "\0"}), "the head contains the control character 0x00"),
    "a head over the limit": (answer({"X": "x" * HEAD_LIMIT}), OVER),
    "too many headers": (
        answer({f"X-{number}": "" for number in range(MAX_HEADERS)}),
        f"the head has more than {MAX_HEADERS} headers",
    ),
    "a head without an end": (b"HTTP/1.1 101 " + b"x" * HEAD_LIMIT, OVER),
    # Statuses
    "interim responses without end": (
        b"HTTP/1.1 102\r\n\r\n" * 1025 + answer(),
        f"its interim responses have more than {HEAD_LIMIT} bytes",
    ),
    "200": (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", "it answered with HTTP status 200"),
    "204": (b"HTTP/1.1 204\r\n\r\n", "it answered with HTTP status 204"),
    "101 of HTTP/1.0": (
        answer().replace(b"HTTP/1.1", b"HTTP/1.0"),
        "the version of its response is not HTTP/1.1",
    ),
    # Headers
    "no Upgrade": (answer({"Upgrade": None}), "the Upgrade header is missing"),
    "another Upgrade": (answer({"Upgrade": "h2c"}), "the Upgrade header is 'h2c', not 'websocket'"),
    "several Upgrades": (
        answer({"Upgrade": "websocket, h2c"}),
        "the Upgrade header is 'websocket, h2c', not 'websocket'",
    ),
    "Upgrade that is not ASCII": (answer({"Upgrade": "w\xe9b"}), "the value of the upgrade header is not ASCII"),
    "no Connection": (answer({"Connection": None}), "the Connection header is missing"),
    "another Connection": (answer({"Connection": "close"}), "the Connection header is 'close', not 'Upgrade'"),
    "no accept key": (answer({"Sec-WebSocket-Accept": None}), "the Sec-WebSocket-Accept header is missing"),
    "a wrong accept key": (
        answer({"Sec-WebSocket-Accept": "d3Jvbmc="}),
        "the Sec-WebSocket-Accept header does not match the key of the request",
    ),
    "two accept keys": (
        answer({"Sec-WebSocket-Accept": "a\r\nSec-WebSocket-Accept: a"}),
        "there is more than one Sec-WebSocket-Accept header",
    ),
    "another subprotocol": (
        answer({"Sec-WebSocket-Protocol": "rayforce.v9"}),
        "it chose the subprotocol 'rayforce.v9', which was not requested",
    ),
    "two subprotocols": (
        answer({"Sec-WebSocket-Protocol": "rayforce.v1\r\nSec-WebSocket-Protocol: chat"}),
        "it chose the subprotocol 'rayforce.v1, chat', which was not requested",
    ),
    "an extension": (
        answer({"Sec-WebSocket-Extensions": "permessage-deflate"}),
        "it chose the extension 'permessage-deflate', which was not requested",
    ),
    "the end": (b"", "the peer closed the connection during the opening handshake"),
}


@pytest.mark.parametrize(("data", "reason"), INVALID.values(), ids=INVALID.keys())
def test_an_invalid_response_says_exactly_what_is_wrong(data: bytes, reason: str) -> None:
    assert parse(data) == InvalidResponse(reason, is_incomplete=not data)
    if data:
        assert parse(*cut(data, 1 if len(data) < 1000 else 97)) == InvalidResponse(reason)


def test_the_end_within_a_head_is_the_end() -> None:
    reason = "the peer closed the connection during the opening handshake"
    assert parse(answer()[:-1], b"") == InvalidResponse(reason, is_incomplete=True)


# Rejections

CHUNKED = b"HTTP/1.1 403\r\nTransfer-Encoding: chunked\r\n\r\n"

REJECTED: dict[str, tuple[bytes, int, bytes]] = {
    "no body": (response("HTTP/1.1 404 Not Found", {"Content-Length": "0"}), 404, b""),
    "a body of a known length": (response("HTTP/1.1 403", {"Content-Length": "4"}, b"said"), 403, b"said"),
    "a longer stream": (response("HTTP/1.1 403", {"Content-Length": "4"}, b"said and more"), 403, b"said"),
    "HTTP/1.0": (response("HTTP/1.0 503 Busy", {"Content-Length": "4"}, b"said"), 503, b"said"),
    "chunks": (CHUNKED + b"2\r\nsa\r\n2;x=y\r\nid\r\n0\r\n\r\n", 403, b"said"),
    "a malformed chunk": (CHUNKED + b"4\r\nsaid\r\nnothing\r\n\r\n", 403, b"said"),
    "a redirect": (response("HTTP/1.1 301", {"Location": "/x", "Content-Length": "0"}), 301, b""),
    "not modified": (response("HTTP/1.1 304", {"Content-Length": "10"}), 304, b""),
    "a status of no kind": (response("HTTP/1.1 999", {"Content-Length": "0"}), 999, b""),
    "just the limit": (
        response("HTTP/1.1 403", {"Content-Length": str(BODY_LIMIT)}, bytes(BODY_LIMIT)),
        403,
        bytes(BODY_LIMIT),
    ),
    "over the limit": (response("HTTP/1.1 403", {"Content-Length": "1000000"}, bytes(100_000)), 403, bytes(BODY_LIMIT)),
    "over the limit in a chunk": (CHUNKED + b"fffff\r\n" + bytes(100_000), 403, bytes(BODY_LIMIT)),
    "over the limit without a length": (response("HTTP/1.1 403", {}, bytes(100_000)), 403, bytes(BODY_LIMIT)),
}


@pytest.mark.parametrize(("data", "status", "body"), REJECTED.values(), ids=REJECTED.keys())
def test_a_rejection_is_complete_with_its_body(data: bytes, status: int, body: bytes) -> None:
    assert parse(data) == UpgradeRejected(status, body)
    assert parse(*cut(data, 1 if len(data) < 1000 else 97)) == UpgradeRejected(status, body)


@pytest.mark.parametrize(
    "head",
    [CHUNKED + b"a\r\n", response("HTTP/1.1 403", {"Content-Length": "10"}), response("HTTP/1.1 403", {})],
    ids=["in a chunk", "before the announced length", "without a length"],
)
def test_a_body_ends_with_the_stream(head: bytes) -> None:
    assert parse(head + b"said") is None
    assert parse(head + b"said", b"") == UpgradeRejected(403, b"said")


# Any bytes


@given(st.lists(st.binary(max_size=100), max_size=5))
def test_no_bytes_raise_and_the_end_completes_every_response(pieces: list[bytes]) -> None:
    for beginning in (b"", answer()[:-2], CHUNKED, response("HTTP/1.1 403", {"Content-Length": "50"})):
        assert parse(beginning, *filter(None, pieces), b"") is not None


@given(
    st.sampled_from([*(case[0] for case in REJECTED.values()), answer()]), st.integers(0, 400), st.binary(max_size=3)
)
def test_a_damaged_response_reads_the_same_in_pieces(data: bytes, at: int, damage: bytes) -> None:
    data = (data[:at] + damage + data[at + len(damage) :])[:2000]
    whole, in_pieces = parse(data, b""), parse(*cut(data, 7), b"")
    if isinstance(whole, UpgradeAccepted) and isinstance(in_pieces, UpgradeAccepted):
        assert (whole.headers, whole.subprotocol) == (in_pieces.headers, in_pieces.subprotocol)
    else:
        assert whole == in_pieces
