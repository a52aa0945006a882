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
"""The values of a query's parameters by their names."""

Value = Any
"""The value of a query: a Rayforce object (`I64`, `Table`, `Vector`, ...), or `None` for null.

A type checker takes it as `Any`, since the class depends on the query and the data.
"""


class ArrowStream(Protocol):
    """Tabular data with the Arrow PyCapsule interface: a polars or pandas DataFrame, a pyarrow Table, `Columns`, ..."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return the data as an `arrow_array_stream` capsule."""


TabularData = Mapping[str, Any] | ArrowStream | Table
"""Rows to insert: columns by their names, an object with the Arrow PyCapsule interface, or a `Table` of rayforce-py."""
