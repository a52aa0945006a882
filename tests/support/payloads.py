"""Payloads: through the engine in this process and back, and as plain Python values."""

from typing import Any

from rayforce import Dict
from rayforce import _rayforce_c as ffi

from rayforce_trio._protocol import HEADER_SIZE, Header, MessageType
from rayforce_trio._values._columns import read_columns
from rayforce_trio._values._payloads import Buffer, call, list_of, quoted, table_of


def evaluated(payload: Buffer) -> bytes:
    """Return the payload of the value to which the engine evaluates a payload."""
    frame = Header(0, MessageType.SYNC, len(payload)).pack() + payload
    value = ffi.eval_obj(ffi.de_obj(ffi.init_vector_from_raw_buffer(ffi.TYPE_U8, len(frame), frame)))
    if ffi.get_obj_type(value) == ffi.TYPE_ERR:
        raise AssertionError(Dict(ptr=ffi.get_error_obj(value)).to_python())
    return object_payload(value)


def object_payload(value: ffi.RayObject) -> bytes:
    """Return the payload of a Rayforce object."""
    return bytes(ffi.read_u8_vector(ffi.ser_obj(value)))[HEADER_SIZE:]


def rayforce_payload(value: Any) -> Buffer | None:
    """Return the payload of one of rayforce-py's objects, and `None` for anything else."""
    pointer = getattr(value, "ptr", None)
    return object_payload(pointer) if isinstance(pointer, ffi.RayObject) else None


def type_in(payload: Buffer) -> str:
    """Return the engine's name for the type of a payload: in lower case for an atom."""
    name: str = value_in(evaluated(call("type", quoted(payload))))
    return name


def value_in(payload: Buffer) -> Any:
    """Return the value in a payload as plain Python: lists of values for vectors, `None` for null.

    A dict becomes the pair of its keys and its values.
    """
    if payload[0] == ffi.TYPE_DICT:
        return tuple(value_in(evaluated(call(part, quoted(payload)))) for part in ("key", "value"))
    return read_columns(table_of(["value"], [list_of([payload])])).to_dict()["value"][0]
