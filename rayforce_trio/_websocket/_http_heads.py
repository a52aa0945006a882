"""HTTP heads: bytes to headers, for requests and responses alike.

h11 parses the heads. It accepts folded header lines, lines that end in a bare LF, and most control characters. Other
HTTP programs read those differently, so this module looks for them in the raw head and refuses them.

Header values are decoded as Latin-1, in which every byte is one character and nothing can fail.
"""

from collections.abc import Iterable

import h11

HEAD_LIMIT = 16 * 1024
"""The longest HTTP head accepted from a peer, in bytes. A line may be as long as the head."""

MAX_HEADERS = 256
"""The largest number of headers. A head of thousands of short ones would block the event loop for 25 ms."""

_END_OF_HEAD = b"\r\n\r\n"
_TEXT = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])  # the bytes of header lines: RFC 9110, section 5.5

_ONCE = {
    name.lower(): name
    for name in (
        "Authorization",
        "Host",
        "Origin",
        "Sec-WebSocket-Accept",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Version",
    )
}
"""Headers that decide about a request. If one came twice, programs would disagree about which of them counts."""

_ASCII_HEADERS = ("connection", "host", "upgrade")
"""Headers that must be ASCII, like those that begin with `Sec-WebSocket-`."""


class InvalidHead(Exception):
    """A head is not valid.

    Attributes:
        reason: the problem, as the end of a sentence.
        status: the HTTP status to answer a request with.
        headers: further headers of that answer.
    """

    def __init__(self, reason: str, status: int = 400, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.headers = headers


def complete_head(data: bytes | bytearray) -> bytes | None:
    """Return the head that `data` begins with, or `None` if it is incomplete.

    Raises:
        InvalidHead: it is too long, or has characters that may not be there.
    """
    end = data.find(_END_OF_HEAD, 0, HEAD_LIMIT)
    complete = end >= 0
    head = bytes(data[: end + len(_END_OF_HEAD)] if complete else data[:HEAD_LIMIT])
    # If the last byte of an incomplete head is CR, its LF has not arrived yet.
    stray = head.removesuffix(b"\r").replace(b"\r\n", b"").translate(None, _TEXT)
    if stray[:1] in (b"\r", b"\n"):
        raise InvalidHead("a line does not end with CR LF")
    if stray:
        raise InvalidHead(f"the head contains the control character 0x{stray[0]:02x}")
    if not complete and len(data) >= HEAD_LIMIT:
        raise InvalidHead(f"the head is longer than {HEAD_LIMIT} bytes", 431)
    return head if complete else None


def parse_head(
    parser: h11.Connection, head: bytes
) -> tuple[h11.Request | h11.Response | h11.InformationalResponse, dict[str, str]]:
    """Parse a complete head.

    Returns:
        The event of h11, and the headers: names in lower case, and the values of a header that came several times
        joined by ", ".

    Raises:
        InvalidHead: it is not valid HTTP, or a header that decides about a request came twice.
    """
    first, *lines = head[: -len(_END_OF_HEAD)].split(b"\r\n")
    if not first:
        raise InvalidHead("the first line is empty")
    if len(lines) > MAX_HEADERS:
        raise InvalidHead(f"the head has more than {MAX_HEADERS} headers", 431)
    for line in lines:
        before, colon, _ = line.partition(b":")
        if line[:1] in (b" ", b"\t"):
            raise InvalidHead("a header is folded over several lines")
        if not colon:
            raise InvalidHead("a header line has no colon")
        if before != before.rstrip():
            raise InvalidHead("there is a space before the colon of a header")
    parser.receive_data(head)
    try:
        event = parser.next_event()
    except h11.RemoteProtocolError as error:
        # Some of its texts end with the line that is meant, in which there may be a secret.
        text = str(error).partition(": b")[0]
        raise InvalidHead(text[:1].lower() + text[1:]) from None
    assert isinstance(event, h11.Request | h11.Response | h11.InformationalResponse)
    return event, joined_headers(event.headers)


def joined_headers(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return headers by name, in lower case. The values of a header that came several times are joined by ", ".

    Raises:
        InvalidHead: a header that decides about a request came twice, or a value is not ASCII but has to be.
    """
    headers: dict[str, str] = {}
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if name in headers and name in _ONCE:
            raise InvalidHead(f"there is more than one {_ONCE[name]} header")
        if not value.isascii() and (name in _ASCII_HEADERS or name.startswith("sec-websocket-")):
            raise InvalidHead(f"the value of the {name} header is not ASCII")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value  # RFC 9110, section 5.3
    return headers


def has_token(headers: dict[str, str], name: str, token: str) -> bool:
    """Return whether a header that is a list contains `token`, in any case; give it in lower case."""
    return token in elements(headers.get(name, "").lower())


def elements(value: str) -> list[str]:
    """Return the elements of a header that is a list; empty ones do not count."""
    return [element for element in (part.strip(" \t") for part in value.split(",")) if element]


def wrong_header(headers: dict[str, str], name: str, expected: str) -> InvalidHead:
    """Return the error for a header that is missing or has another value."""
    value = headers.get(name.lower())
    return InvalidHead(
        f"the {name} header is missing" if value is None else f"the {name} header is {value!r}, not {expected!r}"
    )


def pack_head(lines: Iterable[str]) -> bytes:
    """Return a head of these lines."""
    return "\r\n".join([*lines, "", ""]).encode("ascii")
