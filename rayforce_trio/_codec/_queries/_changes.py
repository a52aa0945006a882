"""Update, insert and upsert queries of rayforce-py to payloads that cannot damage the table."""

import datetime as dt
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from rayforce import F32, String
from rayforce.types.null import Null
from rayforce.types.table import InsertQuery, UpdateQuery, UpsertQuery

from ..._values._payloads import Buffer, call, dict_of, i64, list_of, name, quoted, symbol, symbols, table_of
from ..._values._types import Type
from ...errors import RayforceQueryCompilationError
from .._ffi import type_name
from ._expressions import clause_payload, source_payload, target_payload
from ._operands import (
    COUNT,
    COUNT_OFFSET,
    cell_payload,
    checked_name,
    checked_names,
    clauses_payload,
    refuse_words,
    value_payload,
)

_WORDS = frozenset({"from", "where"})
_PLAIN_TYPES = frozenset({bool, int, float, str, bytes, dt.date, dt.datetime, dt.time, dt.timedelta, uuid.UUID})
_ROWS = name("__rows")


def update_payload(query: UpdateQuery) -> Buffer:
    clauses: dict[str, Buffer] = {
        checked_name(text, "update()"): clause_payload(value, f"update(), {text}=")
        for text, value in query.attributes.items()
    }
    refuse_words(clauses, _WORDS, "update()")
    clauses["from"] = target_payload(query.table, "update()")
    if query.where_condition is not None:
        clauses["where"] = clause_payload(query.where_condition, "where()")
    return call("update", clauses_payload(clauses))


def insert_payload(query: InsertQuery) -> Buffer:
    """Return the payload of an insert query, in the form that suits the table.

    The engine damages a table with a column of lists if it is given columns by themselves. It does not accept a table
    for one with a column of F32. So it chooses the form by the types of the table's columns.
    """
    rows = _inserted(query)
    if rows[0] != Type.TABLE:
        return call("insert", target_payload(query.table, "insert()"), quoted(rows))
    source = source_payload(query.table, "insert()")
    if query.kwargs:
        as_table: Buffer = _ROWS
        as_columns = call("dict", call("key", _ROWS), call("value", _ROWS))
    else:
        as_table = call("xcol", _ROWS, call("key", source))
        as_columns = call("value", _ROWS)
    has_lists = call("in", symbol("LIST"), call("map", name("type"), call("value", source)))
    inserted = call("insert", target_payload(query.table, "insert()"), call("if", has_lists, as_table, as_columns))
    return list_of([call("fn", symbols(["__rows"]), inserted), rows])


def insert_sketch(query: InsertQuery) -> Buffer:
    """Return the payload that shows an insert query in an error, without the choice of its form."""
    return call("insert", target_payload(query.table, "insert()"), quoted(_inserted(query)))


def _inserted(query: InsertQuery) -> Buffer:
    """Return the rows to insert: a list or a dict for a row of atoms, otherwise a table.

    The columns of a table have the names of keyword arguments. For positional arguments, their names mean nothing.
    """
    if not query.args and not query.kwargs:
        raise RayforceQueryCompilationError("No data to insert")
    named = bool(query.kwargs)
    names = checked_names(query.kwargs, "insert()") or [f"column_{place}" for place in range(len(query.args))]
    given = query.kwargs.values() if named else query.args
    if _is_column(next(iter(given))):
        places = [f"{text}=" for text in names] if named else [f"column {place + 1}" for place in range(len(names))]
        return table_of(names, _columns(dict(zip(places, given, strict=True)), "insert()"))
    places = [f"{text}=" for text in names] if named else [f"value {place + 1}" for place in range(len(names))]
    row = [cell_payload(value, f"insert(): {place}") for place, value in zip(places, given, strict=True)]
    if any(map(_is_container, row)):
        return table_of(names, [_cell(value, payload) for value, payload in zip(given, row, strict=True)])
    return dict_of(symbols(names), list_of(row)) if named else list_of(row)


def upsert_payload(query: UpsertQuery) -> Buffer:
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
        data = dict_of(symbols(checked_names(query.kwargs, "upsert()")), data)
    return call("upsert", target_payload(query.table, "upsert()"), i64(keys), quoted(data))


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
    """Return the payloads of columns of the same length.

    Raises:
        RayforceConversionError: a value cannot be sent.
        RayforceQueryCompilationError: a value is not a column, or a column is empty, has another length or mixes types.
    """
    columns = [_column(value, f"{where}: {place}") for place, value in given.items()]
    lengths = [COUNT.unpack_from(column, COUNT_OFFSET)[0] for column in columns]
    if len(set(lengths)) > 1:
        described = ", ".join(f"{place} has {length}" for place, length in zip(given, lengths, strict=True))
        raise RayforceQueryCompilationError(f"{where}: the columns must be of one length, but {described}")
    if not lengths[0]:
        raise RayforceQueryCompilationError(f"{where}: the columns are empty; give at least one row")
    return columns


def _column(value: Any, where: str) -> Buffer:
    if not _is_column(value):
        raise RayforceQueryCompilationError(
            f"{where} is {type_name(value)}, but the first is a column; give a list for each column"
        )
    if isinstance(value, Mapping | set | frozenset) or hasattr(value, "__next__"):
        raise RayforceQueryCompilationError(f"{where} is {type_name(value)}, which is not a column; give a list")
    if isinstance(value, list | tuple):
        _refuse_mixed(value, where)
        if any(isinstance(item, list | tuple | dict) for item in value):
            return cell_payload(value, where)
    payload = value_payload(value, where)
    if payload[0] >= Type.TABLE:
        raise RayforceQueryCompilationError(f"{where} is {type_name(value)}, which is not a column; give a list")
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
