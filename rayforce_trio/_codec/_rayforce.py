"""Rayforce objects to frames, frames to objects, frames to evaluated frames: the one room that calls Rayforce's FFI.

Rayforce belongs to the thread that imported it first; a function here that calls it raises `RayforceThreadError` in any
other.
Evaluation holds the GIL from beginning to end.
"""

from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import rayforce
from rayforce import Dict, Expression, Operation, String, Symbol, Vector, ray_to_python
from rayforce import _rayforce_c as ffi
from rayforce.errors import CORE_EXC_CODE_MAPPING
from rayforce.network.utils import python_to_ipc
from rayforce.plugins.sql import SQLIPCCompiler, SQLQuery
from rayforce.types.table import SelectQuery

from .._protocol import (
    BUSY,
    CLOSING,
    COMPRESSED_FLAG,
    FLAGS_OFFSET,
    HEADER_SIZE,
    MESSAGE_TYPE_OFFSET,
    SIZED,
    TIMEOUT,
    VERBOSE_FLAG,
    Failure,
    Frame,
    FrameError,
    MessageType,
    Reply,
    Result,
    Sliced,
    error_code,
    is_null,
    join_verbose,
    query_frame,
    split_verbose,
)
from ..errors import (
    QueryTimeout,
    RayforceConversionError,
    RayforceError,
    RayforceTCPError,
    RayforceThreadError,
    RayforceUserError,
    ServerBusy,
    ServerClosing,
    UnsupportedQuery,
)
from ._capture import capture_stdout

_FOREIGN_THREAD = "threads other than the initialization thread"  # from rayforce-py 2.4.0's RuntimeError
_KEPT_WHOLE = 1024 * 1024  # bytes; of a longer reply there is no copy, it is sent in slices
_LONG_VECTOR = 64 * 1024  # bytes; at shorter ones, nothing is gained by a way of their own
_WIDTHS = {
    ffi.TYPE_B8: 1,
    ffi.TYPE_U8: 1,
    ffi.TYPE_I16: 2,
    ffi.TYPE_I32: 4,
    ffi.TYPE_F32: 4,
    ffi.TYPE_DATE: 4,
    ffi.TYPE_TIME: 4,
    ffi.TYPE_I64: 8,
    ffi.TYPE_F64: 8,
    ffi.TYPE_TIMESTAMP: 8,
}
_CLASSES: dict[str, type[RayforceError]] = {
    **CORE_EXC_CODE_MAPPING,
    BUSY: ServerBusy,
    CLOSING: ServerClosing,
    TIMEOUT: QueryTimeout,
}
_QUOTED = 80  # characters of a query, in the error it caused
_QUERIES = "a str, String, List, Expression, SQLQuery, or a select, update, insert, upsert or join query"


def native_server() -> Path:
    """Return where rayforce-py keeps the native server's program."""
    return Path(rayforce.__file__).parent / "bin" / "rayforce"


def check_thread() -> None:
    """Raise `RayforceThreadError` if Rayforce cannot be used in this thread."""
    try:
        ffi.init_b8(True)
    except RuntimeError as error:
        _reraise(error)


def encode(query: Any, message_type: MessageType, *, verbose: bool = False) -> bytes:
    """Return the frame that carries a query.

    Args:
        query: a str, String, List, Expression, SQLQuery or a query object of rayforce-py.
        message_type: `SYNC` for a request, `ASYNC` for a post.
        verbose: ask for what the query prints, too; its reply is then read by `decode_verbose`.

    Raises:
        UnsupportedQuery: `query` is none of these; the error names its type.
        RayforceError: rayforce-py cannot compile or serialize it.
    """
    flags = VERBOSE_FLAG if verbose else 0
    if type(query) is str:
        check_thread()
        with suppress(UnicodeEncodeError):  # then rayforce-py says what is wrong
            return query_frame(query, message_type, flags)
    try:
        compiled = _compile(query)
    except RayforceTCPError:
        raise UnsupportedQuery(f"cannot send {_type_name(query)} as a query; send {_QUERIES}") from None
    except RuntimeError as error:
        _reraise(error)
    serialized = _serialize(compiled, message_type, flags)
    if isinstance(serialized, Failure):
        raise engine_error(serialized, query)
    return bytes(ffi.read_u8_vector(serialized))


