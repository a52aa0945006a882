"""SELECT: filter, group, compute, sort and cut, each a step of the program."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..._values._payloads import Buffer, call, i64, name
from ._expressions import Expressions
from ._groups import Groups, aggregates_in, is_aggregate
from ._notation import output_name
from ._program import (
    TRUE,
    Program,
    names_of,
    pick,
    rename,
    select,
    update,
    where,
)
from ._sorting import Sorting, add_key, limits, ordered_by, sorted_and_cut
from ._syntax import (
    Node,
    alias_of,
    children,
    identifier,
    integer_of,
    is_query,
    kind,
    only,
    part,
    qualifier_of,
    unsupported,
)
from ._tables import Source, Tables
from ._values import Parameters, Value


@dataclass(frozen=True)
class _Output:
    """A column of the result, or a star."""

    name: str
    node: Node
    star: str | None = None
    """For a star: the table whose columns it means, or the empty string for all tables."""
    excluded: tuple[str, ...] = ()


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
        sorting = Sorting()
        for ordered in ordered_by(node):
            if integer_of(ordered.this) is not None:
                unsupported("ORDER BY of this query takes columns' names, not positions", ordered)
            add_key(sorting, ordered, expressions.value(ordered.this), self._program)
        if sorting.computed:
            keys = call("key", table)
            extended = self._program.let(update(table, sorting.computed))
            return self._program.let(pick(sorted_and_cut(extended, sorting, limits(node, self._parameters)), keys))
        return self._program.let(sorted_and_cut(table, sorting, limits(node, self._parameters)))


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
        ordered = [(one, self._meant(one.this)) for one in ordered_by(self._node)]
        condition_on_groups = self._aliased(source.resolve(having.this)) if having is not None else None
        trees = [output.node for output in self._outputs if output.star is None]
        trees += [meant for _, meant in ordered]
        trees += [] if condition_on_groups is None else [condition_on_groups]
        aggregates = list(dict.fromkeys(found for tree in trees for found in aggregates_in(tree)))
        if not keys and not aggregates and group is None and having is None:
            return self._projected(over, condition, ordered)
        if any(output.star is not None for output in self._outputs):
            unsupported("* cannot be combined with aggregates or GROUP BY", self._node)
        groups = Groups(self._program, over, condition, keys, aggregates)
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
        """Return an expression in which aliases, outside of aggregates, are replaced by their expressions."""
        if kind(tree) == "Column":
            return self._aliases.get(str(tree.name), tree)
        if is_aggregate(tree) or is_query(tree):
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
            return [output.node for output in self._outputs if not list(aggregates_in(output.node))]
        keys = [self._meant(one) for one in group.expressions]
        for key in keys:
            if list(aggregates_in(key)):
                unsupported("GROUP BY cannot contain an aggregate", group)
        return list(dict.fromkeys(keys))

    def _projected(self, over: Expressions, condition: Buffer, ordered: Sequence[tuple[Node, Node]]) -> Buffer:
        """Compute the columns of the result, and the keys of ORDER BY; sort, cut, and name the columns."""
        let = self._program.let
        limit = limits(self._node, self._parameters)
        stars = any(output.star is not None for output in self._outputs)
        columns: dict[str, Buffer] = {}
        names: dict[int, str] = {}
        for place, output in enumerate(self._outputs):
            if output.star is None:
                names[place] = self._program.fresh()
                columns[names[place]] = over.value(output.node).payload
        by_node = {self._outputs[place].node: own for place, own in names.items()}
        sorting = Sorting()
        for one, meant in ordered:
            if meant in by_node:
                value = Value(name(by_node[meant]), column=by_node[meant])
                add_key(sorting, one, value, self._program, payload=columns[by_node[meant]])
            else:
                value = over.value(meant)
                in_result = stars and value.column is not None
                add_key(sorting, one, value if in_result else Value(value.payload), self._program)
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
        result = sorted_and_cut(result, sorting, limit)
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
