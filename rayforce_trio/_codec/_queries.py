"""The query objects of rayforce-py to payloads, in which every value is data.

rayforce-py compiles its queries to Rayforce objects and leaves values in them as they are. A list among them is then
evaluated as an expression. Here, `name` and `call` make the code, and every value goes through `value_payload` or
`operand_payload`, which quote whatever the engine would evaluate. A query does what its own `execute` does in process,
with two exceptions: a list is data where `execute` would evaluate it, and what would damage a table is refused.
"""

import datetime as dt
import struct
import uuid
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from rayforce import F32, Column, Expression, Fn, List, Operation, String, Table
from rayforce import _rayforce_c as ffi
from rayforce.plugins.sql import SQLIPCCompiler, SQLQuery
from rayforce.types.null import Null
from rayforce.types.table import (
    AsofJoin,
    InnerJoin,
    InsertQuery,
    LeftJoin,
    PivotQuery,
    SelectQuery,
    TableColumnInterval,
    UpdateQuery,
    UpsertQuery,
    WindowJoin,
    WindowJoin1,
    _is_aggregation_only_select,
    _ShiftTzExpression,
    _UngroupQuery,
)

from .._values._payloads import Buffer, call, dict_of, i64, list_of, name, quoted, string, symbol, symbols, table_of
from .._values._python import encode_value
from .._values._types import QUOTED, Type
from ..errors import RayforceConversionError, RayforceQueryCompilationError, UnsupportedQuery
from ._ffi import type_name
from ._objects import payload_of_object, payload_of_pointer

QUERIES = "a str, sql(…), a String, List, Expression, SQLQuery, or a select, update, insert, upsert or join query"

MAX_ARGUMENTS = 64
"""How many arguments the engine accepts in one call."""

_SELECT_WORDS = frozenset({"from", "where", "by", "take", "asc", "desc", "nearest"})
_UPDATE_WORDS = frozenset({"from", "where"})
_QUERY_HEADS = (name("select"), name("update"))
_SYMBOL_ATOM = -Type.SYMBOL & 0xFF
_QUOTE = name("quote")
_COUNT = struct.Struct("<q")
_COUNT_OFFSET = 2  # of the number of items in a vector or list
_PARAMETERS = 2  # the offset of a function's parameters
_PLAIN_TYPES = frozenset({bool, int, float, str, bytes, dt.date, dt.datetime, dt.time, dt.timedelta, uuid.UUID})
_FUNCTIONS = frozenset({ffi.TYPE_UNARY, ffi.TYPE_BINARY, ffi.TYPE_VARY})
_ROWS = name("__rows")
_BOUND_LAMBDA = "__pyfn_"  # the prefix of the global names that rayforce-py 2.4.0 gives to functions


def compile_query(query: Any) -> Buffer:
    """Return the payload of a query object.

    Raises:
        UnsupportedQuery: the value is no query; the error names its type.
        RayforceQueryCompilationError: the query cannot be expressed, or would damage the table.
        RayforceConversionError: a value in it cannot be sent; the error says where it is.
    """
    try:
        return _compile(query)
    except RecursionError:
        raise RayforceQueryCompilationError("the query is nested too deeply") from None


def _compile(query: Any) -> Buffer:
    match query:
        case String() | List():
            payload = payload_of_object(query)
            assert payload is not None
            return payload
        case Expression():
            return _expression(query, "the query")
        case SelectQuery():
            return _select(query)
        case _UngroupQuery():
            return call("ungroup", _select(query.query))
        case UpdateQuery():
            return _update(query)
        case InsertQuery():
            return _insert(query)
        case UpsertQuery():
            return _upsert(query)
        case InnerJoin() | LeftJoin() | AsofJoin():
            return _join(query)
        case WindowJoin() | WindowJoin1():
            return _window_join(query)
        case SQLQuery():
            return _sql(query)
        case Table() if query.is_reference:
            table = query._ptr
            raise UnsupportedQuery(
                f"a table is no query: send {table!r}, or Table({table!r}).select('*'), to get all of its rows"
            )
        case PivotQuery():
            raise UnsupportedQuery(
                f"cannot send {type_name(query)} as a query: a pivot takes several; fetch the rows and pivot them"
            )
    raise UnsupportedQuery(f"cannot send {type_name(query)} as a query; send {QUERIES}")


