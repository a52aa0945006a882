"""Functions that the modules of the codec share: the thread check, values as bytes, the names of types."""

from pathlib import Path
from threading import get_ident
from typing import Any, NoReturn

import rayforce
from rayforce import Dict
from rayforce import _rayforce_c as ffi

from .._protocol import Failure, Frame
from ..errors import RayforceConversionError, RayforceThreadError

_FOREIGN_THREAD = "threads other than the initialization thread"  # from rayforce-py 2.4.0's RuntimeError

WIDTHS = {
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
"""The item sizes, in bytes, of the vectors that a frame contains exactly as memory does."""


def native_server() -> Path:
    """Return the path of the native server's program, which rayforce-py contains."""
    return Path(rayforce.__file__).parent / "bin" / "rayforce"


_engine_thread: int | None = None  # the thread in which Rayforce can be used; known once `check_thread` ran there


def check_thread() -> None:
    """Raise `RayforceThreadError` if Rayforce cannot be used in this thread."""
    global _engine_thread
    if get_ident() == _engine_thread:  # rayforce-py compares the same number
        return
    try:
        ffi.init_b8(True)
    except RuntimeError as error:
        reraise(error)
    _engine_thread = get_ident()


def check_foreign_thread(error: RuntimeError) -> None:
    """Raise `RayforceThreadError` if rayforce-py raised the error because of the thread."""
    if _FOREIGN_THREAD in str(error):
        raise RayforceThreadError(
            "Rayforce can only be used in the thread that imported it first; run your event loop in that thread, "
            "or import rayforce in the thread that runs the loop"
        ) from error


def reraise(error: RuntimeError) -> NoReturn:
    """Raise a `RayforceError` in place of rayforce-py's bare `RuntimeError`."""
    check_foreign_thread(error)
    raise RayforceConversionError(str(error)) from None


def serialize(value: ffi.RayObject) -> ffi.RayObject | Failure:
    """Return the frame with a value as a vector of bytes. Its message type is 0, and it has no flags."""
    if ffi.get_obj_type(value) == ffi.TYPE_ERR:
        return failure_of(value)
    serialized = ffi.ser_obj(value)
    if ffi.get_obj_type(serialized) == ffi.TYPE_ERR:
        return failure_of(serialized)
    return serialized


def failure_of(error: ffi.RayObject) -> Failure:
    """Return the code and the message of an error object."""
    described = Dict(ptr=ffi.get_error_obj(error))
    return Failure(_text(described, "code"), _text(described, "message"))


def _text(described: Dict, field: str) -> str:
    try:
        return str(described[field].to_python() or "")
    except UnicodeDecodeError:  # a message quotes the query, which need not be UTF-8
        return ""


def byte_vector(data: Frame) -> ffi.RayObject:
    """Return a byte vector with the given bytes."""
    return ffi.init_vector_from_raw_buffer(ffi.TYPE_U8, len(data), data)


def type_name(value: object) -> str:
    """Return the name of a value's type, with its module unless that is `builtins`."""
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def pointer_of(value: Any) -> ffi.RayObject | None:
    """Return the Rayforce object that a wrapper of rayforce-py holds; `None` if the value is not a wrapper."""
    pointer = getattr(value, "ptr", None)
    return pointer if isinstance(pointer, ffi.RayObject) else None
