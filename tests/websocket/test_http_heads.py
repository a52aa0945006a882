"""Plain heads are parsed without h11. The result must be that of h11, or the head must be left to h11."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.raw import response, upgrade, upgraded

from rayforce_trio._websocket import MAX_HEADERS, ResponseParser, UpgradeAccepted, _opening_response
from rayforce_trio._websocket._http_heads import InvalidHead, complete_head, parse_plain_head
from rayforce_trio._websocket._opening_request import _parse_plain_request, _parse_request

KEY = "dGhlIHNhbXBsZSBub25jZQ=="

_NAMES = st.sampled_from(
    ["Host", "host", "Upgrade", "Connection", "Content-Length", "Transfer-Encoding", "Cookie", "X-!#$%&'*+-.^_`|~9"]
) | st.text(st.characters(max_codepoint=0xFF), max_size=5)
_VALUES = st.sampled_from(["127.0.0.1", "websocket", "Upgrade", "0", "chunked", "", " \t a \t b \t "]) | st.text(
    st.characters(max_codepoint=0xFF), max_size=8
)
_LINES = st.lists(st.tuples(_NAMES, st.sampled_from([":", ": ", ":\t", " : ", ""]), _VALUES).map("".join), max_size=6)
_REQUEST_LINES = st.sampled_from(
    ["GET / HTTP/1.1", "HEAD /p?q HTTP/1.1", "POST / HTTP/1.1", "GET / HTTP/1.0"]
) | st.text(st.characters(max_codepoint=0xFF), max_size=20)
_STATUS_LINES = st.sampled_from(
    [
        "HTTP/1.1 101",
        "HTTP/1.1 101 ",
        "HTTP/1.1 101 Switching\tProtocols",
        "HTTP/1.0 101 X",
        "HTTP/1.1 1010",
        "HTTP/1.1 100",
    ]
)


def head_of(lines: list[str]) -> bytes | None:
    """Return a complete head of these lines; `None` if it is refused before it is parsed."""
    try:
        return complete_head("\r\n".join([*lines, "", ""]).encode("latin-1"))
    except InvalidHead:
        return None


@given(_REQUEST_LINES, _LINES)
@example("GET / HTTP/1.1", ["Host: a", "X-Empty:", "X-Tab:\t1\t"])
@example("GET / HTTP/1.1", ["Host: a", "Host: b"])
@example("GET / HTTP/1.1", ["Upgrade: websocket"])
def test_a_request_is_parsed_as_by_h11(first: str, lines: list[str]) -> None:
    head = head_of([first, *lines])
    if head is not None and (plain := _parse_plain_request(head)) is not None:
        assert plain == _parse_request(head)


@given(_STATUS_LINES, st.lists(st.sampled_from(upgraded(upgrade()).decode().split("\r\n")[1:-2]), unique=True), _LINES)
def test_a_response_is_parsed_as_by_h11(first: str, accepting: list[str], lines: list[str]) -> None:
    head = head_of([first, *accepting, *lines])
    if head is None:
        return
    parser = ResponseParser(key=KEY, subprotocols=[])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_opening_response, "parse_plain_head", lambda _: None)
        general = ResponseParser(key=KEY, subprotocols=[]).receive_data(head + b"rest")
    assert parser.receive_data(head + b"rest") == general


PLAIN = {
    "of this package's client": upgrade({"Sec-WebSocket-Protocol": "rayforce.v1"}),
    "of a browser": upgrade({"Origin": "http://127.0.0.1", "Cookie": "a=b; c=d", "Accept-Encoding": "gzip, br"}),
    "with the largest number of headers": upgrade({f"X-{number}": "x" for number in range(MAX_HEADERS - 5)}),
}


@pytest.mark.parametrize("head", PLAIN.values(), ids=PLAIN.keys())
def test_usual_requests_are_parsed_without_h11(head: bytes) -> None:
    assert _parse_plain_request(head) == _parse_request(head)


def test_usual_responses_are_parsed_without_h11(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ResponseParser, "_http", None)
    parser = ResponseParser(key=KEY, subprotocols=["rayforce.v1"])
    head = upgraded(upgrade({"Sec-WebSocket-Protocol": "rayforce.v1", "Sec-WebSocket-Key": KEY}))
    assert isinstance(parser.receive_data(head), UpgradeAccepted)


NOT_PLAIN = {
    "a header twice": {"Cookie": "a\r\ncookie: b"},
    "a length": {"Content-Length": "0"},
    "an encoding": {"Transfer-Encoding": "chunked"},
    "beyond ASCII": {"Cookie": "caf\xe9"},
    "a folded header": {"Cookie": "a\r\n b"},
    "no colon": {"Cookie": "a\r\nb"},
    "a space before the colon": {"Cookie ": "a"},
    "no name": {"": "a"},
    "too many headers": {f"X-{number}": "x" for number in range(MAX_HEADERS)},
}


@pytest.mark.parametrize("headers", NOT_PLAIN.values(), ids=NOT_PLAIN.keys())
def test_other_heads_are_left_to_h11(headers: dict[str, str | None]) -> None:
    assert parse_plain_head(response("GET / HTTP/1.1", {"Host": "127.0.0.1", **headers})) is None
