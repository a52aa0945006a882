"""Heads of requests: upgrade requests, plain HTTP requests, and invalid requests with their statuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.raw import KEY, response, upgrade

from rayforce_trio._websocket import (
    HEAD_LIMIT,
    MAX_HEADERS,
    HttpMethod,
    HttpRequest,
    InvalidRequest,
    UpgradeRequest,
    key_in,
    normalized_request,
    parse_request,
)


def plain(start: str, headers: dict[str, str | None] | None = None) -> bytes:
    return response(start, {"Host": "127.0.0.1", **(headers or {})})


def accepted(data: bytes) -> UpgradeRequest:
    request = parse_request(data)
    assert isinstance(request, UpgradeRequest), request
    return request


def refused(data: bytes) -> InvalidRequest:
    request = parse_request(data)
    assert isinstance(request, InvalidRequest), request
    return request


# Requests that are accepted

ACCEPTED = {
    "as it should be": upgrade(),
    "names in lower case": upgrade()
    .lower()
    .replace(KEY.lower().encode(), KEY.encode())
    .replace(b"get / http", b"GET / HTTP"),
    "Connection: keep-alive, Upgrade": upgrade({"Connection": "keep-alive, Upgrade"}),
    "a second Connection line": upgrade({"Connection": "Upgrade\r\nConnection: keep-alive"}),
    "a second Connection line that has it": upgrade({"Connection": "keep-alive\r\nConnection: upgrade"}),
    "Upgrade: h2c, websocket": upgrade({"Upgrade": "h2c, WebSocket"}),
    "a second Upgrade line": upgrade({"Upgrade": "h2c\r\nUpgrade: websocket"}),
    "Latin-1 in a header": upgrade({"X-Name": "caf\xe9"}),
    "UTF-8 in a header": upgrade({"Cookie": "name=čeština".encode().decode("latin-1")}),
    "Content-Length: 0": upgrade({"Content-Length": "0"}),
    "a line over 8 KB": upgrade({"X-Long": "x" * 12_000}),
    "200 headers": upgrade({f"X-{number}": "x" for number in range(200)}),
    "extensions": upgrade({"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}),
    "an empty header": upgrade({"X-Empty": ""}),
    "tabs around a value": upgrade({"X-Tab": "\t1\t"}),
    "the whole URL as its target": upgrade(start="GET http://127.0.0.1/ HTTP/1.1"),
    "the whole URL in capitals as its target": upgrade(start="GET HTTP://127.0.0.1/ HTTP/1.1"),
}


@pytest.mark.parametrize("data", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_a_valid_request_is_accepted(data: bytes) -> None:
    request = accepted(data + b"\x82\x80frames\r\n\r\n")
    assert (request.target, request.key) == ("/", KEY)
    assert request.leftover == b"\x82\x80frames\r\n\r\n"


@pytest.mark.parametrize("data", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_a_valid_request_is_incomplete_until_its_last_byte(data: bytes) -> None:
    ends = [*range(0, len(data), 1 + len(data) // 1000), len(data) - 1]
    assert [end for end in ends if parse_request(data[:end]) is not None] == []


def test_the_parts_of_a_request() -> None:
    request = accepted(
        upgrade(
            {
                "Host": "db.example:8080",
                "Accept": "a\r\nACCEPT: b",
                "Cookie": "name=caf\xe9",
                "Sec-WebSocket-Protocol": "rayforce.v1,  chat\r\nSec-WebSocket-Protocol: ,other",
            },
            start="GET /path?query=1 HTTP/1.1",
        )
    )
    assert request.target == "/path?query=1"
    assert request.subprotocols == ("rayforce.v1", "chat", "other")
    assert request.headers == {
        "host": "db.example:8080",
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-key": KEY,
        "sec-websocket-version": "13",
        "accept": "a, b",
        "cookie": "name=caf\xe9",
    }


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/", "/"),
        ("/a/b?c=d&e=http://f/", "/a/b?c=d&e=http://f/"),
        ("//double", "//double"),
        ("/%00", "/%00"),
        ("ws://127.0.0.1/a?b", "/a?b"),
        ("wss://127.0.0.1", "/"),
    ],
)
def test_the_target(target: str, path: str) -> None:
    assert accepted(upgrade(start=f"GET {target} HTTP/1.1")).target == path


def test_secrets_are_not_in_the_representation() -> None:
    secret = "s3cret"
    headers = {"Authorization": secret, "Cookie": secret, "Sec-WebSocket-Protocol": secret}
    assert secret not in repr(accepted(upgrade(headers) + secret.encode()))
    assert secret not in repr(parse_request(plain("GET / HTTP/1.1", {"Cookie": secret})))


# Plain HTTP

PLAIN = {
    "GET": (plain("GET /healthz HTTP/1.1"), HttpMethod.GET),
    "HEAD": (plain("HEAD /healthz HTTP/1.1"), HttpMethod.HEAD),
    "HTTP/1.0": (plain("GET /healthz HTTP/1.0"), HttpMethod.GET),
    "HTTP/1.0 without Host": (response("HEAD /healthz HTTP/1.0", {}), HttpMethod.HEAD),
    "Connection: upgrade alone, as from nginx": (
        plain("GET /healthz HTTP/1.1", {"Connection": "upgrade"}),
        HttpMethod.GET,
    ),
    "an empty Upgrade": (plain("GET /healthz HTTP/1.1", {"Upgrade": ""}), HttpMethod.GET),
    "a body": (plain("GET /healthz HTTP/1.1", {"Content-Length": "4"}) + b"body", HttpMethod.GET),
    "the whole URL": (plain("GET http://127.0.0.1/healthz HTTP/1.1"), HttpMethod.GET),
}


@pytest.mark.parametrize(("data", "method"), PLAIN.values(), ids=PLAIN.keys())
def test_a_request_without_an_upgrade(data: bytes, method: HttpMethod) -> None:
    request = parse_request(data)
    assert isinstance(request, HttpRequest), request
    assert (request.method, request.target) == (method, "/healthz")


def test_the_headers_of_a_request_without_an_upgrade() -> None:
    request = parse_request(plain("GET / HTTP/1.1", {"Accept": "*/*", "X": "\xff"}))
    assert isinstance(request, HttpRequest)
    assert request.headers == {"host": "127.0.0.1", "accept": "*/*", "x": "\xff"}


# Requests that are not valid

FOLDED = "a header is folded over several lines"
LINE_END = "a line does not end with CR LF"
NO_KEY = "the Sec-WebSocket-Key is not 16 bytes in base64"
OTHER_SERVER = "the request target and the Host header name different servers"
NO_PATH = "the request target must be a path without a fragment"

INVALID: dict[str, tuple[bytes, int, str]] = {
    # The request line
    "garbage": (b"garbage\r\n\r\n", 400, "illegal request line"),
    "garbage without an end": (b"\xffgarbage\n", 400, LINE_END),
    "nothing but an end": (b"\r\n\r\n", 400, "the first line is empty"),
    "an empty line first": (b"\r\n" + upgrade(), 400, "the first line is empty"),
    "no version": (b"GET /\r\n\r\n", 400, "illegal request line"),
    "two spaces": (upgrade(start="GET  / HTTP/1.1"), 400, "illegal request line"),
    "a space in the target": (upgrade(start="GET /a b HTTP/1.1"), 400, "illegal request line"),
    "a target that is not ASCII": (upgrade(start="GET /caf\xe9 HTTP/1.1"), 400, "illegal request line"),
    "a fragment": (upgrade(start="GET /a#b HTTP/1.1"), 400, NO_PATH),
    "an asterisk": (upgrade(start="OPTIONS * HTTP/1.1"), 400, NO_PATH),
    "CONNECT": (upgrade(start="CONNECT 127.0.0.1:80 HTTP/1.1"), 400, NO_PATH),
    "another server in the target": (upgrade(start="GET http://evil.example/ HTTP/1.1"), 400, OTHER_SERVER),
    "another port in the target": (upgrade(start="GET ws://127.0.0.1:81/ HTTP/1.1"), 400, OTHER_SERVER),
    "user info in the target": (upgrade(start="GET ws://u@127.0.0.1/ HTTP/1.1"), 400, OTHER_SERVER),
    "another server in a plain target": (plain("GET http://evil.example/ HTTP/1.1"), 400, OTHER_SERVER),
    "another scheme in the target": (upgrade(start="GET ftp://127.0.0.1/ HTTP/1.1"), 400, NO_PATH),
    "POST": (upgrade(start="POST / HTTP/1.1"), 400, "the method of a WebSocket request must be GET"),
    "HEAD": (upgrade(start="HEAD / HTTP/1.1"), 400, "the method of a WebSocket request must be GET"),
    "an invalid method": (upgrade(start="G(T / HTTP/1.1"), 400, "illegal request line"),
    "POST without an upgrade": (plain("POST /healthz HTTP/1.1"), 400, "the method must be GET or HEAD"),
    "get": (plain("get /healthz HTTP/1.1"), 400, "the method must be GET or HEAD"),
    "HTTP/1.0": (upgrade(start="GET / HTTP/1.0"), 400, "a WebSocket request must use HTTP/1.1"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "this server supports only HTTP/1.1"),
    "HTTP/1.2": (upgrade(start="GET / HTTP/1.2"), 505, "this server supports only HTTP/1.1"),
    # Lines
    "a folded header": (upgrade({"X": "a\r\n b"}), 400, FOLDED),
    "a header folded with a tab": (upgrade({"X": "a\r\n\tb"}), 400, FOLDED),
    "a folded first header": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400, FOLDED),
    "a bare LF": (upgrade().replace(b"\r\n", b"\n", 1), 400, LINE_END),
    "bare LFs": (upgrade().replace(b"\r\n", b"\n"), 400, LINE_END),
    "a bare CR": (upgrade({"X": "a\rb"}), 400, LINE_END),
    "a CR too many": (upgrade({"X": "a\r"}), 400, LINE_END),
    "NUL in a value": (upgrade({"X": "a\0b"}), 400, "the head contains the control character 0x00"),
    "ESC in a value": (upgrade({"X": "\x1b[31m"}), 400, "the head contains the control character 0x1b"),
    "DEL in a value": (upgrade({"X": "\x7f"}), 400, "the head contains the control character 0x7f"),
    "a space before the colon": (upgrade({"Origin ": "null"}), 400, "there is a space before the colon of a header"),
    "a tab before the colon": (upgrade({"X\t": "a"}), 400, "there is a space before the colon of a header"),
    "a space in a name": (upgrade({"Bad header": "x"}), 400, "illegal header line"),
    "no name": (upgrade({"": "x"}), 400, "illegal header line"),
    "no colon": (upgrade().replace(b"Host: ", b"Host "), 400, "a header line has no colon"),
    "a name that is not ASCII": (upgrade({"Caf\xe9": "x"}), 400, "illegal header line"),
    "a head over the limit": (upgrade({"X": "x" * HEAD_LIMIT}), 431, f"the head is longer than {HEAD_LIMIT} bytes"),
    "too many headers": (
        upgrade({f"X-{number}": "" for number in range(MAX_HEADERS)}),
        431,
        f"the head has more than {MAX_HEADERS} headers",
    ),
    "a head without an end": (b"x" * HEAD_LIMIT, 431, f"the head is longer than {HEAD_LIMIT} bytes"),
    # Headers
    "no Host": (upgrade({"Host": None}), 400, "missing mandatory Host: header"),
    "two Host": (upgrade({"Host": "a\r\nHost: a"}), 400, "found multiple Host: headers"),
    "two Origin": (upgrade({"Origin": "null\r\norigin: null"}), 400, "there is more than one Origin header"),
    "two Authorization": (
        upgrade({"Authorization": "a\r\nAuthorization: a"}),
        400,
        "there is more than one Authorization header",
    ),
    "two Authorization without an upgrade": (
        plain("GET / HTTP/1.1", {"Authorization": "a\r\nAuthorization: a"}),
        400,
        "there is more than one Authorization header",
    ),
    "Host that is not ASCII": (upgrade({"Host": "caf\xe9"}), 400, "the value of the host header is not ASCII"),
    "Connection that is not ASCII": (
        upgrade({"Connection": "Upgr\xe4de"}),
        400,
        "the value of the connection header is not ASCII",
    ),
    "Sec-WebSocket-Protocol that is not ASCII": (
        upgrade({"Sec-WebSocket-Protocol": "\xff"}),
        400,
        "the value of the sec-websocket-protocol header is not ASCII",
    ),
    "no Connection": (upgrade({"Connection": None}), 400, "the Connection header is missing"),
    "another Connection": (
        upgrade({"Connection": "close"}),
        400,
        "the Connection header is 'close', not 'Upgrade'",
    ),
    "another Upgrade": (upgrade({"Upgrade": "h2c"}), 426, "the Upgrade header does not ask for websocket"),
    "no Sec-WebSocket-Version": (
        upgrade({"Sec-WebSocket-Version": None}),
        400,
        "the Sec-WebSocket-Version header is missing",
    ),
    "Sec-WebSocket-Version 12": (upgrade({"Sec-WebSocket-Version": "12"}), 426, "the Sec-WebSocket-Version is not 13"),
    "two Sec-WebSocket-Version": (
        upgrade({"Sec-WebSocket-Version": "13\r\nSec-WebSocket-Version: 13"}),
        400,
        "there is more than one Sec-WebSocket-Version header",
    ),
    "no Sec-WebSocket-Key": (upgrade({"Sec-WebSocket-Key": None}), 400, NO_KEY),
    "a short Sec-WebSocket-Key": (upgrade({"Sec-WebSocket-Key": "c2hvcnQ="}), 400, NO_KEY),
    "a Sec-WebSocket-Key that is not base64": (upgrade({"Sec-WebSocket-Key": "!" * 24}), 400, NO_KEY),
    "two Sec-WebSocket-Key": (
        upgrade({"Sec-WebSocket-Key": f"{KEY}\r\nSec-WebSocket-Key: {KEY}"}),
        400,
        "there is more than one Sec-WebSocket-Key header",
    ),
    "a body": (upgrade({"Content-Length": "5"}) + b"hello", 400, "a WebSocket request must not have a body"),
    "a chunked body": (upgrade({"Transfer-Encoding": "chunked"}), 400, "a WebSocket request must not have a body"),
    "another transfer encoding": (
        upgrade({"Transfer-Encoding": "gzip"}),
        400,
        "only Transfer-Encoding: chunked is supported",
    ),
    "Content-Length that is not a number": (upgrade({"Content-Length": "x"}), 400, "bad Content-Length"),
    "contradicting Content-Length": (
        upgrade({"Content-Length": "0\r\nContent-Length: 1"}),
        400,
        "conflicting Content-Length headers",
    ),
}


@pytest.mark.parametrize(("data", "status", "reason"), INVALID.values(), ids=INVALID.keys())
def test_an_invalid_request_is_refused(data: bytes, status: int, reason: str) -> None:
    request = refused(data)
    assert (request.status, request.reason) == (status, f"The request is not valid: {reason}.")


@pytest.mark.parametrize("data", [case[0] for case in INVALID.values()], ids=INVALID.keys())
def test_an_invalid_request_is_refused_for_the_same_reason_however_it_arrives(data: bytes) -> None:
    ends = [*range(0, len(data), 1 + len(data) // 1000), len(data)]
    assert {result for end in ends if (result := parse_request(data[:end])) is not None} == {parse_request(data)}


def test_the_headers_of_answers_that_need_some() -> None:
    assert refused(upgrade({"Sec-WebSocket-Version": "8"})).headers == (("Sec-WebSocket-Version", "13"),)
    assert refused(upgrade({"Upgrade": "h2c"})).headers == (("Upgrade", "websocket"),)


@pytest.mark.parametrize("data", [b"\x16\x03\x01", b"\x16\x03\x03\x00\xc8\x01" + bytes(20_000)])
def test_tls_is_recognized_by_its_first_two_bytes(data: bytes) -> None:
    assert parse_request(data[:1]) is None
    assert refused(data[:2]) == refused(data)
    assert refused(data).reason == "This port does not speak TLS; connect to it with ws:// or http://."


def test_a_reason_does_not_repeat_a_line_with_a_secret() -> None:
    for data in (upgrade({"Autho rization": "s3cret"}), upgrade(start="GET /?token=s3cret HTTP/1"), b"s3cret\r\n\r\n"):
        assert "s3cret" not in refused(data).reason


def test_a_head_of_just_the_limit_is_accepted() -> None:
    space = HEAD_LIMIT - len(upgrade({"X": ""}))
    assert len(accepted(upgrade({"X": "x" * space}) + b"x" * HEAD_LIMIT).leftover) == HEAD_LIMIT
    assert refused(upgrade({"X": "x" * (space + 1)})).status == 431


# Any bytes

HEADER_TEXT = st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"]), max_size=20).map(str.strip)
TOKENS = st.text(st.sampled_from("abcXYZ019!#$%&'*+-.^_`|~"), min_size=1, max_size=8)


@given(st.binary(max_size=200))
def test_no_bytes_raise(data: bytes) -> None:
    parse_request(data)
    parse_request(upgrade()[:-2] + data)
    parse_request(data + upgrade())


@given(
    st.dictionaries(TOKENS.map(lambda name: f"X-{name}".lower()), HEADER_TEXT, max_size=5),
    st.lists(TOKENS, max_size=4),
    st.from_regex(r"/[!-\"$-~]{0,20}", fullmatch=True),
)
def test_every_valid_request_is_parsed_into_its_parts(headers: dict[str, str], names: list[str], target: str) -> None:
    proposal = {"Sec-WebSocket-Protocol": ", ".join(names)} if names else {}
    request = accepted(upgrade({**headers, **proposal}, start=f"GET {target} HTTP/1.1"))
    assert request.target == target
    assert request.subprotocols == tuple(names)
    assert {name: value for name, value in request.headers.items() if name.startswith("x-")} == {
        name: value.strip(" \t") for name, value in headers.items()
    }


@given(st.lists(TOKENS, max_size=4))
def test_a_normalized_request_asks_for_the_same(names: list[str]) -> None:
    request = accepted(upgrade({"Sec-WebSocket-Protocol": ",".join(names), "Cookie": "caf\xe9"}))
    normalized = accepted(normalized_request(request))
    assert (normalized.key, normalized.subprotocols) == (request.key, request.subprotocols)
    assert "cookie" not in normalized.headers


def test_the_key_of_a_request_of_any_length() -> None:
    assert key_in(upgrade({"Sec-WebSocket-Key": "x", "Cookie": "c" * HEAD_LIMIT})) == "x"
