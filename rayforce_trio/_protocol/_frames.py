"""Rayforce IPC frames: a 16-byte little-endian header, then the payload.

    offset  size  field
    0       4     magic, fa de fa ce
    4       1     wire version, 3
    5       1     flags: 1 compressed, 2 restricted, 4 verbose
    6       1     endian, 0 = little
    7       1     message type: 0 async, 1 sync, 2 response
    8       8     payload size in bytes, int64

The first byte of the payload is the type code of the object in it. Measured on rayforce-py 2.4.0 (core 3.0.1).
"""

import enum
import struct
from typing import NamedTuple

from .._text import counted
from ._violation import ProtocolViolation

HEADER_SIZE = 16
FLAGS_OFFSET = 5
MESSAGE_TYPE_OFFSET = 7
WIRE_VERSION = 3

_HEADER = struct.Struct("<4sBBBBq")
_MAGIC = bytes.fromhex("fadeface")
COMPRESSED_FLAG = 1
VERBOSE_FLAG = 4
STRING_ATOM = 0xF3  # type code -13
_NULL = 0x7E
ERROR = 0x7F
_ERROR_TAG = bytes([ERROR])
ERROR_SIZE = 9  # type code and an 8-byte code
SIZED = struct.Struct("<BBq")  # type code, attributes, and the length of a string or list
_QUERY = struct.Struct("<4sBBBBqBBq")  # the header, and the beginning of a string

COARSE_HEADER = struct.Struct("<8sq")
"""A header as two fields, to compare it in one step: all that precedes the size of the payload, and the size."""

FENCE = bytes.fromhex("fadeface 03000001 0a00000000000000 fb00 0000000000000000")
"""A request for the value 0. Its answer shows that the posts before it have been carried out."""

RESPONSE_START = _MAGIC + bytes([WIRE_VERSION, 0, 0, 2])
"""The beginning of the header of a response without flags. The size of the payload follows."""


Frame = bytes | memoryview
"""A frame that was received. A long one is a view."""


class MessageType(enum.IntEnum):
    """The message type in the header of a frame."""

    ASYNC = 0
    SYNC = 1
    RESPONSE = 2


class FrameError(ProtocolViolation):
    """The bytes are not one complete, valid IPC frame. The text says why."""


_MESSAGE_TYPES = tuple(MessageType)


class Header(NamedTuple):
    """The header of an IPC frame. `size` is the size of the payload in bytes."""

    flags: int
    message_type: MessageType
    size: int

    @property
    def compressed(self) -> bool:
        """Whether the payload is compressed: its decompressed length as uint32, followed by the compressed bytes."""
        return bool(self.flags & COMPRESSED_FLAG)

    @property
    def verbose(self) -> bool:
        """Whether a request asks for its output in addition to its value."""
        return bool(self.flags & VERBOSE_FLAG)

    def pack(self) -> bytes:
        """Return the header as bytes."""
        return _HEADER.pack(_MAGIC, WIRE_VERSION, self.flags, 0, self.message_type, self.size)


def parse_header(data: bytes | bytearray | memoryview) -> Header:
    """Read the header at the start of `data`.

    Raises:
        FrameError: the data is too short, or the header is invalid or of an unsupported version.
    """
    if len(data) < HEADER_SIZE:
        raise FrameError(f"a frame needs a header of {HEADER_SIZE} bytes, but has {counted(len(data), 'byte')}")
    magic, version, flags, endian, message_type, size = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise FrameError(f"not a Rayforce frame: it begins with {bytes(magic).hex()}, not {_MAGIC.hex()}")
    if version != WIRE_VERSION:
        raise FrameError(f"wire version {version} is not supported; expected {WIRE_VERSION}")
    if endian != 0:
        raise FrameError("big-endian frames are not supported")
    if message_type >= len(_MESSAGE_TYPES):
        raise FrameError(f"unknown message type {message_type}")
    if size < 1:
        raise FrameError(f"the header announces a payload of {size} bytes")
    return Header(flags, _MESSAGE_TYPES[message_type], size)


def parse_frame(frame: Frame) -> Header:
    """Check that `frame` is one complete frame, and return its header.

    Raises:
        FrameError: it is not, or its length is not the one that its header announces.
    """
    header = parse_header(frame)
    if header.size != len(frame) - HEADER_SIZE:
        raise FrameError(f"the header announces {counted(header.size, 'byte')}, but {len(frame) - HEADER_SIZE} follow")
    return header


def announced_size(beginning: bytes | memoryview) -> int:
    """Return the size of a frame from its beginning, including the header, in bytes; 0 if the header is invalid."""
    try:
        return HEADER_SIZE + parse_header(beginning).size
    except FrameError:
        return 0


def is_null(frame: Frame) -> bool:
    """Return whether the frame contains the null object, which the engine writes but cannot read."""
    return len(frame) == HEADER_SIZE + 1 and frame[HEADER_SIZE] == _NULL


def error_code(frame: Frame, start: int = HEADER_SIZE) -> str | None:
    """Return the code of the error object at `start`, such as `"type"`; `None` if the object is not an error."""
    if frame[start : start + 1] != _ERROR_TAG:
        return None
    return bytes(frame[start + 1 : start + ERROR_SIZE]).rstrip(b"\0").decode("ascii", "replace")


def string_frame(text: str) -> bytes:
    """Return a response frame that contains `text` as a Rayforce String."""
    return response_frame(pack_string(text.encode("utf-8", "replace")))


def string_in(payload: Frame) -> str | None:
    """Return the text of a payload that is a Rayforce String, or `None` if the payload is something else."""
    if len(payload) < SIZED.size:
        return None
    kind, _, count = SIZED.unpack_from(payload)
    if kind != STRING_ATOM or count != len(payload) - SIZED.size:
        return None
    return bytes(payload[SIZED.size :]).decode("utf-8", "replace")


def response_frame(payload: bytes) -> bytes:
    """Return the response frame with this payload."""
    return Header(0, MessageType.RESPONSE, len(payload)).pack() + payload


def query_frame(text: str, message_type: MessageType, flags: int) -> bytes:
    """Return the frame that contains a query as text, byte for byte as the engine writes it.

    Raises:
        UnicodeEncodeError: the text cannot be encoded as UTF-8.
    """
    data = text.encode()
    size = len(data)
    return _QUERY.pack(_MAGIC, WIRE_VERSION, flags, 0, message_type, SIZED.size + size, STRING_ATOM, 0, size) + data


def pack_string(data: bytes) -> bytes:
    """Return the payload of a Rayforce String."""
    return SIZED.pack(STRING_ATOM, 0, len(data)) + data
