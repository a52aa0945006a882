"""SELECT: filter, group, compute, sort and cut, each a step of the program."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..._values._payloads import Buffer, call, dict_of, i64, list_of, name, quoted, symbol, symbols
from ._expressions import Expressions, output_name
from ._functions import AGGREGATES
from ._program import (
    TRUE,
    Program,
    gather,
    names_of,
    pick,
    rename,
    rows,
    select,
    update,
    where,
)
from ._syntax import (
    Node,
    alias_of,
    case,
    children,
    identifier,
    integer_of,
    is_query,
    kind,
    one_literal,
    only,
    part,
    qualifier_of,
    unsupported,
)
from ._tables import Source, Tables
from ._values import Parameters, Value

_ALL_ROWS = 2**40  # more than any table has; the count for OFFSET without LIMIT


@dataclass(frozen=True)
class _Output:
    """A column of the result, or a star."""

    name: str
    node: Node
    star: str | None = None
    """For a star: the table whose columns it means, or the empty string for all tables."""
    excluded: tuple[str, ...] = ()


@dataclass
class _Sorting:
    """ORDER BY: keys from the first to the last, and the computed columns that are only sort keys."""

    keys: list[tuple[str, bool]] = field(default_factory=list)
    computed: dict[str, Buffer] = field(default_factory=dict)


class Queries:
    """Compiles queries: SELECT, UNION ALL, WITH.

    Args:
        program: receives the steps.
        parameters: the parameters of the statement.
        named: the tables that an enclosing WITH defines.
    """

    def __init__(self, program: Program, parameters: Parameters, named: Mapping[str, Buffer] | None = None) -> None:
        self._program = program
        self._parameters = parameters
        self._named = dict(named or {})

    def table(self, node: Node) -> bytes:
        """Compile a query to the step that holds its result."""
        with_ = part(node, "with")
        if with_ is not None:
            return self._with(node, with_)
        if kind(node) == "Subquery":
            only(node, "this", "order", "limit", "offset")
            return self._sorted(node, self.table(node.this))
        if kind(node) == "Union":
            return self._union(node)
        if kind(node) != "Select":
            unsupported("only SELECT and UNION are supported as queries", node)
        return self._program.let(_Select(self._program, self._parameters, self._named, self.table, node).compile())

    def _with(self, node: Node, with_: Node) -> bytes:
        only(with_, "expressions")
        named = dict(self._named)
        for one in with_.expressions:
            only(one, "this", "alias")
            if one.args["alias"].args.get("columns"):
                unsupported("column names after a name in WITH are not supported", one.args["alias"])
            named[identifier(one.args["alias"])] = Queries(self._program, self._parameters, named).table(one.this)
        inner = node.copy()
        inner.set("with", None)
        inner.set("with_", None)
        return Queries(self._program, self._parameters, named).table(inner)

    def _union(self, node: Node) -> bytes:
        only(node, "this", "expression", "distinct", "order", "limit", "offset")
        first, second = self.table(node.this), self.table(node.expression)
        both = call("union-all", first, rename(second, call("key", first)))
        return self._sorted(node, self._program.let(call("distinct", both) if node.args.get("distinct") else both))

    def _sorted(self, node: Node, table: Buffer) -> bytes:
        """Sort and cut a result. ORDER BY can name only its columns."""
        expressions = Expressions(self._program, self._parameters, table, self.table)
        sorting = _Sorting()
        for ordered in _ordered(node):
            if integer_of(ordered.this) is not None:
                unsupported("ORDER BY of this query takes columns' names, not positions", ordered)
            _add_key(sorting, ordered, expressions.value(ordered.this), self._program)
        if sorting.computed:
            keys = call("key", table)
            extended = self._program.let(update(table, sorting.computed))
            return self._program.let(pick(_sorted_and_cut(extended, sorting, _limits(node, self._parameters)), keys))
        return self._program.let(_sorted_and_cut(table, sorting, _limits(node, self._parameters)))


class _Select:
    """Compiles one SELECT."""

    def __init__(
        self,
        program: Program,
        parameters: Parameters,
        named: Mapping[str, Buffer],
        query: Callable[[Node], Buffer],
        node: Node,
    ) -> None:
        only(
            node,
            *("expressions", "from", "joins", "where", "group", "having", "order", "limit", "offset", "distinct"),
        )
        self._program = program
        self._parameters = parameters
        self._query = query
        self._node = node
        self._source: Source = Tables(program, parameters, dict(named), query).source(node)
        self._outputs = [self._output(one) for one in node.expressions]
        self._aliases = {alias: self._source.resolve(one) for one, alias in map(alias_of, node.expressions) if alias}
        self._distinct = node.args.get("distinct") is not None
        if self._distinct:
            only(node.args["distinct"])
        _check_names(self._outputs)

    def compile(self) -> Buffer:
        """Return the table that the query gives."""
        source = self._source
        filter_ = self._node.args.get("where")
        over = self._over(source.table)
        condition = TRUE if filter_ is None else over.true(source.resolve(filter_.this))
        group, having = self._node.args.get("group"), self._node.args.get("having")
        keys = self._group_keys(group) if group is not None else []
        ordered = [(one, self._meant(one.this)) for one in _ordered(self._node)]
        condition_on_groups = self._aliased(source.resolve(having.this)) if having is not None else None
        trees = [output.node for output in self._outputs if output.star is None]
        trees += [meant for _, meant in ordered]
        trees += [] if condition_on_groups is None else [condition_on_groups]
        aggregates = list(dict.fromkeys(found for tree in trees for found in _aggregates(tree)))
        if not keys and not aggregates and group is None and having is None:
            return self._projected(over, condition, ordered)
        if any(output.star is not None for output in self._outputs):
            unsupported("* cannot be combined with aggregates or GROUP BY", self._node)
        groups = _Groups(self._program, over, condition, keys, aggregates)
        over = Expressions(self._program, self._parameters, groups.table, self._query, groups.known, grouped=True)
        kept = TRUE if condition_on_groups is None else over.true(condition_on_groups)
        return self._projected(over, kept, ordered)

    def _over(self, table: Buffer) -> Expressions:
        return Expressions(self._program, self._parameters, table, self._query)

    def _output(self, node: Node) -> _Output:
        inner, alias = alias_of(node)
        star = inner if kind(inner) == "Star" else inner.this if kind(inner) == "Column" else None
        if star is None or kind(star) != "Star":
            return _Output(alias or output_name(inner), self._source.resolve(inner))
        only(star, "except")
        qualifier = qualifier_of(inner) if kind(inner) == "Column" else ""
        if qualifier and qualifier not in self._source.stars:
            unsupported(f"FROM has no table {qualifier}", node)
        if not self._source.stars:
            unsupported("* needs FROM", self._node)
        return _Output("*", star, qualifier, tuple(identifier(one) for one in part(star, "except") or []))

    def _aliased(self, tree: Node) -> Node:
        """Return an expression in which aliases of the result, outside of aggregates, are what they stand for."""
        if kind(tree) == "Column":
            return self._aliases.get(str(tree.name), tree)
        if _is_aggregate(tree) or is_query(tree):
            return tree
        copy = tree.copy()
        for child in list(children(copy)):
            child.replace(self._aliased(child).copy())
        return copy

    def _meant(self, node: Node) -> Node:
        """Return the expression that an item of GROUP BY or ORDER BY means: a position, an alias, or itself."""
        position = integer_of(node)
        if position is None:
            return self._aliased(self._source.resolve(node))
        if not 1 <= position <= len(self._outputs) or self._outputs[position - 1].star is not None:
            unsupported(f"there is no column at position {position}", self._node)
        return self._outputs[position - 1].node

    def _group_keys(self, group: Node) -> list[Node]:
        only(group, "expressions", "all")
        if group.args.get("all"):
            return [output.node for output in self._outputs if not list(_aggregates(output.node))]
        keys = [self._meant(one) for one in group.expressions]
        for key in keys:
            if list(_aggregates(key)):
                unsupported("GROUP BY cannot contain an aggregate", group)
        return list(dict.fromkeys(keys))

    def _projected(self, over: Expressions, condition: Buffer, ordered: Sequence[tuple[Node, Node]]) -> Buffer:
        """Compute the columns of the result, and the keys of ORDER BY; sort, cut, and name the columns."""
        let = self._program.let
        limit = _limits(self._node, self._parameters)
        stars = any(output.star is not None for output in self._outputs)
        columns: dict[str, Buffer] = {}
        names: dict[int, str] = {}
        for place, output in enumerate(self._outputs):
            if output.star is None:
                names[place] = self._program.fresh()
                columns[names[place]] = over.value(output.node).payload
        by_node = {self._outputs[place].node: own for place, own in names.items()}
        sorting = _Sorting()
        for one, meant in ordered:
            if meant in by_node:
                value = Value(name(by_node[meant]), column=by_node[meant])
                _add_key(sorting, one, value, self._program, payload=columns[by_node[meant]])
            else:
                value = over.value(meant)
                in_result = stars and value.column is not None
                _add_key(sorting, one, value if in_result else Value(value.payload), self._program)
        if sorting.computed and self._distinct:
            unsupported("ORDER BY of SELECT DISTINCT takes columns of the result", self._node)
        computed = {**columns, **sorting.computed}
        table = over.table
        assert table is not None, "it is that of FROM"
        if stars:
            table = let(where(table, condition))
            result: Buffer = let(update(table, computed)) if computed else table
        else:
            clauses: dict[str, Buffer] = {} if condition == TRUE else {"where": condition}
            if limit is not None and not sorting.keys and not self._distinct:
                clauses["take"] = i64(sum(limit))
            result = let(select(table, clauses, computed))
        picked, final = self._names(names)
        if self._distinct:
            result = let(call("distinct", pick(result, picked)))
        result = _sorted_and_cut(result, sorting, limit)
        if picked == final:
            return pick(result, picked)
        return rename(pick(result, picked), final)

    def _names(self, names: Mapping[int, str]) -> tuple[Buffer, Buffer]:
        """Return the names of the result's columns during the computation, and their final names."""
        aliases = [self._outputs[place].name for place in names]
        if len(names) == len(self._outputs):
            return names_of(list(names.values())), names_of(aliases)
        picked: list[Buffer] = []
        final: list[Buffer] = []
        for place, output in enumerate(self._outputs):
            if output.star is None:
                picked.append(names_of([names[place]]))
                final.append(names_of([output.name]))
                continue
            chosen = [output.star] if output.star else list(self._source.stars)
            left_out = [*output.excluded, *aliases]
            for star, own in (self._source.stars[one] for one in chosen):
                star = self._program.let(call("except", star, names_of(left_out)) if left_out else star)
                picked.append(star)
                final.append(own if output.star and len(self._outputs) == 1 and not left_out else star)
        return _concatenated(picked), _concatenated(final)


