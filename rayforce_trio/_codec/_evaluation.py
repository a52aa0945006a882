"""Evaluate queries in this process."""

from rayforce import _rayforce_c as ffi

from .._protocol import FLAGS_OFFSET, VERBOSE_FLAG, Failure, Frame, LazyFrame, MessageType, Reply, Result, join_verbose
from ._capture import capture_stdout
from ._ffi import byte_vector, check_foreign_thread, serialize
from ._objects import lost_symbol

_KEPT_WHOLE = 1024 * 1024  # bytes; a longer reply is sent in slices, without a copy


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
        if kind == ffi.TYPE_ERR:
            value = query
        elif abs(kind) == ffi.TYPE_STR:
            value = ffi.eval_str(query)
        else:
            value = ffi.eval_obj(query)
        response = serialize(value, MessageType.RESPONSE)
        if not isinstance(response, Failure) and (symbol := lost_symbol(value, response)) is not None:
            return Failure("domain", f"the symbol {symbol!r} in the result contains NUL and cannot be sent")
    except RuntimeError as error:
        check_foreign_thread(error)
        return Failure("domain", str(error))
    if isinstance(response, Failure):
        return response
    size = ffi.get_obj_length(response)
    if size <= _KEPT_WHOLE:
        return Result(bytes(ffi.read_u8_vector(response)))
    return Result(LazyFrame(size, lambda start, end: _cut(response, start, end)))


def _cut(vector: ffi.RayObject, start: int, end: int) -> bytes:
    return bytes(ffi.read_u8_vector(ffi.vec_slice(vector, start, end - start)))
