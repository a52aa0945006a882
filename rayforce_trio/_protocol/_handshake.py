"""The handshake of the Rayforce protocol, which follows the opening handshake of WebSocket.

The client sends the two bytes `[version, 0]`, and the server answers with the byte `[version]`. Like the server of
rayforce-py, ours accepts any version.
"""

from ._frames import Frame
from ._violation import ProtocolViolation

VERSION = 1
HELLO = bytes([VERSION, 0])
HELLO_REPLY = bytes([VERSION])

SUBPROTOCOL = "rayforce.v1"
"""The WebSocket subprotocol for the extended protocol. Without it, both sides use the baseline."""

JSON_SUBPROTOCOL = "rayforce.json.v1"
"""The WebSocket subprotocol for requests and replies in JSON."""

MESSAGE_LIMIT_HEADER = "Rayforce-Max-Message-Size"
"""The HTTP header in which a server of the extended protocol gives its `max_message_size`, in bytes."""

TRACES_HEADER = "Rayforce-Traces"
"""The HTTP header in which a server of the extended protocol says that it takes traces. Its value is 1."""

_LARGEST_LIMIT = 2**63 - 1


def parse_message_limit(value: str | None) -> int | None:
    """Return the limit in a server's `MESSAGE_LIMIT_HEADER`, in bytes; `None` if the header has no valid limit."""
    if value is None or not (value.isascii() and value.isdigit()) or len(value) > 19:
        return None
    limit = int(value)
    return limit if 0 < limit <= _LARGEST_LIMIT else None


def check_hello(message: Frame | str) -> None:
    """Check the client's handshake message.

    Raises:
        ProtocolViolation: the message is not a handshake.
    """
    if isinstance(message, str):
        raise ProtocolViolation("expected a binary handshake, got text")
    if len(message) != 2:
        raise ProtocolViolation(f"expected a handshake of 2 bytes, got {len(message)}")
    if message[1] != 0:
        raise ProtocolViolation(f"expected 0x00 as the handshake's second byte, got 0x{message[1]:02x}")


def check_hello_reply(message: Frame | str) -> None:
    """Check the server's answer to the handshake message.

    Raises:
        ProtocolViolation: the message is not the answer to a handshake.
    """
    if isinstance(message, str):
        raise ProtocolViolation("expected a binary handshake answer, got text")
    if len(message) != 1:
        raise ProtocolViolation(f"expected a handshake answer of 1 byte, got {len(message)}")
