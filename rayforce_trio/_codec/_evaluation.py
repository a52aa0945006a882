"""Evaluate queries in this process."""

from rayforce import _rayforce_c as ffi

from .._protocol import (
    FLAGS_OFFSET,
    MESSAGE_TYPE_OFFSET,
    VERBOSE_FLAG,
    Failure,
    Frame,
    Header,
    LazyFrame,
    MessageType,
    Reply,
    Result,
    join_verbose,
)
from ._capture import capture_stdout
from ._ffi import WIDTHS, byte_vector, check_foreign_thread, serialize
from ._objects import lost_symbol

_KEPT_WHOLE = 1024 * 1024  # bytes; a longer reply is sent in slices, without a copy

_ERROR, _STRINGS = ffi.TYPE_ERR, frozenset((ffi.TYPE_STR, -ffi.TYPE_STR))
_PLAIN_ATOMS = frozenset(-kind for kind in WIDTHS)  # their frames are short, and contain no symbol

# ser_obj always writes message type 0. It is changed in the bytes of a short frame, and in the vector of a long one.
_RESPONSE = Header(0, MessageType.RESPONSE, 0).pack()[: MESSAGE_TYPE_OFFSET + 1]
_TYPE_OFFSET, _RESPONSE_TYPE = ffi.init_i64(MESSAGE_TYPE_OFFSET), ffi.init_u8(MessageType.RESPONSE)


def evaluate(frame: Frame) -> Reply:
    """Evaluate the query in a frame, in this process; a string is parsed first. Blocks until the engine is done.

    Args:
        frame: a whole frame, its header checked, not compressed; its message type does not matter.

    Returns:
        The value as a response frame, or the error, which is not raised. A value with a symbol that contains NUL is
        an error, because its frame would contain another value. The reply to a verbose request is a list of the
        printed text and the value or error.
    """
    if not frame[FLAGS_OFFSET] & VERBOSE_FLAG:
        return _evaluate(frame)
    try:
        return join_verbose(*capture_stdout(lambda: _evaluate(frame)))
    except OSError as error:
        return Failure("io", f"the output of the query cannot be captured: {error.strerror}")


def _evaluate(frame: Frame) -> Reply:
    try:
        query = ffi.de_obj(byte_vector(frame))
        kind = ffi.get_obj_type(query)
        if kind in _STRINGS:
            value = ffi.eval_str(query)
        elif kind != _ERROR:
            value = ffi.eval_obj(query)
        else:
            value = query
        if ffi.get_obj_type(value) in _PLAIN_ATOMS:
            return Result(_RESPONSE + ffi.read_u8_vector(ffi.ser_obj(value))[len(_RESPONSE) :])
        return _reply(value)
    except RuntimeError as error:
        check_foreign_thread(error)
        return Failure("domain", str(error))


def _reply(value: ffi.RayObject) -> Reply:
    """Return the reply with any value, or the error that it is."""
    response = serialize(value)
    if isinstance(response, Failure):
        return response
    if (symbol := lost_symbol(value, response)) is not None:
        return Failure("domain", f"the symbol {symbol!r} in the result contains NUL and cannot be sent")
    ffi.set_obj(response, _TYPE_OFFSET, _RESPONSE_TYPE)
    size = ffi.get_obj_length(response)
    if size <= _KEPT_WHOLE:
        return Result(ffi.read_u8_vector(response))
    return Result(LazyFrame(size, lambda start, end: _cut(response, start, end)))


def _cut(vector: ffi.RayObject, start: int, end: int) -> bytes:
    return bytes(ffi.read_u8_vector(ffi.vec_slice(vector, start, end - start)))