# Values


def value_payload(value: Any, where: str) -> Buffer:
    """Return the payload of a value; evaluated, it may call functions: use `data_payload` in code."""
    if isinstance(value, Operation) or value is Null:  # an Operation is a str, too
        payload = payload_of_object(value)
        assert payload is not None
        return payload
    return encode_value(value, where, _object_at(where))


def cell_payload(value: Any, where: str) -> Buffer:
    """Return the payload of one value of a row. A list in it stays a list, as rayforce-py stores it."""
    if isinstance(value, list | tuple):
        return list_of([cell_payload(item, f"{where}[{index}]") for index, item in enumerate(value)])
    if isinstance(value, dict) and value:
        keys = value_payload([*value], f"{where}: the keys")
        if keys[0] != Type.LIST:
            return dict_of(keys, list_of([cell_payload(item, f"{where}[{key!r}]") for key, item in value.items()]))
    return value_payload(value, where)


def data_payload(value: Any, where: str) -> Buffer:
    """Return an expression that evaluates to a value, whatever it is."""
    return as_data(value_payload(value, where))


def as_data(payload: Buffer) -> Buffer:
    """Return an expression that evaluates to the value in a payload.

    The engine evaluates lists and names. It leaves atoms, vectors and tables as they are, and optimizes expressions
    that contain them without a quote.
    """
    kind = payload[0]
    if kind == _SYMBOL_ATOM:
        return payload if payload[1] == QUOTED else bytes([kind, QUOTED]) + payload[2:]
    return quoted(payload) if kind in (Type.LIST, Type.DICT) else payload


def _object_at(where: str) -> Any:
    def payload(value: Any) -> Buffer | None:
        try:
            return payload_of_object(value)
        except RayforceConversionError as error:
            raise RayforceConversionError(f"{where}: {error}") from None

    return payload


def checked_name(text: Any, where: str) -> str:
    """Return a name or column name if it can be sent.

    Raises:
        RayforceConversionError: it is no str, contains NUL, or UTF-8 cannot express it.
    """
    if not isinstance(text, str):
        raise RayforceConversionError(f"{where}: a name is a str, not {type_name(text)}")
    if "\0" in text:
        raise RayforceConversionError(f"{where}: the name {text!r} contains NUL")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RayforceConversionError(f"{where}: UTF-8 cannot express the name {text!r}") from None
    return str(text)


def _names(texts: Any, where: str) -> list[str]:
    return [checked_name(text, where) for text in ([texts] if isinstance(texts, str) else texts)]


# Expressions


def _expression(expression: Expression, where: str) -> Buffer:
    operation, operands = expression.operation, expression.operands
    if operation == Operation.SUM and len(operands) == 1 and _is_filter(operands[0]):
        # The engine does not optimize a filter within a select; rayforce-py 2.4.0 replaces it likewise.
        column, mask = operands[0].operands
        operation, operands = Operation.SUM, (Expression(Operation.IF, mask, column, 0),)
    if operation == Operation.SELECT and len(operands) == 1 and isinstance(operands[0], SelectQuery):
        return _select(operands[0])
    payloads = [_operand(operand, _operand_place(operation, index, where)) for index, operand in enumerate(operands, 1)]
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
    (parameters,) = _COUNT.unpack_from(payload, _PARAMETERS + _COUNT_OFFSET)
    end = _PARAMETERS + _COUNT_OFFSET + _COUNT.size
    for _ in range(parameters):
        end = payload.index(0, end) + 1
    (expressions,) = _COUNT.unpack_from(payload, end + _COUNT_OFFSET)
    body = payload[end + _COUNT_OFFSET + _COUNT.size :]
    return b"".join([list_of([b""] * (2 + expressions)), name("fn"), payload[_PARAMETERS:end], body])


def _operand(operand: Any, where: str) -> Buffer:
    """Return an operand: nested code, a column's name, or a value, in which a str is a String."""
    match operand:
        case Expression():
            return _expression(operand, where)
        case Column():
            return name(checked_name(operand.name, where))
        case Operation():
            return value_payload(operand, where)
        case str():
            return _string(operand, where)
        case Table():
            return _table(operand, where)
        case SelectQuery() | _UngroupQuery():
            return _compile(operand)
        case ffi.RayObject():
            return _compiled(operand, where)
    return data_payload(operand, where)


