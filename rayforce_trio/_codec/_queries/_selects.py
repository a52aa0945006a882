"""Select queries of rayforce-py to payloads, with all that their `execute` does with the result."""

from collections.abc import Mapping, Sequence
from typing import Any

from rayforce import Column, Expression, Table
from rayforce.types.table import SelectQuery, _is_aggregation_only_select, _ShiftTzExpression, _UngroupQuery

from ..._values._payloads import Buffer, call, i64, list_of, name, symbol, symbols
from ...errors import RayforceQueryCompilationError
from ._expressions import clause_payload, operand_payload, source_payload
from ._operands import checked_name, checked_names, clauses_payload, refuse_words

_WORDS = frozenset({"from", "where", "by", "take", "asc", "desc", "nearest"})


def select_payload(query: SelectQuery) -> Buffer:
    if (distinct := query._distinct_only_projection()) is not None:
        result_name, column = (checked_name(text, "select()") for text in distinct)
        values = call("distinct", call("at", source_payload(query.table, "select()"), symbol(column)))
        payload: Buffer = call("table", symbols([result_name]), call("list", values))
    else:
        payload = _rows(query)
    if query._order_by_cols:
        columns, descending = query._order_by_cols
        payload = call("xdesc" if descending else "xasc", payload, symbols(checked_names(columns, "order_by()")))
    if distinct is None and query._select_cols:
        payload = _with_time_zones(query, payload)
    if distinct is None and _is_aggregation_only_select(query):
        payload = call("take", payload, i64(1))
    return payload


def _rows(query: SelectQuery) -> Buffer:
    """Return the select itself, without what `execute` does with its result."""
    columns, computed = query._select_cols or ((), {})
    names = [column for column in checked_names(columns, "select()") if column != "*"]
    if "*" in columns and computed:
        if isinstance(query.table, Table) and not query.table.is_reference:
            names = [str(column) for column in query.table.columns() if str(column) not in computed]
        else:
            return _all_and_computed(query, computed)
    clauses: dict[str, Buffer] = {text: name(text) for text in names}
    for text, value in computed.items():
        clauses[checked_name(text, "select()")] = clause_payload(value, f"select(), {text}=")
    refuse_words(clauses, _WORDS, "select()")
    return call("select", clauses_payload(clauses | _selection(query)))


def _selection(query: SelectQuery) -> dict[str, Buffer]:
    """Return the clauses `from`, `where` and `by` of a select."""
    clauses: dict[str, Buffer] = {}
    grouped, computed = query._by_cols
    if grouped or computed:
        groups: dict[str, Buffer] = {text: name(text) for text in checked_names(grouped, "by()")}
        for text, value in computed.items():
            groups[checked_name(text, "by()")] = clause_payload(value, f"by(), {text}=")
        clauses["by"] = clauses_payload(groups)
    clauses["from"] = source_payload(query.table, "select()")
    conditions = query._where_conditions
    if conditions and (len(conditions) > 1 or conditions[0] is not None):
        clauses["where"] = _conjunction(conditions)
    return clauses


def _conjunction(conditions: Sequence[Any]) -> Buffer:
    """Return the conjunction of conditions, as the operator `&` of rayforce-py nests them."""
    first, *others = conditions
    payload = clause_payload(first, "where()")
    for condition in others:
        payload = call("and", payload, operand_payload(condition, "where()"))
    return payload


def _all_and_computed(query: SelectQuery, computed: Mapping[str, Any]) -> Buffer:
    """Return a select of computed columns and of all columns of a table, whose names only the server knows.

    `update` computes the columns under temporary names, because they may replace columns. They are renamed afterwards.
    """
    if query._by_cols[0] or query._by_cols[1]:
        raise RayforceQueryCompilationError(
            "select(): '*' with computed columns cannot be grouped on the server's table; name the columns"
        )
    if query._where_conditions and any(not isinstance(value, Expression | Column) for value in computed.values()):
        raise RayforceQueryCompilationError(
            "select(): '*' with a value as a column cannot have a condition on the server's table; name the columns"
        )
    names = checked_names(computed, "select()")
    for place, (text, value) in enumerate(computed.items()):
        if used := _columns_of(value).intersection(names[:place]):
            raise RayforceQueryCompilationError(
                f"select(), {text}=: with '*' on the server's table, it cannot use {min(used)!r}, which is computed, "
                "too; name the columns"
            )
    temporary = [f"__computed_{index}" for index in range(len(names))]
    clauses = {
        column: clause_payload(value, f"select(), {text}=")
        for column, (text, value) in zip(temporary, computed.items(), strict=True)
    }
    rows = call("update", clauses_payload({**clauses, "from": call("select", clauses_payload(_selection(query)))}))
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
    return call(
        "update", clauses_payload({**{text: list_of([function, name(text)]) for text in shifted}, "from": payload})
    )


def ungroup_payload(query: _UngroupQuery) -> Buffer:
    return call("ungroup", select_payload(query.query))