def _compile(query: Any) -> ffi.RayObject:
    """Return the object that carries a query, its ordering included.

    rayforce-py 2.4.0 orders in `execute` only; what it makes for IPC would come back in another order than asked for.
    """
    if isinstance(query, SQLQuery):
        query = SQLIPCCompiler().compile(query.parsed, query.table)
    compiled = python_to_ipc(query)
    if isinstance(query, SelectQuery) and query._order_by_cols:
        columns, descending = query._order_by_cols
        order = Operation.XDESC if descending else Operation.XASC
        compiled = Expression(order, compiled, Vector(list(columns), ray_type=Symbol)).compile()
    return compiled


def decode(reply: Reply, query: Any = None) -> Any:
    """Return the value in a reply: a Rayforce object, or `None` for null.

    Args:
        reply: a whole frame, its header checked, or what went wrong instead.
        query: what was asked; an engine error without a message of its own quotes the beginning of it.

    Raises:
        RayforceError: the reply is an engine error; rayforce-py's class for its code.
        RayforceConversionError: the payload is damaged, or of a type rayforce-py cannot represent.
    """
    if isinstance(reply, Failure):
        raise engine_error(reply, query)
    frame = reply.frame[:] if isinstance(reply.frame, Sliced) else reply.frame
    if is_null(frame):
        return None
    if (code := error_code(frame)) is not None:
        raise engine_error(Failure(code, ""), query)
    if frame[FLAGS_OFFSET] & COMPRESSED_FLAG:
        raise RayforceConversionError("the reply is compressed, which no server of this protocol does")
    try:
        value = _plain_vector(frame)
        if value is None:
            vector = _byte_vector(frame)
            del reply, frame  # it may be large, and there is a copy now
            value = ffi.de_obj(vector)
    except RuntimeError as error:
        _check_foreign_thread(error)
        raise RayforceConversionError(f"the reply cannot be read: {error}") from None
    return ray_to_python(value)


def _plain_vector(frame: Frame) -> ffi.RayObject | None:
    """Return the vector in a frame without deserializing it, if it is a long one that stands there as in memory."""
    kind, attributes, count = SIZED.unpack_from(frame, HEADER_SIZE) if len(frame) > _LONG_VECTOR else (None, 0, 0)
    if kind not in _WIDTHS or attributes or len(frame) != HEADER_SIZE + SIZED.size + _WIDTHS[kind] * count:
        return None
    return ffi.init_vector_from_raw_buffer(kind, count, memoryview(frame)[HEADER_SIZE + SIZED.size :])


def decode_verbose(reply: Reply) -> tuple[str, Reply]:
    """Return what a verbose request printed, and the reply to `decode`.

    A failure is returned as it is: the request was cancelled, or could not be evaluated at all.

    Raises:
        RayforceConversionError: the reply is not one to a verbose request.
    """
    if isinstance(reply, Failure):
        return "", reply
    try:
        return split_verbose(reply.frame[:] if isinstance(reply.frame, Sliced) else reply.frame)
    except FrameError as error:
        raise RayforceConversionError(f"the reply cannot be read: {error}") from None


def evaluate(frame: Frame) -> Reply:
    """Evaluate the query in a frame, in this process; a string is parsed first. Blocks until the engine is done.

    Args:
        frame: a whole frame, its header checked, not compressed; its message type does not matter.

    Returns:
        The value as a response frame, or what went wrong: whatever the frame holds, an error is returned, not raised.
        To a verbose request, a list of what was printed and of the value or error.
    """
    if not frame[FLAGS_OFFSET] & VERBOSE_FLAG:
        return _evaluate(frame)
    try:
        return join_verbose(*capture_stdout(lambda: _evaluate(frame)))
    except OSError as error:
        return Failure("io", f"what it prints cannot be captured: {error.strerror}")