def _string(text: str, where: str) -> Buffer:
    try:
        return string(text)
    except UnicodeEncodeError:
        raise RayforceConversionError(f"{where}: UTF-8 cannot express {text!r}") from None


def _clause(value: Any, where: str) -> Buffer:
    """Return the value of a column or of a clause: code, a column's name, or a value, in which a str is a symbol."""
    if isinstance(value, Operation | Fn):
        raise RayforceQueryCompilationError(f"{where}: a function cannot be the value; apply it in an Expression")
    return data_payload(value, where) if isinstance(value, str) else _operand(value, where)


def _compiled(pointer: ffi.RayObject, where: str) -> Buffer:
    """Return an expression that rayforce-py has compiled already, as its `ipcsave` does, with the values in it quoted.

    A list is code if a name comes first, which no str among the values becomes, or a function that rayforce-py puts
    there itself.
    """
    if ffi.get_obj_type(pointer) != ffi.TYPE_LIST:
        return data_payload(pointer, where)
    items = [ffi.at_idx(pointer, index) for index in range(ffi.get_obj_length(pointer))]
    if not items or not _is_callable(items[0]):
        return data_payload(pointer, where)
    head = _compiled(items[0], where) if ffi.get_obj_type(items[0]) == ffi.TYPE_LIST else payload_of_pointer(items[0])
    if bytes(head) == _QUOTE:
        return list_of([head, *(value_payload(item, where) for item in items[1:])])
    if bytes(head) in _QUERY_HEADS and len(items) == 2 and ffi.get_obj_type(items[1]) == ffi.TYPE_DICT:
        return list_of([head, _compiled_clauses(items[1], where)])
    return list_of([head, *(_compiled_operand(item, where) for item in items[1:])])


def _compiled_operand(pointer: ffi.RayObject, where: str) -> Buffer:
    if ffi.get_obj_type(pointer) == -ffi.TYPE_SYMBOL:
        return payload_of_pointer(pointer)  # a name stays one
    return _compiled(pointer, where)


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


# Select


def _select(query: SelectQuery) -> Buffer:
    if (distinct := query._distinct_only_projection()) is not None:
        result_name, column = (checked_name(text, "select()") for text in distinct)
        values = call("distinct", call("at", _table(query.table, "select()"), symbol(column)))
        payload: Buffer = call("table", symbols([result_name]), call("list", values))
    else:
        payload = _rows(query)
    if query._order_by_cols:
        columns, descending = query._order_by_cols
        payload = call("xdesc" if descending else "xasc", payload, symbols(_names(columns, "order_by()")))
    if distinct is None and query._select_cols:
        payload = _with_time_zones(query, payload)
    if distinct is None and _is_aggregation_only_select(query):
        payload = call("take", payload, i64(1))
    return payload


def _rows(query: SelectQuery) -> Buffer:
    """Return the select itself, without what `execute` does with its result."""
    columns, computed = query._select_cols or ((), {})
    names = [column for column in _names(columns, "select()") if column != "*"]
    if "*" in columns and computed:
        if isinstance(query.table, Table) and not query.table.is_reference:
            names = [str(column) for column in query.table.columns() if str(column) not in computed]
        else:
            return _all_and_computed(query, computed)
    clauses: dict[str, Buffer] = {text: name(text) for text in names}
    for text, value in computed.items():
        clauses[checked_name(text, "select()")] = _clause(value, f"select(), {text}=")
    _refuse_words(clauses, _SELECT_WORDS, "select()")
    return call("select", _clauses(clauses | _selection(query)))


def _selection(query: SelectQuery) -> dict[str, Buffer]:
    """Return the clauses of a select that say which rows it takes from where, and how they are grouped."""
    clauses: dict[str, Buffer] = {}
    grouped, computed = query._by_cols
    if grouped or computed:
        groups: dict[str, Buffer] = {text: name(text) for text in _names(grouped, "by()")}
        for text, value in computed.items():
            groups[checked_name(text, "by()")] = _clause(value, f"by(), {text}=")
        clauses["by"] = _clauses(groups)
    clauses["from"] = _table(query.table, "select()")
    conditions = query._where_conditions
    if conditions and (len(conditions) > 1 or conditions[0] is not None):
        clauses["where"] = _conjunction(conditions)
    return clauses


