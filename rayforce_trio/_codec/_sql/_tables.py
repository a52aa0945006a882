"""FROM and JOIN: the table that a SELECT reads, and which of its columns each name in the query means.

The schemas of tables are not known here. Where two tables have columns of one name, the program renames columns when
it runs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..._values._payloads import Buffer, call, i64, name, quoted, string, symbol, symbols
from ..._values._types import Type
from ._expressions import Expressions
from ._program import (
    TRUE,
    Program,
    conjunction,
    equal,
    names_of,
    negation,
    pick,
    rename,
    select,
    update,
    where,
)
from ._syntax import (
    Node,
    columns_of,
    conjuncts,
    identifier,
    kind,
    only,
    part,
    plain_column,
    qualifier_of,
    replaced,
    unsupported,
)
from ._values import Kind, Parameters

_ONE_ROW = call("table", quoted(symbols(["#"])), call("list", call("enlist", i64(0))))


@dataclass(frozen=True)
class Source:
    """The table that a SELECT reads.

    Attributes:
        table: the table, as an expression that is cheap to repeat.
        stars: for each table in FROM, by its name in the query: its columns' names in `table`, and their own.
        names: by qualifier and column: the names of columns that have another name in `table`.
    """

    table: Buffer
    stars: dict[str, tuple[Buffer, Buffer]]
    names: dict[tuple[str, str], str] = field(default_factory=dict)

    def resolve(self, tree: Node) -> Node:
        """Return a copy of an expression in which columns are named as in `table`, without qualifiers.

        Raises:
            UnsupportedQuery: a qualifier does not name a table in FROM.
        """
        return replaced(tree, lambda node: self._resolved(node) if kind(node) == "Column" else node)

    def _resolved(self, node: Node) -> Node:
        if kind(node.this) == "Star":
            return node
        only(node, "this", "table")
        column, qualifier = identifier(node), qualifier_of(node)
        if qualifier and qualifier not in self.stars:
            unsupported(f"FROM has no table {qualifier}, and a subquery cannot use the columns around it", node)
        return plain_column(self.names.get((qualifier, column), column))


class Tables:
    """Compiles the FROM of a SELECT.

    Args:
        program: receives the steps.
        parameters: the parameters of the statement.
        named: the tables that WITH defines, by name.
        query: compiles a subquery to an expression that is cheap to repeat.
    """

    def __init__(
        self, program: Program, parameters: Parameters, named: dict[str, Buffer], query: Callable[[Node], Buffer]
    ) -> None:
        self._program = program
        self._parameters = parameters
        self._named = named
        self._query = query

    def source(self, statement: Node) -> Source:
        """Compile the FROM and the JOINs of a SELECT; without FROM, the table has one row."""
        from_ = part(statement, "from")
        if from_ is None:
            for value in statement.expressions:
                for column in columns_of(value):
                    unsupported("a column needs FROM", column)
            return Source(self._program.let(_ONE_ROW), {})
        only(from_, "this")
        own_name, table = self._table(from_.this)
        own = call("key", table)
        source = Source(table, {own_name: (own, own)})
        joins = [*(from_.this.args.get("joins") or []), *(statement.args.get("joins") or [])]
        if joins:
            own = self._program.let(own)
            source = Source(table, {own_name: (own, own)})
            used = columns_of(statement)
            for join in joins:
                source = _Join(self, source, join, used).source()
        return source

    def _table(self, node: Node) -> tuple[str, Buffer]:
        """Return the name that a table has in the query, and the table."""
        alias = part(node, "alias")
        if alias is not None and alias.args.get("columns"):
            unsupported("column names after a table's alias are not supported", node)
        alias_name = identifier(alias) if alias is not None and alias.this is not None else ""
        if kind(node) == "Subquery":
            only(node, "this", "alias", "joins")
            return alias_name, self._query(node.this)
        inner = node.this
        if kind(node) != "Table" or kind(inner) not in ("Identifier", "Placeholder"):
            unsupported("FROM and JOIN are followed by a table or a subquery", node)
        only(node, "this", "alias", "joins")
        if kind(inner) == "Placeholder":
            parameter = str(inner.this or "")
            value = self._parameters.one_or_several(parameter)
            if not self._parameters.checking and (value.kind is not Kind.LIST or value.payload[0] != Type.TABLE):
                unsupported(f"FROM takes a table, but the parameter :{parameter} is not one")
            return alias_name or parameter, self._program.let(quoted(value.payload))
        table = identifier(node)
        return alias_name or table, self._named.get(table, name(table))


class _Join:
    """Compiles one JOIN.

    Args:
        tables: the compiler of FROM.
        left: the tables that are already joined.
        join: the syntax of the join.
        used: all columns in the query.
    """

    def __init__(self, tables: Tables, left: Source, join: Node, used: Sequence[Node]) -> None:
        only(join, "this", "side", "kind", "on", "using")
        side, how = str(join.args.get("side") or "").upper(), str(join.args.get("kind") or "").upper()
        if side not in ("", "LEFT") or how not in ("", "INNER", "OUTER"):
            unsupported("the joins supported are INNER JOIN and LEFT JOIN", join)
        self._tables = tables
        self._let = tables._program.let
        self._outer = side == "LEFT"
        self._left = left
        self._name, table = tables._table(join.this)
        if self._name in left.stars:
            unsupported(f"two tables in FROM have the name {self._name}; give one an alias", join)
        own = self._let(call("key", table))
        self._right = Source(table, {self._name: (own, own)})
        self._used = used
        self._using = [identifier(one) for one in join.args.get("using") or []]
        conditions = conjuncts(join.args["on"]) if join.args.get("on") is not None else []
        paired = [(condition, self._pair(condition)) for condition in conditions]
        self._pairs = [(plain_column(one), plain_column(one)) for one in self._using]
        self._pairs += [pair for _, pair in paired if pair is not None]
        self._rest = [condition for condition, pair in paired if pair is None]
        if not self._pairs:
            unsupported("JOIN needs ON with an equality between columns of the two tables, or USING", join)

    def source(self) -> Source:
        """Compile the join to the table that it makes."""
        let = self._let
        before = [one for one in self._rest if {qualifier_of(column) for column in columns_of(one)} == {self._name}]
        after = [one for one in self._rest if one not in before]
        if after and self._outer:
            unsupported("ON of a LEFT JOIN supports equalities, and conditions on the joined table", after[0])
        right = let(self._filtered(self._right, before))
        keys = [self._tables._program.fresh() for _ in self._pairs]
        left, right = self._with_keys(right, keys)

        columns, _ = self._right.stars[self._name]
        taken = let(call("sect", columns, call("key", left)))
        suffix = f"_{len(self._left.stars)}"
        numbered = let(_numbered(columns, taken, suffix))
        self._check_names(taken, numbered, left)
        qualified = {
            identifier(column): self._tables._program.fresh()
            for column in {identifier(one): one for one in self._used if qualifier_of(one) == self._name}.values()
        }
        private = [*keys, *qualified.values()]
        right = update(right, {own: name(column) for column, own in qualified.items()}) if qualified else right
        right = pick(right, call("concat", columns, names_of(private)))
        right = let(rename(right, call("concat", numbered, names_of(private))))
        star, own = numbered, columns
        if self._using:  # their columns are those of the left table
            surplus = names_of([f"{column}{suffix}" for column in self._using])
            star = let(call("except", numbered, surplus))
            own = let(call("except", columns, names_of(self._using)))
            right = pick(right, call("except", call("key", right), surplus))
        table = let(call("left-join" if self._outer else "inner-join", names_of(keys), left, right))
        names = {**self._left.names, **{(self._name, column): own for column, own in qualified.items()}}
        joined = Source(table, {**self._left.stars, self._name: (star, own)}, names)
        return Source(let(self._filtered(joined, after)), joined.stars, names)

    def _pair(self, condition: Node) -> tuple[Node, Node] | None:
        """Return the two sides of an equality between the tables, the left table's first, or None."""
        if kind(condition) != "EQ":
            return None
        sides = [self._side(condition.this), self._side(condition.expression)]
        if sides == ["any", "any"]:
            unsupported("qualify the columns in ON with their tables", condition)
        if sides in (["left", "right"], ["any", "right"], ["left", "any"]):
            return condition.this, condition.expression
        if sides in (["right", "left"], ["any", "left"], ["right", "any"]):
            return condition.expression, condition.this
        return None

    def _side(self, node: Node) -> str:
        qualifiers = {qualifier_of(column) for column in columns_of(node)}
        if not qualifiers:
            return "constant"
        if "" in qualifiers:
            return "any"
        if qualifiers == {self._name}:
            return "right"
        return "left" if qualifiers <= set(self._left.stars) else "both"

    def _expressions(self, table: Buffer) -> Expressions:
        return Expressions(self._tables._program, self._tables._parameters, table, self._tables._query)

    def _filtered(self, source: Source, conditions: Sequence[Node]) -> Buffer:
        over = self._expressions(source.table)
        condition = TRUE
        for one in conditions:
            condition = conjunction(condition, over.true(source.resolve(one)))
        assert over.table is not None, "the source has a table"
        return where(over.table, condition)

    def _with_keys(self, right: Buffer, keys: Sequence[str]) -> tuple[bytes, bytes]:
        """Return both tables with key columns of common names and types.

        Null equals nothing, so rows with a null key are dropped.
        """
        of_left, of_right = self._expressions(self._left.table), self._expressions(right)
        left_keys: dict[str, Buffer] = {}
        right_keys: dict[str, Buffer] = {}
        for key, (first, second) in zip(keys, self._pairs, strict=True):
            left_value = of_left.value(self._left.resolve(first))
            right_value = of_right.value(self._right.resolve(second))
            common = of_left.common_type([of_left.type_of(left_value), of_right.type_of(right_value)])
            left_keys[key] = call("as", common, left_value.payload)
            right_keys[key] = call("as", common, right_value.payload)
        assert of_left.table is not None, "the left table is one"
        assert of_right.table is not None, "the right table is one"
        right = self._let(update(of_right.table, right_keys))
        for key in keys:
            kept = select(right, {"where": negation(call("nil?", name(key)))}, {})
            has_nulls = call("any", call("nil?", call("at", right, symbol(key))))
            right = self._let(call("if", has_nulls, kept, right))
        return self._let(update(of_left.table, left_keys)), right

    def _check_names(self, taken: Buffer, numbered: Buffer, left: Buffer) -> None:
        """Let the program fail if a column without a qualifier is in both tables and does not join them."""
        none = equal(call("count", call("sect", numbered, call("key", left))), i64(0))
        self._tables._program.check(none, "joined tables have columns whose names end with the same number")
        same = {str(first.name) for first, second in self._pairs if first.name == second.name}
        unqualified = {identifier(one) for one in self._used if not qualifier_of(one)} - same
        if unqualified:
            ambiguous = call("sect", taken, names_of(sorted(unqualified)))
            none = equal(call("count", ambiguous), i64(0))
            self._tables._program.check(none, "a column is in two tables: qualify it with the table")


def _numbered(columns: Buffer, taken: Buffer, suffix: str) -> bytes:
    """Return names of columns, where those that are taken get a suffix."""
    texts = call("table", names_of(["#"]), call("list", call("as", symbol("STR"), columns)))
    is_taken = call("in", name("#"), call("as", symbol("STR"), taken))
    column = call("if", is_taken, call("concat", name("#"), string(suffix)), name("#"))
    renamed = call("as", symbol("SYM"), call("at", select(texts, {}, {"#1": column}), symbol("#1")))
    return call("if", call("count", taken), renamed, columns)
