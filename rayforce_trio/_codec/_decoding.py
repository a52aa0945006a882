"""Decode replies: to Rayforce objects, or to the payload for readers that need no objects."""

import struct
from typing import Any

from rayforce import B8, F64, I16, I32, I64, U8, Date, Time, Timestamp, ray_to_python
from rayforce import _rayforce_c as ffi

from .._protocol import (
    COMPRESSED_FLAG,
    FLAGS_OFFSET,
    HEADER_SIZE,
    SIZED,
    Failure,
    Frame,
    FrameError,
    Header,
    LazyFrame,
    MessageType,
    Reply,
    Result,
    error_code,
    is_null,
    split_verbose,
)
from ..errors import RayforceConversionError
from ._errors import engine_error
from ._ffi import WIDTHS, byte_vector, check_foreign_thread, reraise

_ATOM = struct.Struct("<BB")  # type code and attributes; the value follows
_ATOM_START = HEADER_SIZE + _ATOM.size
_ATOMS = {
    Header(0, message_type, _ATOM.size + reader.size).pack() + _ATOM.pack(wrapper.type_code & 0xFF, 0): (
        reader.unpack_from,
        init,
        wrapper,
    )
    for message_type in MessageType
    for wrapper, reader, init in (
        (B8, struct.Struct("<?"), ffi.init_b8),
        (U8, struct.Struct("<B"), ffi.init_u8),
        (I16, struct.Struct("<h"), ffi.init_i16),
        (I32, struct.Struct("<i"), ffi.init_i32),
        (I64, struct.Struct("<q"), ffi.init_i64),
        (F64, struct.Struct("<d"), ffi.init_f64),
        (Date, struct.Struct("<i"), ffi.init_date),
        (Time, struct.Struct("<i"), ffi.init_time),
        (Timestamp, struct.Struct("<q"), ffi.init_timestamp),
    )
}
"""How to read the value of an atom, how to make the object, and its class, by what precedes the value in a frame.

rayforce-py makes the same object from the frame in ten times the time. Nulls have an attribute, so they are not here.
"""

_LONG_VECTOR = 64 * 1024  # bytes; shorter vectors gain nothing from the direct way


def reply_frame(reply: Reply, query: Any = None) -> Frame:
    """Return the frame of a reply that is a value. Raises as `decode`, damage in the payload excepted."""
    if isinstance(reply, Failure):
        raise engine_error(reply, query)
    frame = reply.frame[:] if isinstance(reply.frame, LazyFrame) else reply.frame
    if (code := error_code(frame)) is not None:
        raise engine_error(Failure(code, ""), query)
    if frame[FLAGS_OFFSET] & COMPRESSED_FLAG:
        raise RayforceConversionError("the reply cannot be read: it is compressed, which this protocol does not allow")
    return frame


def reply_payload(reply: Reply, query: Any = None) -> memoryview:
    """Return the payload of a reply that is a value, without decoding it. Raises as `reply_frame`."""
    return memoryview(reply_frame(reply, query))[HEADER_SIZE:]


def decode_payload(payload: Frame, query: Any = None) -> Any:
    """Return the value in a payload. Raises as `decode`."""
    header = Header(0, MessageType.RESPONSE, len(payload)).pack()
    return decode(Result(b"".join([header, payload])), query)


def decode(reply: Reply, query: Any = None) -> Any:
    """Return the value in a reply: a Rayforce object, or `None` for null.

    Args:
        reply: a whole frame, its header checked, or the error in its place.
        query: the query; an engine error without a message of its own quotes the beginning of it.

    Raises:
        RayforceError: the reply is an engine error; rayforce-py's class for its code.
        RayforceConversionError: the payload is damaged, or of a type rayforce-py cannot represent.
    """
    short = reply.frame if type(reply) is Result else None
    if type(short) is bytes and (atom := _ATOMS.get(short[:_ATOM_START])) is not None:
        read, init, wrapper = atom
        result = wrapper.__new__(wrapper)
        try:
            result.ptr = init(*read(short, _ATOM_START))
        except RuntimeError as error:
            reraise(error)
        return result
    frame = reply_frame(reply, query)
    if is_null(frame):
        return None
    try:
        value = _plain_vector(frame)
        if value is None:
            vector = byte_vector(frame)
            del reply, short, frame  # the frame may be large, and there is a copy now
            value = ffi.de_obj(vector)
    except RuntimeError as error:
        check_foreign_thread(error)
        raise RayforceConversionError(f"the reply cannot be read: {error}") from None
    return ray_to_python(value)


def _plain_vector(frame: Frame) -> ffi.RayObject | None:
    """Return the vector in a frame without deserializing it, if it is long and laid out there as in memory."""
    kind, attributes, count = SIZED.unpack_from(frame, HEADER_SIZE) if len(frame) > _LONG_VECTOR else (None, 0, 0)
    if kind not in WIDTHS or attributes or len(frame) != HEADER_SIZE + SIZED.size + WIDTHS[kind] * count:
        return None
    return ffi.init_vector_from_raw_buffer(kind, count, memoryview(frame)[HEADER_SIZE + SIZED.size :])


def decode_verbose(reply: Reply) -> tuple[str, Reply]:
    """Return the text that a verbose request printed, and the reply to `decode`.

    A failure is returned unchanged: the request was cancelled, or could not be evaluated.

    Raises:
        RayforceConversionError: the reply is not one to a verbose request.
    """
    if isinstance(reply, Failure):
        return "", reply
    try:
        return split_verbose(reply.frame[:] if isinstance(reply.frame, LazyFrame) else reply.frame)
    except FrameError as error:
        raise RayforceConversionError(f"the reply cannot be read: {error}") from None
