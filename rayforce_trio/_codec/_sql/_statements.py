"""Statements: queries, and changes of tables. A change returns the table's name, as the engine's functions do."""

from collections.abc import Callable, Sequence

from ..._text import counted
from ..._values._payloads import Buffer, call, i64, name, quoted, symbol, table_of, vector
from ..._values._types import Type
from ._expressions import Expressions
from ._notation import type_name
from ._program import (
    TRUE,
    Program,
    delete,
    equal,
    gather,
    mapped,
    names_of,
    one_of,
    pick,
    rename,
    select,
    update,
)
from ._query import Queries
from ._syntax import (
    Node,
    identifier,
    is_query,
    kind,
    only,
    parse,
    plain_column,
    qualifier_of,
    replaced,
    unsupported,
)
from ._values import Kind, Parameters, Value, constants

_VECTORS = {
    "B8": Type.B8,
    "U8": Type.U8,
    "I16": Type.I16,
    "I32": Type.I32,
    "I64": Type.I64,
    "F32": Type.F32,
    "F64": Type.F64,
    "SYM": Type.SYMBOL,
    "STR": Type.STRING,
    "DATE": Type.DATE,
    "TIME": Type.TIME,
    "TIMESTAMP": Type.TIMESTAMP,
    "GUID": Type.GUID,
}


class Statement:
    """A parsed statement.

    Args:
        text: the text of the statement.

    Raises:
        RayforceParseError: the text is not SQL, or not one statement.
    """

    def __init__(self, text: str) -> None:
        self._tree = parse(text)

    def compile(self, parameters: Parameters) -> tuple[bytes, list[str]]:
        """Return the Rayfall expression of the statement, and the reasons why it may fail with the error `domain`.

        Raises:
            UnsupportedQuery: it asks for something that is not supported.
            RayforceValueError: a parameter's value cannot be used.
        """
        program = Program()
        if is_query(self._tree):
            result: Buffer = Queries(program, parameters).table(self._tree)
            return program.finish(result), program.reasons
        change = _CHANGES.get(kind(self._tree))
        if change is None:
            unsupported("statements are SELECT, INSERT, UPDATE, DELETE, CREATE and DROP TABLE", self._tree)
        result = change(_Change(program, parameters), self._tree)
        return program.finish(result), program.reasons


