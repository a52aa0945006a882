"""Updates of subscriptions, as the server sends them to clients, and pushes, as an engine sends them to the server.

An update is a frame of message type 0. Its payload is a list of an I64 vector and the value. The vector has the id of
the subscription, the update's sequence number, and how many updates before it the server had to drop.

A push of the engine is a frame of message type 0, too. Its payload is the expression `(upd "topic" sequence (quote
value))`. Measured on rayforce-py 2.4.0 (core 3.0.1).
"""

import struct
from typing import NamedTuple

from ._frames import HEADER_SIZE, SIZED, STRING_ATOM, Frame, Header, MessageType
from ._violation import ProtocolViolation

_LIST, _I64_VECTOR, _I64_ATOM, _SYMBOL_ATOM = 0, 5, 0xFB, 0xF4
_UPDATE = struct.Struct("<BBqBBqqqq")  # a list of two, and the first of them: a vector of three
_SEQUENCE = struct.Struct("<BBq")
_SYMBOL = struct.Struct("<BB")
_UPD = _SYMBOL.pack(_SYMBOL_ATOM, 0) + b"upd\0"
_QUOTE = SIZED.pack(_LIST, 0, 2) + _SYMBOL.pack(_SYMBOL_ATOM, 0) + b"quote\0"
_PUSH = SIZED.pack(_LIST, 0, 4) + _UPD


class Update(NamedTuple):
    """An update on its way to a client.

    Attributes:
        subscription: the id of the subscription.
        sequence: its number.
        lost: how many updates of the subscription the server has dropped directly before this one.
        payload: the value, in the wire format.
    """

    subscription: int
    sequence: int
    lost: int
    payload: Frame


class Push(NamedTuple):
    """A push of the engine.

    Attributes:
        topic: the topic.
        sequence: the engine's number.
        payload: the value, in the wire format.
    """

    topic: str
    sequence: int
    payload: Frame


def update_frame(update: Update) -> bytes:
    """Return the frame that carries an update to a client."""
    subscription, sequence, lost, payload = update
    size = _UPDATE.size + len(payload)
    beginning = _UPDATE.pack(_LIST, 0, 2, _I64_VECTOR, 0, 3, subscription, sequence, lost)
    return b"".join([Header(0, MessageType.ASYNC, size).pack(), beginning, payload])


def parse_update(frame: Frame) -> Update | None:
    """Return the update in a frame of message type 0; `None` if the frame holds something else."""
    if len(frame) <= HEADER_SIZE + _UPDATE.size:
        return None
    *kind, subscription, sequence, lost = _UPDATE.unpack_from(frame, HEADER_SIZE)
    if kind != [_LIST, 0, 2, _I64_VECTOR, 0, 3]:
        return None
    return Update(subscription, sequence, lost, frame[HEADER_SIZE + _UPDATE.size :])


def parse_push(frame: Frame) -> Push | None:
    """Return the push in a frame of message type 0 from an engine; `None` if it is not one of a topic.

    Raises:
        ProtocolViolation: the frame begins like a push, and is damaged.
    """
    start = HEADER_SIZE + len(_PUSH)
    if frame[HEADER_SIZE:start] != _PUSH:
        return None
    try:
        kind, _, size = SIZED.unpack_from(frame, start)
        topic_end = start + SIZED.size + size
        if kind != STRING_ATOM or size < 0:
            return None
        topic = bytes(frame[start + SIZED.size : topic_end]).decode()
        kind, _, sequence = _SEQUENCE.unpack_from(frame, topic_end)
        value = topic_end + _SEQUENCE.size + len(_QUOTE)
        if kind != _I64_ATOM or frame[topic_end + _SEQUENCE.size : value] != _QUOTE or value >= len(frame):
            return None
    except (struct.error, UnicodeDecodeError):
        raise ProtocolViolation("a damaged update") from None
    return Push(topic, sequence, frame[value:])
