"""GROUP BY and the aggregates."""

from collections.abc import Iterator, Sequence

from ..._values._payloads import Buffer, call, dict_of, i64, list_of, name, symbol, symbols
from ._expressions import Expressions
from ._functions import AGGREGATES
from ._program import TRUE, Program, gather, names_of, select, where
from ._syntax import Node, case, children, is_query, kind, one_literal, only, unsupported
from ._values import Value


class Groups:
    """Compiles GROUP BY and the aggregates: a table with a row for each group.

    The engine aggregates columns reliably, and some expressions wrongly: so arguments that are expressions become
    columns first.

    Attributes:
        table: the step that holds it.
        known: the compiled keys and aggregates, over that table.
    """

    def __init__(
        self,
        program: Program,
        over: Expressions,
        condition: Buffer,
        keys: Sequence[Node],
        aggregates: Sequence[Node],
    ) -> None:
        self._program = program
        self._calls: dict[bytes, str] = {}
        values = {key: over.value(key) for key in keys}
        parts = {aggregate: _Aggregate(aggregate) for aggregate in aggregates}
        arguments = {one.argument: over.value(one.argument) for one in parts.values() if one.argument is not None}
        inputs = [*values.values(), *arguments.values()]
        table = over.table
        assert table is not None, "it is that of FROM"
        clauses: dict[str, Buffer] = {} if condition == TRUE else {"where": condition}
        if inputs and not (all(value.column for value in inputs) and (keys or not clauses)):
            columns = {bytes(value.payload): program.fresh() for value in inputs}
            table = program.let(select(table, clauses, {own: payload for payload, own in columns.items()}))
            values = {one: _column(columns[bytes(value.payload)]) for one, value in values.items()}
            arguments = {one: _column(columns[bytes(value.payload)]) for one, value in arguments.items()}
            clauses = {}
        names = {key: program.fresh() for key in keys}
        if keys:
            clauses["by"] = dict_of(symbols(names.values()), list_of([value.payload for value in values.values()]))
            rows_: Buffer = next(iter(values.values())).payload
            columns_of_calls = {one: value.payload for one, value in arguments.items()}
        else:  # the engine aggregates whole columns faster than columns in a select
            rows_ = where(table, condition) if clauses else table
            columns_of_calls = {one: call("at", table, symbol(value.column or "")) for one, value in arguments.items()}
        calls = {
            node: self._add(one, rows_ if one.argument is None else columns_of_calls[one.argument])
            for node, one in parts.items()
        }
        if not self._calls:
            self._call(call("count", rows_))
        if keys:
            result = select(table, clauses, {own: payload for payload, own in self._calls.items()})
        else:
            whole = gather("list", [call("enlist", payload) for payload in self._calls])
            result = call("table", names_of(list(self._calls.values())), whole)
        self.table = program.let(result)
        self.known = {key: _column(own) for key, own in names.items()}
        self.known |= {node: self._result(parts[node], own) for node, own in calls.items()}

    def _call(self, payload: bytes) -> str:
        """Return the name of the column with the result of an aggregation by the engine."""
        if payload not in self._calls:
            self._calls[payload] = self._program.fresh()
        return self._calls[payload]

    def _add(self, aggregate: "_Aggregate", argument: Buffer) -> list[str]:
        """Return the names of the columns that an aggregate is computed of."""
        used = call("distinct", argument) if aggregate.distinct else argument
        own = [self._call(call(aggregate.function, used))]
        if aggregate.argument is not None and aggregate.function in ("count", "sum"):
            own.append(self._call(call("sum", call("nil?", argument))))
        if aggregate.function == "sum":
            own.append(self._call(call("count", argument)))
        return own

    def _result(self, aggregate: "_Aggregate", own: Sequence[str]) -> Value:
        """Return an aggregate as SQL defines it: COUNT without nulls, and the SUM of nothing but nulls is null."""
        first = name(own[0])
        if aggregate.function == "count":
            count: Buffer = first
            if aggregate.argument is not None:
                nulls: Buffer = name(own[1])
                if aggregate.distinct:
                    nulls = call("if", call(">", nulls, i64(0)), i64(1), i64(0))
                count = call("-", first, nulls)
            return Value(count, nullable=False)
        if aggregate.function == "sum":
            type_ = call("type", call("at", self.table, symbol(own[0])))
            null = self._program.let(call("as", type_, i64(-(2**63))))
            return Value(call("if", call("==", name(own[1]), name(own[2])), null, first))
        return Value(first, column=own[0])


class _Aggregate:
    """An aggregate in a query.

    Attributes:
        function: the engine's function.
        argument: the aggregated expression; None for COUNT(*).
        distinct: whether equal values count once.
    """

    def __init__(self, node: Node) -> None:
        condition = None
        if kind(node) == "Filter":
            only(node, "this", "expression")
            condition, node = node.expression.this, node.this
        only(node, "this", "big_int")
        self.function = "count" if kind(node) == "Count" else AGGREGATES.get(kind(node), "")
        argument = node.this
        self.distinct = kind(argument) == "Distinct"
        if self.distinct:
            only(argument, "expressions")
            if len(argument.expressions) != 1 or self.function not in ("count", "sum", "avg"):
                unsupported("DISTINCT in an aggregate is supported for COUNT, SUM and AVG of one expression", node)
            argument = argument.expressions[0]
        if self.function == "count" and kind(argument) in ("Star", "Literal"):
            argument = None if condition is None else one_literal()
        if argument is not None and any(aggregates_in(argument)):
            unsupported("an aggregate cannot contain another aggregate", node)
        if condition is not None:
            if self.function in ("first", "last"):
                unsupported("FILTER is not supported for FIRST, LAST and ANY_VALUE", node)
            argument = case(condition, argument)
        self.argument: Node | None = argument


def _column(own: str) -> Value:
    return Value(name(own), column=own)


def is_aggregate(node: Node) -> bool:
    return kind(node) in AGGREGATES or kind(node) in ("Count", "Filter")


def aggregates_in(node: Node) -> Iterator[Node]:
    """Yield the aggregates in an expression, not those in subqueries."""
    if is_aggregate(node):
        yield node
    elif not is_query(node):
        for child in children(node):
            yield from aggregates_in(child)
