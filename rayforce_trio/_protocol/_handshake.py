"""The two bytes and the one byte that follow the WebSocket handshake, before the first frame.

The client sends `[version, 0]`, and the server answers `[version]`. A server accepts any version, like
rayforce-py's.
"""

from ._frames import Frame
from ._violation import ProtocolViolation

VERSION = 1
HELLO = bytes([VERSION, 0])
HELLO_REPLY = bytes([VERSION])

SUBPROTOCOL = "rayforce.v1"
"""The WebSocket subprotocol that announces the extended protocol. Without it, both sides use the baseline protocol."""

MESSAGE_LIMIT_HEADER = "Rayforce-Max-Message-Size"
"""The HTTP header that announces the longest message that a server of the extended protocol accepts, in bytes."""

_LARGEST_LIMIT = 2**63 - 1


def parse_message_limit(value: str | None) -> int | None:
    """Return the limit in a server's `MESSAGE_LIMIT_HEADER`, in bytes; `None` if the header has no valid limit."""
    if value is None or not (value.isascii() and value.isdigit()) or len(value) > 19:
        return None
    limit = int(value)
    return limit if 0 < limit <= _LARGEST_LIMIT else None


def check_hello(message: Frame | str) -> None:
    """Check a client's greeting.

    Raises:
        ProtocolViolation: it is not valid.
    """
    if isinstance(message, str):
        raise ProtocolViolation("expected a binary handshake, got text")
    if len(message) != 2:
        raise ProtocolViolation(f"expected a handshake of 2 bytes, got {len(message)}")
    if message[1] != 0:
        raise ProtocolViolation(f"expected 0x00 as the handshake's second byte, got 0x{message[1]:02x}")


def check_hello_reply(message: Frame | str) -> None:
    """Check a server's answer to our greeting.

    Raises:
        ProtocolViolation: it is not valid.
    """
    if isinstance(message, str):
        raise ProtocolViolation("expected a binary handshake answer, got text")
    if len(message) != 1:
        raise ProtocolViolation(f"expected a handshake answer of 1 byte, got {len(message)}")