def _conjunction(conditions: Sequence[Any]) -> Buffer:
    """Return the conjunction of conditions, as the operator `&` of rayforce-py nests them."""
    first, *others = conditions
    payload = _clause(first, "where()")
    for condition in others:
        payload = call("and", payload, _operand(condition, "where()"))
    return payload


def _all_and_computed(query: SelectQuery, computed: Mapping[str, Any]) -> Buffer:
    """Return a select of all columns of a table on the server, whose names only the server knows, and of others.

    `update` computes the others under names of their own, because they may replace columns. They then get their names.
    """
    if query._by_cols[0] or query._by_cols[1]:
        raise RayforceQueryCompilationError(
            "select(): '*' with computed columns cannot be grouped on the server's table; name the columns"
        )
    if query._where_conditions and any(not isinstance(value, Expression | Column) for value in computed.values()):
        raise RayforceQueryCompilationError(
            "select(): '*' with a value as a column cannot have a condition on the server's table; name the columns"
        )
    names = _names(computed, "select()")
    for place, (text, value) in enumerate(computed.items()):
        if used := _columns_of(value).intersection(names[:place]):
            raise RayforceQueryCompilationError(
                f"select(), {text}=: with '*' on the server's table, it cannot use {min(used)!r}, which is computed, "
                "too; name the columns"
            )
    temporary = [f"__computed_{index}" for index in range(len(names))]
    clauses = {
        column: _clause(value, f"select(), {text}=")
        for column, (text, value) in zip(temporary, computed.items(), strict=True)
    }
    rows = call("update", _clauses({**clauses, "from": call("select", _clauses(_selection(query)))}))
    kept = call("except", call("key", name("rows")), symbols([*names, *temporary]))
    arranged = call("xcols", name("rows"), call("concat", kept, symbols(temporary)))
    renamed = call("xcol", arranged, call("concat", kept, symbols(names)))
    return list_of([call("fn", symbols(["rows"]), renamed), rows])


def _columns_of(value: Any) -> set[str]:
    """Return the names of the columns in an expression."""
    if isinstance(value, Column):
        return {value.name}
    return set().union(*map(_columns_of, value.operands)) if isinstance(value, Expression) else set()


def _with_time_zones(query: SelectQuery, payload: Buffer) -> Buffer:
    """Return the result with the type TIMESTAMP restored in the columns that `shift_tz` has made integers."""
    assert query._select_cols is not None
    shifted = [text for text, value in query._select_cols[1].items() if isinstance(value, _ShiftTzExpression)]
    if not shifted:
        return payload
    is_integer = call("in", call("type", name("column")), symbols(["I32", "I64"]))
    restored = call("if", is_integer, call("as", symbol("TIMESTAMP"), name("column")), name("column"))
    function = call("fn", symbols(["column"]), restored)
    return call("update", _clauses({**{text: list_of([function, name(text)]) for text in shifted}, "from": payload}))


def _clauses(clauses: Mapping[str, Buffer]) -> bytes:
    return dict_of(symbols(clauses), list_of(list(clauses.values())))


def _refuse_words(columns: Mapping[str, Any], words: frozenset[str], where: str) -> None:
    if taken := sorted(words.intersection(columns)):
        raise RayforceQueryCompilationError(
            f"{where}: a column cannot be named {taken[0]!r} here, because it is a clause of the query"
        )


# Tables


def _table(table: Any, where: str) -> Buffer:
    """Return a table where the query reads it: the name of one on the server, or the table itself."""
    if isinstance(table, Table):
        if table.is_reference:
            return name(checked_name(table._ptr, f"{where}, the table"))
        return value_payload(table, f"{where}, the table")
    if isinstance(table, Expression | SelectQuery | _UngroupQuery):
        return _compile(table)
    raise RayforceQueryCompilationError(f"{where}: {type_name(table)} is no table")


def _target(table: Any, where: str) -> Buffer:
    """Return a table where the query changes it: a symbol for one on the server, or the table itself."""
    if table.is_reference:
        return symbol(checked_name(table._ptr, f"{where}, the table"))
    # Without the quote, `insert` and `upsert` would not evaluate the quoted rows.
    return quoted(value_payload(table, f"{where}, the table"))