class _Change:
    """Compiles a change of a table.

    Args:
        program: receives the steps before the change.
        parameters: the parameters of the statement.
    """

    def __init__(self, program: Program, parameters: Parameters) -> None:
        self._program = program
        self._parameters = parameters
        self._queries = Queries(program, parameters)

    def insert(self, node: Node) -> bytes:
        """Compile INSERT; with ON CONFLICT … DO UPDATE, rows replace those with the same keys."""
        only(node, "this", "expression", "conflict")
        table, columns = _target(node.this)
        given = self._program.let(call("key", name(table)) if columns is None else names_of(columns))
        source = node.expression
        if kind(source) == "Values":
            rows = self._values(source, table, columns, given)
        elif source is not None and is_query(source):
            rows = self._program.let(rename(self._queries.table(source), given))
        else:
            unsupported("INSERT takes VALUES or a SELECT", node)
        type_ = call("type", call("at", name(table), name("#")))
        converted = mapped("#", self._converted(call("at", rows, name("#")), type_, TRUE), given)
        rows = self._program.let(call("table", given, converted))
        conflict = node.args.get("conflict")
        if conflict is not None:
            return self._upsert(conflict, table, given, rows)
        return call("insert", symbol(table), rows if columns is None else self._completed(table, given, rows))

    def update(self, node: Node) -> bytes:
        """Compile UPDATE."""
        only(node, "this", "expressions", "where")
        table, _ = _target(node.this)
        over = self._over(name(table))
        values: dict[str, Value] = {}
        for assignment in node.expressions:
            if kind(assignment) != "EQ" or kind(assignment.this) != "Column":
                unsupported("SET takes assignments to columns", assignment)
            column = identifier(assignment.this)
            if column in values or column in ("from", "where"):
                unsupported(f"SET cannot assign to {column} twice, or to a column with the name from or where", node)
            values[column] = over.value(_unqualified(assignment.expression, table))
        where = node.args.get("where")
        condition = TRUE if where is None else over.true(_unqualified(where.this, table))
        chosen = self._vector(over, condition)
        columns = {column: self._assigned(over, column, value, chosen) for column, value in values.items()}
        return update(symbol(table), columns, chosen)

    def delete(self, node: Node) -> bytes:
        """Compile DELETE."""
        only(node, "this", "where")
        table, _ = _target(node.this)
        where = node.args.get("where")
        over = self._over(name(table))
        condition = TRUE if where is None else self._vector(over, over.true(_unqualified(where.this, table)))
        return delete(symbol(table), condition)

    def create(self, node: Node) -> bytes:
        """Compile CREATE TABLE, with columns or AS SELECT."""
        only(node, "this", "kind", "replace", "exists", "expression")
        if str(node.args.get("kind")).upper() != "TABLE":
            unsupported("CREATE is supported only as CREATE TABLE", node)
        if node.expression is not None and is_query(node.expression):
            table, _ = _target(node.this)
            content: Buffer = self._queries.table(node.expression)
        elif kind(node.this) == "Schema":
            table, types = _definitions(node.this)
            content = quoted(table_of(types, [vector(_VECTORS[one], 0, []) for one in types.values()]))
        else:
            unsupported("CREATE TABLE takes columns with types, or AS SELECT", node)
        created = call("do", call("set", name(table), content), symbol(table))
        if node.args.get("replace"):
            return created
        exists = call("in", symbol(table), call("key", call("env", i64(0))))
        refused = self._program.failure(f"the table {table} already exists")
        return call("if", exists, symbol(table) if node.args.get("exists") else refused, created)

    def drop(self, node: Node) -> bytes:
        """Compile DROP TABLE."""
        only(node, "this", "kind", "exists", "tables")
        targets = node.args.get("tables") or [node.this]
        if str(node.args.get("kind")).upper() != "TABLE" or len(targets) != 1:
            unsupported("DROP is supported only as DROP TABLE with one table", node)
        table, _ = _target(targets[0])
        dropped = call("do", call("del", name(table)), symbol(table))
        return dropped if node.args.get("exists") else call("do", call("type", name(table)), dropped)

    def _over(self, table: Buffer | None) -> Expressions:
        return Expressions(self._program, self._parameters, table, self._queries.table)

    def _vector(self, over: Expressions, payload: Buffer) -> bytes:
        """Return the step that holds an expression's values for all rows of the table."""
        assert over.table is not None, "a change has a table"
        return self._program.let(call("at", select(over.table, {}, {"#": payload}), symbol("#")))

    def _assigned(self, over: Expressions, column: str, value: Value, chosen: Buffer) -> Buffer:
        """Return the value for a column in the chosen rows: of the column's type, or of one that the engine refuses."""
        let = self._program.let
        type_ = over.type_of(Value(name(column), column=column))
        if value.kind is Kind.NULL:
            return over.null_of(type_)
        if value.kind is Kind.TEXT:
            return over.text_for(value.text, type_)
        if value.constant:
            return let(call("first", self._converted(call("enlist", value.payload), type_, TRUE)))
        return let(self._converted(self._vector(over, value.payload), type_, chosen))

    def _values(self, node: Node, table: str, columns: list[str] | None, given: Buffer) -> bytes:
        """Return the step that holds the rows of VALUES as a table."""
        cells = [one.expressions if kind(one) == "Tuple" else [one.this] for one in node.expressions]
        width = len(cells[0]) if columns is None else len(columns)
        for place, row in enumerate(cells, 1):
            if len(row) != width:
                unsupported(f"row {place} of VALUES has {counted(len(row), 'value')} instead of {width}")
        over = self._over(None)
        listed: list[Buffer] = []
        for place in range(width):
            where: Buffer = i64(place) if columns is None else symbol(columns[place])
            source = name(table) if columns is not None else call("value", name(table))
            type_ = self._program.let(call("type", call("at", source, where)))
            listed.append(self._cells(over, [over.value(row[place]) for row in cells], type_))
        return self._program.let(call("table", given, gather("list", listed)))

    def _cells(self, over: Expressions, values: Sequence[Value], type_: Buffer) -> Buffer:
        """Return one column of VALUES as a vector."""
        kinds = {value.kind for value in values} - {Kind.NULL}
        if not kinds:
            return call("take", call("enlist", over.null_of(type_)), i64(len(values)))
        if kinds == {Kind.TEXT}:
            return over.texts_for([None if value.kind is Kind.NULL else value.text for value in values], type_)
        if Kind.UNKNOWN in kinds:
            return gather("enlist", [self._cell(over, value, type_) for value in values])
        payload = constants(values)
        if payload is None:
            unsupported("the values in a column of VALUES must be of one type, and a bool cannot be NULL")
        return quoted(payload)

    def _cell(self, over: Expressions, value: Value, type_: Buffer) -> Buffer:
        if value.kind is Kind.NULL:
            return over.null_of(type_)
        return over.text_for(value.text, type_) if value.kind is Kind.TEXT else value.payload

    def _completed(self, table: str, given: Buffer, rows: Buffer) -> bytes:
        """Return the rows with nulls in the table's other columns."""
        missing = self._program.let(call("except", call("key", name(table)), given))
        type_ = call("type", call("at", name(table), name("#")))
        refused = self._program.failure("INSERT leaves out a column of bools or bytes, which cannot be NULL")
        null = call("if", one_of(type_, ("B8", "U8")), refused, call("as", type_, i64(-(2**63))))
        nulls = mapped("#", call("take", call("enlist", null), call("count", rows)), missing)
        whole = call("table", call("concat", given, missing), call("concat", call("value", rows), nulls))
        return call("if", call("count", missing), whole, rows)

    def _upsert(self, conflict: Node, table: str, given: Buffer, rows: Buffer) -> bytes:
        """Compile ON CONFLICT (keys) DO UPDATE, where the keys are the table's first columns."""
        only(conflict, "action", "conflict_keys", "expressions")
        keys = [identifier(one.this if kind(one) == "Ordered" else one) for one in conflict.args["conflict_keys"] or []]
        if not keys or "UPDATE" not in str(conflict.args.get("action")).upper():
            unsupported("ON CONFLICT takes the key columns and DO UPDATE", conflict)
        replaced_columns = []
        for assignment in conflict.expressions:
            column = assignment.this.name if kind(assignment) == "EQ" else ""
            source = assignment.expression
            if kind(source) != "Column" or qualifier_of(source).lower() != "excluded" or source.name != column:
                unsupported("DO UPDATE replaces whole rows: SET takes column = excluded.column", assignment)
            replaced_columns.append(column)
        columns = self._program.let(call("key", name(table)))
        leading = call("take", columns, i64(len(keys)))
        self._check_none(call("except", names_of(keys), leading), "ON CONFLICT takes the table's first columns as keys")
        self._check_none(call("except", columns, given), "INSERT … ON CONFLICT needs values for all columns")
        if replaced_columns:
            surplus = call("except", columns, names_of([*keys, *replaced_columns]))
            self._check_none(surplus, "DO UPDATE replaces whole rows, so SET has to name all columns but the keys")
        return call("upsert", symbol(table), i64(len(keys)), pick(rows, columns))

    def _check_none(self, names: Buffer, reason: str) -> None:
        self._program.check(equal(call("count", names), i64(0)), reason)

    def _converted(self, values: Buffer, type_: Buffer, chosen: Buffer) -> bytes:
        """Convert values to the type of a column: numbers to other numbers, and symbols to strings.

        The program fails if a number in a chosen row would change, because the engine itself would truncate it.
        """
        own, values_, result = call("type", name("#v")), name("#v"), name("#r")
        numbers = call("and", one_of(own, _NUMBERS), one_of(type_, _NUMBERS))
        texts = call("and", equal(own, symbol("SYM")), equal(type_, symbol("STR")))
        lost = call("any", call("and", chosen, call("!=", call("as", own, result), values_)))
        refused = self._program.failure("a number does not fit its column")
        checked = call("if", call("and", one_of(type_, _INTEGERS), lost), refused, result)
        converted = call("do", call("let", result, call("as", type_, values_)), checked)
        other = call("if", numbers, converted, call("if", texts, call("as", type_, values_), values_))
        return call("do", call("let", values_, values), call("if", equal(own, type_), values_, other))