class _Groups:
    """Compiles GROUP BY and the aggregates: a table with a row for each group.

    The engine aggregates columns correctly, but some expressions wrongly. Therefore expressions become columns before
    they are aggregated.

    Attributes:
        table: the step that holds this table.
        known: the compiled keys and aggregates, as columns of this table.
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
        """Return the name of the column that holds an aggregate of the engine."""
        if payload not in self._calls:
            self._calls[payload] = self._program.fresh()
        return self._calls[payload]

    def _add(self, aggregate: "_Aggregate", argument: Buffer) -> list[str]:
        """Return the names of the columns from which an aggregate is computed."""
        used = call("distinct", argument) if aggregate.distinct else argument
        own = [self._call(call(aggregate.function, used))]
        if aggregate.argument is not None and aggregate.function in ("count", "sum"):
            own.append(self._call(call("sum", call("nil?", argument))))
        if aggregate.function == "sum":
            own.append(self._call(call("count", argument)))
        return own

    def _result(self, aggregate: "_Aggregate", own: Sequence[str]) -> Value:
        """Return an aggregate as SQL defines it: COUNT ignores nulls, and the SUM of only nulls is null."""
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
        if argument is not None and any(_aggregates(argument)):
            unsupported("an aggregate cannot contain another", node)
        if condition is not None:
            if self.function in ("first", "last"):
                unsupported("FILTER is not supported for FIRST, LAST and ANY_VALUE", node)
            argument = case(condition, argument)
        self.argument: Node | None = argument


def _column(own: str) -> Value:
    return Value(name(own), column=own)


def _is_aggregate(node: Node) -> bool:
    return kind(node) in AGGREGATES or kind(node) in ("Count", "Filter")


def _aggregates(node: Node) -> Iterator[Node]:
    """Yield the aggregates in an expression, without those in subqueries."""
    if _is_aggregate(node):
        yield node
    elif not is_query(node):
        for child in children(node):
            yield from _aggregates(child)


def _ordered(node: Node) -> list[Node]:
    """Return the items of ORDER BY."""
    order = node.args.get("order")
    if order is None:
        return []
    only(order, "expressions")
    for one in order.expressions:
        only(one, "this", "desc", "nulls_first")
    return list(order.expressions)


def _add_key(
    sorting: _Sorting, ordered: Node, value: Value, program: Program, *, payload: Buffer | None = None
) -> None:
    """Add a key of ORDER BY.

    Args:
        value: the key; its column, if it has one, is in the table that is sorted.
        payload: what computes the key before the table is sorted, if that is not the value itself.
    """
    descending = bool(ordered.args.get("desc"))
    nulls_first = bool(ordered.args.get("nulls_first"))
    payload = value.payload if payload is None else payload
    if nulls_first == descending:  # the engine orders null before all else
        own = program.fresh()
        sorting.computed[own] = call("nil?", payload)
        sorting.keys.append((own, nulls_first))
    column = value.column
    if column is None:
        column = program.fresh()
        sorting.computed[column] = payload
    sorting.keys.append((column, descending))


def _limits(node: Node, parameters: Parameters) -> tuple[int, int] | None:
    """Return the first row and the number of rows that LIMIT and OFFSET ask for, or None."""
    limit, offset = node.args.get("limit"), node.args.get("offset")
    if limit is None and offset is None:
        return None
    count = _ALL_ROWS if limit is None else _rows_of(limit, parameters)
    return (0 if offset is None else _rows_of(offset, parameters)), count


def _rows_of(node: Node, parameters: Parameters) -> int:
    if kind(node) not in ("Limit", "Offset"):
        unsupported("write LIMIT for the number of rows", node)
    only(node, "expression")
    inner = node.expression
    if kind(inner) == "Placeholder" and inner.this:
        return min(parameters.limit(str(inner.this)), _ALL_ROWS)
    number = integer_of(inner)
    if number is None:
        unsupported("LIMIT and OFFSET take a whole number or a parameter", node)
    return min(number, _ALL_ROWS)


def _sorted_and_cut(table: Buffer, sorting: _Sorting, limit: tuple[int, int] | None) -> Buffer:
    """Sort a table by the keys, and return the requested rows.

    Sorting is stable: each run of keys with one direction is one sort, from the last run to the first.
    """
    runs: list[tuple[bool, list[str]]] = []
    for column, descending in sorting.keys:
        if not runs or runs[-1][0] != descending:
            runs.append((descending, []))
        runs[-1][1].append(column)
    take: dict[str, Buffer] = {} if limit is None else {"take": i64(sum(limit))}  # so that the engine sorts only a part
    for place, (descending, columns) in reversed(list(enumerate(runs))):
        clauses: dict[str, Buffer] = {"desc" if descending else "asc": symbols(columns)}
        table = select(table, clauses | (take if place == 0 else {}), {})
    if limit is None:
        return table
    if not limit[0]:
        return table if runs else select(table, take, {})
    return call("take", table, quoted(rows(*limit)))


def _concatenated(payloads: Sequence[Buffer]) -> Buffer:
    whole: Buffer = payloads[0]
    for payload in payloads[1:]:
        whole = call("concat", whole, payload)
    return whole


def _check_names(outputs: Sequence[_Output]) -> None:
    names = [output.name for output in outputs if output.star is None]
    for own in names:
        if names.count(own) > 1:
            unsupported(f"two columns of the result have the name {own}; give one another name with AS")
