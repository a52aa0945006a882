"""Compile the query objects of rayforce-py to payloads in which every value is data.

rayforce-py compiles its queries to Rayforce objects and leaves values in them as they are. The engine then evaluates a
list among them. In this package, `name` and `call` make the code, and every value is quoted if the engine would
evaluate it. A query does what its own `execute` does in process, with two exceptions: a list is data where `execute`
would evaluate it, and a query that would damage a table is refused.
"""

from collections.abc import Callable
from typing import Any

from rayforce import Expression, List, String, Table
from rayforce.plugins.sql import SQLIPCCompiler, SQLQuery
from rayforce.types.table import (
    AsofJoin,
    InnerJoin,
    InsertQuery,
    LeftJoin,
    PivotQuery,
    SelectQuery,
    UpdateQuery,
    UpsertQuery,
    WindowJoin,
    WindowJoin1,
    _UngroupQuery,
)

from ..._values._payloads import Buffer
from ...errors import RayforceQueryCompilationError, UnsupportedQuery
from .._ffi import type_name
from .._objects import payload_of_pointer
from ._changes import insert_payload, insert_sketch, update_payload, upsert_payload
from ._expressions import QUERIES, compiled, expression_payload
from ._joins import join_payload, window_join_payload
from ._operands import data_payload, value_payload
from ._selects import select_payload, ungroup_payload

__all__ = ["compile_query", "data_payload", "query_sketch", "value_payload"]


def compile_query(query: Any) -> Buffer:
    """Return the payload of a query object.

    Raises:
        UnsupportedQuery: the value is not a query; the error names its type.
        RayforceQueryCompilationError: the query cannot be expressed, or would damage the table.
        RayforceConversionError: a value in the query cannot be sent; the error names its place.
    """
    try:
        return compiled(query)
    except RecursionError:
        raise RayforceQueryCompilationError("the query is nested too deeply") from None


def query_sketch(query: Any) -> Buffer:
    """Return the payload that represents a query in an error: the query without technical details."""
    return insert_sketch(query) if isinstance(query, InsertQuery) else compile_query(query)


def _table(table: Table) -> Buffer:
    if not table.is_reference:
        raise UnsupportedQuery(f"cannot send {type_name(table)} as a query; send {QUERIES}")
    text = table._ptr
    raise UnsupportedQuery(
        f"a table is not a query; send {text!r}, or Table({text!r}).select('*'), to get all of its rows"
    )


def _pivot(query: PivotQuery) -> Buffer:
    raise UnsupportedQuery(
        f"cannot send {type_name(query)} as a query: a pivot takes several queries; fetch the rows, and pivot them "
        "in the client"
    )


def _sql(query: SQLQuery) -> Buffer:
    try:
        made = SQLIPCCompiler().compile(query.parsed, query.table)
    except (TypeError, ValueError, NotImplementedError, AttributeError, LookupError) as error:
        raise RayforceQueryCompilationError(
            f"rayforce-py's SQL cannot express the query: {error}; rayforce_trio.sql() accepts more of SQL"
        ) from None
    return compiled(made)


_COMPILERS: dict[type, Callable[[Any], Buffer]] = {
    List: lambda query: payload_of_pointer(query.ptr),
    String: lambda query: payload_of_pointer(query.ptr),
    Expression: lambda query: expression_payload(query, "the query"),
    SelectQuery: select_payload,
    _UngroupQuery: ungroup_payload,
    UpdateQuery: update_payload,
    InsertQuery: insert_payload,
    UpsertQuery: upsert_payload,
    InnerJoin: join_payload,
    LeftJoin: join_payload,
    AsofJoin: join_payload,
    WindowJoin: window_join_payload,
    WindowJoin1: window_join_payload,
    SQLQuery: _sql,
    Table: _table,
    PivotQuery: _pivot,
}
for _query_class, _compiler in _COMPILERS.items():
    compiled.register(_query_class, _compiler)