# Update, insert, upsert


def _update(query: UpdateQuery) -> Buffer:
    clauses: dict[str, Buffer] = {
        checked_name(text, "update()"): _clause(value, f"update(), {text}=") for text, value in query.attributes.items()
    }
    _refuse_words(clauses, _UPDATE_WORDS, "update()")
    clauses["from"] = _target(query.table, "update()")
    if query.where_condition is not None:
        clauses["where"] = _clause(query.where_condition, "where()")
    return call("update", _clauses(clauses))


def _insert(query: InsertQuery) -> Buffer:
    if query.kwargs:
        return _insert_named(query)
    if not query.args:
        raise RayforceQueryCompilationError("No data to insert")
    if _is_column(query.args[0]):
        columns = _columns({f"column {place}": value for place, value in enumerate(query.args, 1)}, "insert()")
    else:
        row = [cell_payload(value, f"insert(): value {place}") for place, value in enumerate(query.args, 1)]
        if not any(map(_is_container, row)):
            return call("insert", _target(query.table, "insert()"), quoted(list_of(row)))
        columns = [_cell(value, payload) for value, payload in zip(query.args, row, strict=True)]
    rows = table_of([f"column_{place}" for place in range(len(columns))], columns)
    renamed = call("xcol", _ROWS, call("key", _table(query.table, "insert()")))
    return _insert_rows(query, rows, renamed, call("value", _ROWS))


def _insert_named(query: InsertQuery) -> Buffer:
    names = _names(query.kwargs, "insert()")
    if _is_column(next(iter(query.kwargs.values()))):
        columns = _columns({f"{text}=": value for text, value in query.kwargs.items()}, "insert()")
    else:
        row = [cell_payload(value, f"insert(): {text}=") for text, value in query.kwargs.items()]
        if not any(map(_is_container, row)):
            data = quoted(dict_of(symbols(names), list_of(row)))
            return call("insert", _target(query.table, "insert()"), data)
        columns = [_cell(value, payload) for value, payload in zip(query.kwargs.values(), row, strict=True)]
    return _insert_rows(query, table_of(names, columns), _ROWS, call("dict", call("key", _ROWS), call("value", _ROWS)))


def _insert_rows(query: InsertQuery, rows: Buffer, as_table: Buffer, as_columns: Buffer) -> Buffer:
    """Return the insertion of columns in the form that suits the table.

    The engine damages a table with a column of lists if it is given columns by themselves. It does not accept a table
    for one with a column of F32.

    Args:
        rows: the columns as a table, bound to `_ROWS`.
        as_table: the expression for the rows as a table with the names of the target's columns.
        as_columns: the expression for the rows as columns by themselves, in a list or a dict.
    """
    types = call("map", name("type"), call("value", _table(query.table, "insert()")))
    data = call("if", call("in", symbol("LIST"), types), as_table, as_columns)
    inserted = call("insert", _target(query.table, "insert()"), data)
    return list_of([call("fn", symbols(["__rows"]), inserted), rows])


def _upsert(query: UpsertQuery) -> Buffer:
    keys = query.key_columns
    if type(keys) is not int:
        raise RayforceQueryCompilationError(f"upsert(): key_columns is a number of columns, not {keys!r}")
    named = {f"{text}=": value for text, value in query.kwargs.items()}
    given = named or {f"column {place}": value for place, value in enumerate(query.args, 1)}
    if not given:
        raise RayforceQueryCompilationError("No data to insert")
    if not _is_column(next(iter(given.values()))):
        given = {place: [value] for place, value in given.items()}
    data = list_of(_columns(given, "upsert()"))
    if named:
        data = dict_of(symbols(_names(query.kwargs, "upsert()")), data)
    return call("upsert", _target(query.table, "upsert()"), i64(keys), quoted(data))


def _cell(value: Any, payload: Buffer) -> Buffer:
    """Return a column with one value. rayforce-py has no other form of an F32 than a vector with one item."""
    return payload if isinstance(value, F32) else list_of([payload])


