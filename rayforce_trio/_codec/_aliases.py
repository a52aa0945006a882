"""Names for the types in the client's signatures."""

from collections.abc import Mapping
from typing import Any, Protocol

from rayforce import Expression, List, String, Table
from rayforce.plugins.sql import SQLQuery
from rayforce.types.table import (
    AsofJoin,
    InnerJoin,
    InsertQuery,
    LeftJoin,
    SelectQuery,
    UpdateQuery,
    UpsertQuery,
    WindowJoin,
    WindowJoin1,
)

from ._sql import SQL

Query = (
    str
    | String
    | List
    | Expression
    | SQLQuery
    | SQL
    | SelectQuery
    | UpdateQuery
    | InsertQuery
    | UpsertQuery
    | AsofJoin
    | InnerJoin
    | LeftJoin
    | WindowJoin
    | WindowJoin1
)
"""A query that a connection evaluates: Rayfall text, SQL, or a query object of rayforce-py."""

Parameters = Mapping[str, Any]
"""The values of a query's parameters by name."""

Value = Any
"""The value of a query: a Rayforce object (`I64`, `Table`, `Vector` and so on), or `None` for null.

To a type checker, it is `Any`, because its class depends on the query and the data.
"""


class ArrowStream(Protocol):
    """Tabular data with the Arrow PyCapsule interface, such as a polars or pandas DataFrame or a pyarrow Table."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return the data as an `arrow_array_stream` capsule."""


TabularData = Mapping[str, Any] | ArrowStream | Table
"""Rows to insert: columns by name, an object with the Arrow PyCapsule interface, or a `Table` of rayforce-py."""
