"""Frames that call functions of the server itself."""

from .._protocol import Header, MessageType
from .._values._payloads import Buffer, call


def server_call(message_type: MessageType, function: str, *arguments: Buffer) -> bytes:
    """Return the frame of a request or a post that calls one of the reserved names."""
    payload = call(function, *arguments)
    return b"".join([Header(0, message_type, len(payload)).pack(), payload])