def _is_column(value: Any) -> bool:
    """Return whether a value is a column, or one value of a row. The first value decides for all of them."""
    if isinstance(value, str | bytes | bytearray | String):
        return False
    return hasattr(value, "__iter__") and getattr(value, "ndim", 1) != 0


def _is_container(payload: Buffer) -> bool:
    return payload[0] <= Type.DICT  # atoms have the negative codes


def _columns(given: Mapping[str, Any], where: str) -> list[Buffer]:
    """Return the payloads of columns, which are of one length.

    Raises:
        RayforceConversionError: a value cannot be sent.
        RayforceQueryCompilationError: a value is no column, a column is empty or of another length, or mixes types.
    """
    columns = [_column(value, f"{where}: {place}") for place, value in given.items()]
    lengths = [_COUNT.unpack_from(column, _COUNT_OFFSET)[0] for column in columns]
    if len(set(lengths)) > 1:
        described = ", ".join(f"{place} has {length}" for place, length in zip(given, lengths, strict=True))
        raise RayforceQueryCompilationError(f"{where}: the columns must be of one length, but {described}")
    if not lengths[0]:
        raise RayforceQueryCompilationError(f"{where}: the columns are empty, so there is no row")
    return columns


def _column(value: Any, where: str) -> Buffer:
    if not _is_column(value):
        raise RayforceQueryCompilationError(
            f"{where} is {type_name(value)}, but the first is a column; give a list for each column"
        )
    if isinstance(value, Mapping | set | frozenset) or hasattr(value, "__next__"):
        raise RayforceQueryCompilationError(f"{where} is {type_name(value)}, which is no column; give a list")
    if isinstance(value, list | tuple):
        _refuse_mixed(value, where)
        if any(isinstance(item, list | tuple | dict) for item in value):
            return cell_payload(value, where)
    payload = value_payload(value, where)
    if payload[0] >= Type.TABLE:
        raise RayforceQueryCompilationError(f"{where} is {type_name(value)}, which is no column; give a list")
    return payload


def _refuse_mixed(values: Sequence[Any], where: str) -> None:
    """Raise `RayforceQueryCompilationError` if the values of a column are of several types."""
    kinds = {type(value) for value in values}
    if kinds == {bool, type(None)}:
        row = values.index(None)
        raise RayforceQueryCompilationError(f"{where}, row {row}: None among bools, for which the engine has no null")
    kinds -= {type(None), type(Null)}
    if len(kinds) < 2 or kinds == {int, float} or not kinds <= _PLAIN_TYPES:
        return
    given = [(row, value) for row, value in enumerate(values) if type(value) in kinds]
    _, first = given[0]
    row, other = next((row, value) for row, value in given if type(value) is not type(first))
    raise RayforceQueryCompilationError(
        f"{where}, row {row}: {type_name(other)} among values of type {type_name(first)}; a column has one type"
    )


# Joins


def _join(query: Any) -> Buffer:
    return call(
        query.type_.value,
        symbols(_names(query.on, "join: on")),
        _table(query.table, "join"),
        _table(query.other, "join"),
    )


def _window_join(query: Any) -> Buffer:
    where = "window join"
    aggregations = {
        checked_name(text, where): _clause(value, f"{where}, {text}=") for text, value in query.aggregations.items()
    }
    return call(
        query.type_.value,
        symbols(_names(query.on, f"{where}: on")),
        _interval(query.interval, where),
        _table(query.table, where),
        *(_table(table, where) for table in query.join_with),
        _clauses(aggregations),
    )


def _interval(interval: TableColumnInterval, where: str) -> Buffer:
    column = interval.column.name if isinstance(interval.column, Column) else interval.column
    bounds = data_payload([interval.lower, interval.upper], f"{where}: the interval")
    times = call("at", _table(interval.table, where), symbol(checked_name(column, f"{where}: the interval")))
    return call("map-left", name("+"), bounds, times)


# SQL of rayforce-py


def _sql(query: SQLQuery) -> Buffer:
    try:
        compiled = SQLIPCCompiler().compile(query.parsed, query.table)
    except (TypeError, ValueError, NotImplementedError, AttributeError, LookupError) as error:
        raise RayforceQueryCompilationError(
            f"rayforce-py's SQL cannot express the query: {error}; rayforce_trio.sql() accepts more of SQL"
        ) from None
    return _compile(compiled)
