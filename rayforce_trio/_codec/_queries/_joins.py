"""Joins of rayforce-py to payloads."""

from typing import Any

from rayforce import Column
from rayforce.types.table import TableColumnInterval

from ..._values._payloads import Buffer, call, name, symbol, symbols
from ._expressions import clause_payload, source_payload
from ._operands import checked_name, checked_names, clauses_payload, data_payload


def join_payload(query: Any) -> Buffer:
    """Return the payload of an inner, left or asof join."""
    return call(
        query.type_.value,
        symbols(checked_names(query.on, "join: on")),
        source_payload(query.table, "join"),
        source_payload(query.other, "join"),
    )


def window_join_payload(query: Any) -> Buffer:
    """Return the payload of a window join of either kind."""
    where = "window join"
    aggregations = {
        checked_name(text, where): clause_payload(value, f"{where}, {text}=")
        for text, value in query.aggregations.items()
    }
    return call(
        query.type_.value,
        symbols(checked_names(query.on, f"{where}: on")),
        _interval(query.interval, where),
        source_payload(query.table, where),
        *(source_payload(table, where) for table in query.join_with),
        clauses_payload(aggregations),
    )


def _interval(interval: TableColumnInterval, where: str) -> Buffer:
    column = interval.column.name if isinstance(interval.column, Column) else interval.column
    bounds = data_payload([interval.lower, interval.upper], f"{where}: the interval")
    times = call("at", source_payload(interval.table, where), symbol(checked_name(column, f"{where}: the interval")))
    return call("map-left", name("+"), bounds, times)