def _target(node: Node) -> tuple[str, list[str] | None]:
    """Return the table that a statement changes, and the columns that it names."""
    columns = None
    if kind(node) == "Schema":
        columns = [identifier(one) for one in node.expressions]
        if len(set(columns)) < len(columns):
            unsupported("a column is named twice", node)
        node = node.this
    if kind(node) != "Table" or kind(node.this) != "Identifier":
        unsupported("the statement needs a table's name", node)
    only(node, "this")
    return identifier(node), columns


def _definitions(node: Node) -> tuple[str, dict[str, str]]:
    """Return the table of CREATE TABLE, and its columns' types."""
    types = {}
    for one in node.expressions:
        if kind(one) != "ColumnDef":
            unsupported("CREATE TABLE takes columns with types", one)
        only(one, "this", "kind")
        types[identifier(one)] = type_name(one.args["kind"])
    table, _ = _target(node)
    return table, types


def _unqualified(tree: Node, table: str) -> Node:
    """Return an expression over the changed table, whose columns may be qualified with its name."""

    def plain(node: Node) -> Node:
        if kind(node) != "Column":
            return node
        only(node, "this", "table")
        if qualifier_of(node) not in ("", table):
            unsupported("the statement can use only the columns of the table that it changes", node)
        return plain_column(identifier(node))

    return replaced(tree, plain)


_INTEGERS = ("U8", "I16", "I32", "I64")
_NUMBERS = (*_INTEGERS, "F32", "F64")
_CHANGES: dict[str, Callable[[_Change, Node], bytes]] = {
    "Insert": _Change.insert,
    "Update": _Change.update,
    "Delete": _Change.delete,
    "Create": _Change.create,
    "Drop": _Change.drop,
}
