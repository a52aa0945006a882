"""Rayforce objects to frames, frames to objects, frames to evaluated frames: the one room that calls Rayforce's FFI.

Rayforce belongs to the thread that imported it first; a function here that calls it raises `RayforceThreadError` in any
other.
Evaluation holds the GIL from beginning to end.
"""

from typing import Any

from rayforce import Dict, Expression, Operation, Symbol, Vector, ray_to_python
from rayforce import _rayforce_c as ffi
from rayforce.errors import CORE_EXC_CODE_MAPPING
from rayforce.network.utils import python_to_ipc
from rayforce.plugins.sql import SQLIPCCompiler, SQLQuery
from rayforce.types.table import SelectQuery

from ._protocol import (
    MESSAGE_TYPE_OFFSET,
    Failure,
    MessageType,
    Reply,
    Result,
    error_code,
    is_null,
    parse_frame,
)
from .errors import (
    RayforceConversionError,
    RayforceError,
    RayforceTCPError,
    RayforceThreadError,
    RayforceUserError,
    UnsupportedQuery,
)

_FOREIGN_THREAD = "threads other than the initialization thread"  # from rayforce-py 2.4.0's RuntimeError
_QUERIES = "a str, String, List, Expression, SQLQuery, or a select, update, insert, upsert or join query"


def check_thread() -> None:
    """Raise `RayforceThreadError` if Rayforce cannot be used in this thread."""
    try:
        ffi.init_b8(True)
    except RuntimeError as error:
        _reraise(error)


def encode(query: Any, message_type: MessageType) -> bytes:
    """Return the frame that carries a query.

    Args:
        query: a str, String, List, Expression, SQLQuery or a query object of rayforce-py.
        message_type: `SYNC` for a request, `ASYNC` for a post.

    Raises:
        UnsupportedQuery: `query` is none of these; the error names its type.
        RayforceError: rayforce-py cannot compile or serialize it.
    """
    try:
        compiled = _compile(query)
    except RayforceTCPError:
        raise UnsupportedQuery(f"cannot send {_type_name(query)} as a query; send {_QUERIES}") from None
    except RuntimeError as error:
        _reraise(error)
    serialized = _serialize(compiled, message_type)
    if isinstance(serialized, Failure):
        raise _engine_error(serialized)
    return serialized


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


def decode(reply: Reply) -> Any:
    """Return the value in a reply: a Rayforce object, or `None` for null.

    Args:
        reply: a whole frame, its header checked, or what went wrong instead.

    Raises:
        RayforceError: the reply is an engine error; rayforce-py's class for its code.
        RayforceConversionError: the payload is damaged, or of a type rayforce-py cannot represent.
    """
    if isinstance(reply, Failure):
        raise _engine_error(reply)
    frame = reply.frame
    if is_null(frame):
        return None
    if (code := error_code(frame)) is not None:
        raise _engine_error(Failure(code, ""))
    if parse_frame(frame).compressed:
        raise RayforceConversionError("the reply is compressed, which this version cannot read")
    try:
        value = ffi.de_obj(_byte_vector(frame))
    except RuntimeError as error:
        _check_foreign_thread(error)
        raise RayforceConversionError(f"the reply cannot be read: {error}") from None
    return ray_to_python(value)


def evaluate(frame: bytes) -> Reply:
    """Evaluate the query in a frame, in this process; a string is parsed first. Blocks until the engine is done.

    Args:
        frame: a whole frame, its header checked; its message type does not matter.

    Returns:
        The value as a response frame, or what went wrong: whatever the frame holds, an error is returned, not raised.
    """
    try:
        if parse_frame(frame).compressed:
            return Failure("nyi", "compressed requests are not supported")
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
    return response if isinstance(response, Failure) else Result(response)


def _serialize(value: ffi.RayObject, message_type: MessageType) -> bytes | Failure:
    if ffi.get_obj_type(value) == ffi.TYPE_ERR:
        return _failure(value)
    serialized = ffi.ser_obj(value)
    if ffi.get_obj_type(serialized) == ffi.TYPE_ERR:
        return _failure(serialized)
    # In place, since a frame can be hundreds of MB: ser_obj always writes message type 0.
    ffi.set_obj(serialized, ffi.init_i64(MESSAGE_TYPE_OFFSET), ffi.init_u8(message_type))
    return bytes(ffi.read_u8_vector(serialized))


def _engine_error(failure: Failure) -> RayforceError:
    """Return the exception for an engine error, as rayforce-py raises it in process."""
    return CORE_EXC_CODE_MAPPING.get(failure.code, RayforceUserError)(str(failure))


def _failure(error: ffi.RayObject) -> Failure:
    described = Dict(ptr=ffi.get_error_obj(error))
    return Failure(_text(described, "code"), _text(described, "message"))


def _text(described: Dict, field: str) -> str:
    try:
        return str(described[field].to_python() or "")
    except UnicodeDecodeError:  # a message quotes what it complains of, which need not be text
        return ""


def _byte_vector(data: bytes) -> ffi.RayObject:
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
