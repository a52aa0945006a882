"""Expressions of rayforce-py to payloads: the operations are code, the operands are code, names or data."""

from functools import singledispatch
from typing import Any

from rayforce import Column, Expression, Fn, Operation, Table
from rayforce import _rayforce_c as ffi
from rayforce.types.table import SelectQuery, _UngroupQuery

from ..._values._calls import MAX_ARGUMENTS
from ..._values._payloads import Buffer, list_of, name, quoted, string, symbol
from ...errors import RayforceConversionError, RayforceQueryCompilationError, UnsupportedQuery
from .._ffi import type_name
from .._objects import payload_of_pointer
from ._compiled import compiled_payload
from ._operands import COUNT, COUNT_OFFSET, checked_name, data_payload, value_payload

QUERIES = "a str, sql(…), a String, List, Expression, SQLQuery, or a select, update, insert, upsert or join query"

_PARAMETERS = 2  # the offset of a function's parameters in its payload
_BOUND_LAMBDA = "__pyfn_"  # the prefix of the global names that rayforce-py 2.4.0 gives to functions


@singledispatch
def compiled(query: Any) -> Buffer:
    """Return the payload of a query object. The package registers the class of each with its function."""
    raise UnsupportedQuery(f"cannot send {type_name(query)} as a query; send {QUERIES}")


def expression_payload(expression: Expression, where: str) -> Buffer:
    operation, operands = expression.operation, expression.operands
    if operation == Operation.SUM and len(operands) == 1 and _is_filter(operands[0]):
        # The engine does not optimize a filter within a select; rayforce-py 2.4.0 replaces it likewise.
        column, mask = operands[0].operands
        operation, operands = Operation.SUM, (Expression(Operation.IF, mask, column, 0),)
    if operation == Operation.SELECT and len(operands) == 1 and isinstance(operands[0], SelectQuery):
        return compiled(operands[0])
    payloads = [
        operand_payload(operand, _operand_place(operation, place, where)) for place, operand in enumerate(operands, 1)
    ]
    if operation == Operation.SET and isinstance(operands[0], str):  # rayforce-py's `ipcsave` gives the name as a str
        payloads[0] = symbol(checked_name(operands[0], where))
    if len(payloads) > MAX_ARGUMENTS:
        if operation == Operation.LIST and not any(isinstance(operand, Expression | Column) for operand in operands):
            return quoted(list_of(payloads))
        raise RayforceQueryCompilationError(
            f"{where}: {len(payloads)} operands; the engine accepts at most {MAX_ARGUMENTS}"
        )
    return list_of([_head(operation, where), *payloads])


def _is_filter(operand: Any) -> bool:
    return isinstance(operand, Expression) and operand.operation == Operation.FILTER and len(operand.operands) == 2


def _operand_place(operation: Any, index: int, where: str) -> str:
    """Return where an operand is, for errors: the clause of the query, and the operation around the operand."""
    clause = where.partition(", ")[0]
    if operation == Operation.IN and index == 2:
        return f"{clause}, isin()"
    return (
        f"{clause}, operand {index} of {operation.value if isinstance(operation, Operation) else type_name(operation)}"
    )


def _head(operation: Any, where: str) -> Buffer:
    if isinstance(operation, Operation):
        return name(operation.value)
    if isinstance(operation, ffi.RayObject) and ffi.get_obj_type(operation) == -ffi.TYPE_SYMBOL:
        text = str(ffi.read_symbol(operation))
        if text.startswith(_BOUND_LAMBDA):
            return _lambda_text(text)
        return name(checked_name(text, where))
    return value_payload(operation, f"{where}, the function")


def _lambda_text(bound_name: str) -> Buffer:
    """Return the expression that makes a function which rayforce-py has bound to a name in this process only."""
    function = ffi.eval_str(ffi.init_string(bound_name))
    if ffi.get_obj_type(function) != ffi.TYPE_LAMBDA:
        return name(bound_name)
    # The payload: type and attributes, a vector of parameters, a list of expressions. `fn` takes them one by one.
    payload = bytes(payload_of_pointer(function))
    (parameters,) = COUNT.unpack_from(payload, _PARAMETERS + COUNT_OFFSET)
    end = _PARAMETERS + COUNT_OFFSET + COUNT.size
    for _ in range(parameters):
        end = payload.index(0, end) + 1
    (expressions,) = COUNT.unpack_from(payload, end + COUNT_OFFSET)
    body = payload[end + COUNT_OFFSET + COUNT.size :]
    return b"".join([list_of([b""] * (2 + expressions)), name("fn"), payload[_PARAMETERS:end], body])


def operand_payload(operand: Any, where: str) -> Buffer:
    """Return an operand: nested code, a column's name, or a value, in which a str is a String."""
    match operand:
        case Expression():
            return expression_payload(operand, where)
        case Column():
            return name(checked_name(operand.name, where))
        case Operation():
            return value_payload(operand, where)
        case str():
            return _string(operand, where)
        case Table():
            return source_payload(operand, where)
        case SelectQuery() | _UngroupQuery():
            return compiled(operand)
        case ffi.RayObject():
            return compiled_payload(operand, where)
    return data_payload(operand, where)


def _string(text: str, where: str) -> Buffer:
    try:
        return string(text)
    except UnicodeEncodeError:
        raise RayforceConversionError(f"{where}: UTF-8 cannot encode {text!r}") from None


def clause_payload(value: Any, where: str) -> Buffer:
    """Return the value of a column or of a clause: code, a column's name, or a value, in which a str is a symbol."""
    if isinstance(value, Operation | Fn):
        raise RayforceQueryCompilationError(f"{where}: a function cannot be the value; apply it in an Expression")
    return data_payload(value, where) if isinstance(value, str) else operand_payload(value, where)


def source_payload(table: Any, where: str) -> Buffer:
    """Return a table where the query reads it: the name of one on the server, or the table itself."""
    if isinstance(table, Table):
        if table.is_reference:
            return name(checked_name(table._ptr, f"{where}, the table"))
        return value_payload(table, f"{where}, the table")
    if isinstance(table, Expression | SelectQuery | _UngroupQuery):
        return compiled(table)
    raise RayforceQueryCompilationError(f"{where}: {type_name(table)} is not a table")


def target_payload(table: Any, where: str) -> Buffer:
    """Return a table where the query changes it: a symbol for one on the server, or the table itself."""
    if table.is_reference:
        return symbol(checked_name(table._ptr, f"{where}, the table"))
    # Without the quote, `insert` and `upsert` would not evaluate the quoted rows.
    return quoted(value_payload(table, f"{where}, the table"))
