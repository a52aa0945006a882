"""Expressions that rayforce-py has compiled already, as its `ipcsave` does: the values in them are quoted."""

from functools import cache

from rayforce import Operation
from rayforce import _rayforce_c as ffi

from ..._values._payloads import Buffer, dict_of, list_of, name
from ..._values._types import QUOTED
from .._objects import payload_of_pointer
from ._operands import data_payload, value_payload

_QUERY_HEADS = (name("select"), name("update"))
_QUOTE = name("quote")
_FUNCTIONS = frozenset({ffi.TYPE_UNARY, ffi.TYPE_BINARY, ffi.TYPE_VARY})


def compiled_payload(pointer: ffi.RayObject, where: str) -> Buffer:
    """Return an expression that rayforce-py has compiled already, as its `ipcsave` does, with the values in it quoted.

    A list is code if a name comes first, which no str among the values becomes, or a function that rayforce-py puts
    there itself.
    """
    if ffi.get_obj_type(pointer) != ffi.TYPE_LIST:
        return data_payload(pointer, where)
    items = [ffi.at_idx(pointer, index) for index in range(ffi.get_obj_length(pointer))]
    if not items or not _is_callable(items[0]):
        return data_payload(pointer, where)
    head = (
        compiled_payload(items[0], where)
        if ffi.get_obj_type(items[0]) == ffi.TYPE_LIST
        else payload_of_pointer(items[0])
    )
    if bytes(head) == _QUOTE:
        return list_of([head, *(value_payload(item, where) for item in items[1:])])
    if bytes(head) in _QUERY_HEADS and len(items) == 2 and ffi.get_obj_type(items[1]) == ffi.TYPE_DICT:
        return list_of([head, _compiled_clauses(items[1], where)])
    return list_of([head, *(_compiled_operand(item, where) for item in items[1:])])


def _compiled_operand(pointer: ffi.RayObject, where: str) -> Buffer:
    if ffi.get_obj_type(pointer) == -ffi.TYPE_SYMBOL:
        return payload_of_pointer(pointer)  # a name stays one
    return compiled_payload(pointer, where)


def _compiled_clauses(pointer: ffi.RayObject, where: str) -> Buffer:
    values = ffi.dict_values(pointer)
    clauses = [ffi.at_idx(values, index) for index in range(ffi.get_obj_length(values))]
    compiled = [
        _compiled_clauses(clause, where)
        if ffi.get_obj_type(clause) == ffi.TYPE_DICT
        else _compiled_operand(clause, where)
        for clause in clauses
    ]
    return dict_of(payload_of_pointer(ffi.dict_keys(pointer)), list_of(compiled))


@cache
def _compiled_heads() -> frozenset[bytes]:
    """Return the functions that rayforce-py 2.4.0 puts into its compiled queries; none of them has an effect."""
    operations = (Operation.LIST, Operation.AT, Operation.MAP_LEFT, Operation.QUOTE)
    return frozenset(bytes(payload_of_pointer(operation.primitive)) for operation in operations)


def _is_callable(pointer: ffi.RayObject) -> bool:
    kind = ffi.get_obj_type(pointer)
    if kind == -ffi.TYPE_SYMBOL:
        return payload_of_pointer(pointer)[1] != QUOTED
    if kind == ffi.TYPE_LIST:
        return bool(ffi.get_obj_length(pointer)) and _is_callable(ffi.at_idx(pointer, 0))
    return kind in _FUNCTIONS and bytes(payload_of_pointer(pointer)) in _compiled_heads()