def _evaluate(frame: Frame) -> Reply:
    try:
        query = ffi.de_obj(_byte_vector(frame))
        kind = ffi.get_obj_type(query)
        if kind == ffi.TYPE_ERR:
            value = query
        elif abs(kind) == ffi.TYPE_STR:
            value = ffi.eval_str(query)
        else:
            value = ffi.eval_obj(query)
        response = _serialize(value, MessageType.RESPONSE)
    except RuntimeError as error:
        _check_foreign_thread(error)
        return Failure("domain", str(error))
    if isinstance(response, Failure):
        return response
    size = ffi.get_obj_length(response)
    if size <= _KEPT_WHOLE:
        return Result(bytes(ffi.read_u8_vector(response)))
    return Result(Sliced(size, lambda start, end: _cut(response, start, end)))


def _cut(vector: ffi.RayObject, start: int, end: int) -> bytes:
    return bytes(ffi.read_u8_vector(ffi.vec_slice(vector, start, end - start)))


def _serialize(value: ffi.RayObject, message_type: MessageType, flags: int = 0) -> ffi.RayObject | Failure:
    """Return the frame with a value as a vector of bytes."""
    if ffi.get_obj_type(value) == ffi.TYPE_ERR:
        return _failure(value)
    serialized = ffi.ser_obj(value)
    if ffi.get_obj_type(serialized) == ffi.TYPE_ERR:
        return _failure(serialized)
    # ser_obj always writes message type 0 and no flags.
    ffi.set_obj(serialized, _offset(MESSAGE_TYPE_OFFSET), _byte(message_type))
    if flags:
        ffi.set_obj(serialized, _offset(FLAGS_OFFSET), _byte(flags))
    return serialized


# Kept, since making them anew for every message takes as long as evaluating a small one.
_offset = cache(ffi.init_i64)
_byte = cache(ffi.init_u8)


def engine_error(failure: Failure, query: Any = None) -> RayforceError:
    """Return the exception for an error in place of a value: the engine's, rayforce-py's class for the code, with the
    engine's message; or one of ours.

    A native server sends the code alone; the query then has to tell what failed.
    """
    if not failure.message and query is not None:
        failure = Failure(failure.code, f"in the query {_beginning(query)}")
    return _CLASSES.get(failure.code, RayforceUserError)(str(failure))


def _beginning(query: Any) -> str:
    """Return the beginning of a query's text, on one line; of a query object, which has none, its type."""
    if not isinstance(query, str | String):
        return f"({_type_name(query)})"
    text = " ".join(str(query)[: 10 * _QUOTED].split())
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}..."


def _failure(error: ffi.RayObject) -> Failure:
    described = Dict(ptr=ffi.get_error_obj(error))
    return Failure(_text(described, "code"), _text(described, "message"))


def _text(described: Dict, field: str) -> str:
    try:
        return str(described[field].to_python() or "")
    except UnicodeDecodeError:  # a message quotes what it complains of, which need not be text
        return ""


def _byte_vector(data: Frame) -> ffi.RayObject:
    return ffi.init_vector_from_raw_buffer(ffi.TYPE_U8, len(data), data)


def _check_foreign_thread(error: RuntimeError) -> None:
    if _FOREIGN_THREAD in str(error):
        raise RayforceThreadError(
            "Rayforce can only be used in the thread that imported it first; run your event loop in that thread, "
            "or import rayforce in the thread that runs the loop"
        ) from error


def _reraise(error: RuntimeError) -> None:
    _check_foreign_thread(error)
    raise RayforceConversionError(str(error)) from None


def _type_name(value: object) -> str:
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
