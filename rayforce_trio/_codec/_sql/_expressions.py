"""SQL expressions to Rayfall.

A condition in SQL is true, false or null, and the engine knows no null among bools. So each condition is compiled to
"it is true" or to "it is false"; NOT exchanges them. Both are false where a comparison meets null.
"""

from collections.abc import Callable, Mapping, Sequence

from ..._values._payloads import NULL, Buffer, call, i64, name, quoted, string, symbol, symbols
from ..._values._types import Type
from ._functions import DIRECT, PARTS
from ._notation import interval_nanoseconds, like_pattern, type_name
from ._program import (
    FALSE,
    TRUE,
    Program,
    conjunction,
    disjunction,
    equal,
    gather,
    negation,
    one_of,
    select,
    update,
)
from ._syntax import Node, is_query, kind, only, part, text_of, unsupported
from ._values import (
    NULL_VALUE,
    UNITS,
    Kind,
    Parameters,
    Value,
    b8,
    constants,
    date,
    f64,
    int_of,
    negated,
    number,
    strings,
    text_value,
    time,
    timestamp,
)

_COMPARISONS = {"EQ": "==", "NEQ": "!=", "LT": "<", "LTE": "<=", "GT": ">", "GTE": ">="}
_OPPOSITES = {"==": "!=", "!=": "==", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}
_ARITHMETIC = {"Add": "+", "Sub": "-", "Mul": "*", "Div": "/", "IntDiv": "div"}
_PREDICATES = {*_COMPARISONS, "And", "Or", "Not", "In", "Is", "Between", "Like", "ILike", "Escape"}
_NUMERIC = ("U8", "I16", "I32", "I64", "F32", "F64")
_WITHOUT_NULL = ("B8", "U8")


class Expressions:
    """Compiles the expressions over one table.

    Args:
        program: receives the steps that expressions need.
        parameters: the parameters of the statement.
        table: the table, as an expression that is cheap to repeat; None if expressions have no columns.
        query: compiles a subquery to an expression that is cheap to repeat.
        known: the compiled values of some nodes: aggregates, and the keys of GROUP BY.
        grouped: whether columns that are not in `known` are an error.

    Attributes:
        table: the table, with the additional columns that the expressions compiled so far need.
    """

    def __init__(
        self,
        program: Program,
        parameters: Parameters,
        table: Buffer | None,
        query: Callable[[Node], Buffer],
        known: Mapping[Node, Value] | None = None,
        *,
        grouped: bool = False,
    ) -> None:
        self._program = program
        self._parameters = parameters
        self.table = table
        self._query = query
        self._known = known or {}
        self._grouped = grouped
        self._columns: dict[bytes, Value] = {}

    def value(self, node: Node) -> Value:
        """Compile an expression. A condition that is null becomes false."""
        if node in self._known:
            return self._known[node]
        name_of_kind = kind(node)
        if name_of_kind in _PREDICATES:
            return Value(self.true(node), nullable=False)
        if name_of_kind in _ARITHMETIC:
            return self._arithmetic(node, _ARITHMETIC[name_of_kind])
        if name_of_kind in DIRECT:
            only(node, "this", "safe")
            return Value(call(DIRECT[name_of_kind], self.value(node.this).payload))
        if name_of_kind in PARTS:
            only(node, "this")
            return Value(call(PARTS[name_of_kind], self.value(node.this).payload))
        compiler = _COMPILERS.get(name_of_kind)
        if compiler is not None:
            return compiler(self, node)
        if is_query(node):
            return Value(self._program.let(call("first", call("first", call("value", self._query(node))))))
        return unsupported("SQL of this kind is not supported", node)

    def true(self, node: Node) -> bytes:
        """Compile a condition to an expression that is true where the condition is true."""
        return self._condition(node, True)

    def false(self, node: Node) -> bytes:
        """Compile a condition to an expression that is true where the condition is false."""
        return self._condition(node, False)

    def type_of(self, value: Value) -> bytes:
        """Return the step that holds the type of an expression: a symbol such as 'F64."""
        if self.table is None:
            return self._program.let(call("type", call("enlist", value.payload)))
        if value.column is not None:
            column = call("at", self.table, symbol(value.column))
        else:  # one row is enough to find the type
            column = select(call("take", self.table, i64(1)), {}, {"#": value.payload})
            column = call("at", column, symbol("#"))
        return self._program.let(call("type", column))

    def text_for(self, text: str, type_: Buffer) -> bytes:
        """Return the step that holds text as a value of a type known when the query runs.

        Text that denotes a date or time becomes one if the type is that of dates or times. For other types it stays
        text, which the engine refuses to compare or to store. A symbol cannot contain NUL: the program then fails.
        """
        symbol_ = self._no_symbol() if "\0" in text else call("as", symbol("SYM"), string(text))
        choice: Buffer = call("if", equal(type_, symbol("SYM")), symbol_, string(text))
        for target, payload in (("DATE", date(text)), ("TIMESTAMP", timestamp(text)), ("TIME", time(text))):
            if payload is not None:
                choice = call("if", equal(type_, symbol(target)), payload, choice)
        return self._program.let(choice)

    def _no_symbol(self) -> bytes:
        return self._program.failure("text with NUL cannot be a symbol")

    def column_of(self, value: Value) -> Value:
        """Add an expression to the table as a column, and return the column.

        The engine computes `if` row by row only if it can compile the whole expression; with columns, it always can.
        """
        if self.table is None or value.constant or value.column is not None:
            return value
        key = bytes(value.payload)
        if key not in self._columns:
            own = self._program.fresh()
            self.table = self._program.let(update(self.table, {own: key}))
            self._columns[key] = Value(name(own), nullable=value.nullable, column=own)
        return self._columns[key]

    def null_of(self, type_: Buffer) -> bytes:
        """Return the step that holds the null of a type. The program fails for bools and bytes, which have no null."""
        self._program.check(negation(one_of(type_, _WITHOUT_NULL)), "there is no NULL among bools and bytes")
        return self._program.let(call("as", type_, i64(-(2**63))))

    def unified(self, values: Sequence[Value]) -> list[Buffer]:
        """Return expressions converted to their common type, because the branches of `if` must have one type.

        Whole numbers become I64 and others F64 where types differ; symbols and strings become symbols.
        """
        kinds = {value.kind for value in values} - {Kind.NULL}
        if Kind.UNKNOWN not in kinds:
            return _unified_constants(values)
        types = dict.fromkeys(self.type_of(value) for value in values if not value.constant)
        added = [symbol(target) for one, target in _TYPE_OF_KIND.items() if one in kinds]
        same = len(types) == 1 and not added
        common = next(iter(types)) if same else self.common_type([*types, *added])
        result: list[Buffer] = []
        for value in values:
            if value.kind is Kind.NULL:
                result.append(self.null_of(common))
            elif value.kind is Kind.TEXT:
                result.append(self.text_for(value.text, common))
            elif same or value.constant:
                result.append(value.payload if same else self._program.let(call("as", common, value.payload)))
            else:
                result.append(self.column_of(Value(call("as", common, value.payload))).payload)
        return result

    def common_type(self, types: Sequence[Buffer]) -> bytes:
        """Return the step that holds the type to which values of several types are converted.

        If the types have no common type, the running query fails with the error `domain`.
        """
        found = self._program.let(call("distinct", gather("enlist", types)))
        apart_from = {names: call("count", call("except", found, _symbols(names))) for names in (_NUMERIC, _TEXTS)}
        is_float = call("count", call("sect", found, _symbols(("F32", "F64"))))
        of_numbers = call("if", is_float, symbol("F64"), symbol("I64"))
        apart = self._program.failure("joined columns, or alternative values, differ in type")
        of_others = call("if", apart_from[_TEXTS], apart, symbol("SYM"))
        several = call("if", apart_from[_NUMERIC], of_others, of_numbers)
        return self._program.let(call("if", equal(call("count", found), i64(1)), call("first", found), several))

    # Conditions

    def _condition(self, node: Node, wanted: bool) -> bytes:
        if node in self._known:
            return self._bool(self._known[node], wanted)
        match kind(node):
            case "Paren":
                return self._condition(node.this, wanted)
            case "Not":
                return self._condition(node.this, not wanted)
            case "And" | "Or" as connective:
                both = (connective == "And") == wanted
                first, second = (self._condition(side, wanted) for side in (node.this, node.expression))
                return conjunction(first, second) if both else disjunction(first, second)
            case "Boolean":
                return b8(bool(node.this) == wanted)
            case "In":
                return self._in(node, wanted)
            case "Is":
                return self._is(node, wanted)
            case "Between":
                return self._between(node, wanted)
            case "Like" | "ILike" | "Escape":
                return self._like(node, wanted)
            case "Case" | "If":
                return self._chosen_condition(node, wanted)
            case name_of_kind if name_of_kind in _COMPARISONS:
                operator = _COMPARISONS[name_of_kind]
                return self._compare(operator if wanted else _OPPOSITES[operator], node.this, node.expression)
        return self._bool(self.value(node), wanted)

    def _chosen_condition(self, node: Node, wanted: bool) -> bytes:
        """Compile CASE or IF where a condition is expected."""
        conditions, branches, default = self._branches(node)
        result = FALSE if default is None else self._condition(default, wanted)
        for condition, branch in zip(reversed(conditions), reversed(branches), strict=True):
            chosen = conjunction(condition, self._condition(branch, wanted))
            result = disjunction(chosen, conjunction(negation(condition), result))
        return result

    def _bool(self, value: Value, wanted: bool) -> bytes:
        if value.kind is Kind.NULL:
            return FALSE
        return bytes(value.payload) if wanted else negation(value.payload)

    def _compare(self, operator: str, left_node: Node, right_node: Node) -> bytes:
        left, right = self._comparable(self.value(left_node), self.value(right_node))
        if Kind.NULL in (left.kind, right.kind):
            return FALSE
        # The engine orders null before all else, and equal to null.
        suspects = {
            "==": [left] if right.nullable else [],
            "!=": [left, right],
            "<": [left],
            "<=": [left],
            ">": [right],
            ">=": [right],
        }[operator]
        suspects = [value for value in suspects if value.nullable]
        if operator == "==" and not left.nullable:
            suspects = []
        if not suspects:
            return call(operator, left.payload, right.payload)
        excluded: Buffer = call(_OPPOSITES[operator], left.payload, right.payload)
        for value in suspects:
            excluded = call("or", excluded, call("nil?", value.payload))
        return call("not", excluded)

    def _comparable(self, left: Value, right: Value) -> tuple[Value, Value]:
        """Convert text to a date or time if the other side has that type."""
        for first, second, exchanged in ((left, right, False), (right, left, True)):
            if second.kind is Kind.TEXT:
                self._check_comparable(first, second.text)
            if second.kind is Kind.TEXT and not first.constant and (timestamp(second.text) or time(second.text)):
                payload = self.text_for(second.text, self.type_of(first))
                second = Value(payload, Kind.OTHER, nullable=False)
                return (second, first) if exchanged else (first, second)
        return left, right

    def _check_comparable(self, value: Value, text: str) -> None:
        """Make the program fail if a column's type cannot be compared with text: the engine would compare it anyway."""
        if self.table is None or value.column is None:
            return
        refused = ["B8", *_NUMERIC, *(target for target, convert in _MOMENTS.items() if convert(text) is None)]
        column = symbol(value.column)
        unknown = call("not", call("in", column, call("key", self.table)))  # it gets the engine's own error
        wrong = call("in", call("type", call("at", self.table, column)), quoted(symbols(refused)))
        self._program.check(
            call("if", unknown, TRUE, negation(wrong)),
            "text is compared with a column of another type "
            "(write numbers without quotes, and dates and times in the form of ISO 8601)",
        )

    def _between(self, node: Node, wanted: bool) -> bytes:
        only(node, "this", "low", "high")
        low, high = node.args["low"], node.args["high"]
        if not wanted:
            return disjunction(self._compare("<", node.this, low), self._compare(">", node.this, high))
        return conjunction(self._compare(">=", node.this, low), self._compare("<=", node.this, high))

    def _is(self, node: Node, wanted: bool) -> bytes:
        if kind(node.expression) == "Null":
            value = self.value(node.this)
            if value.constant:
                return b8((value.kind is Kind.NULL) == wanted)
            null = call("nil?", value.payload)
            return null if wanted else negation(null)
        if kind(node.expression) == "Boolean":
            holds = self._condition(node.this, bool(node.expression.this))
            return holds if wanted else negation(holds)
        return unsupported("IS is supported with NULL, TRUE and FALSE", node)

    def _in(self, node: Node, wanted: bool) -> bytes:
        only(node, "this", "expressions", "query", "field")
        value = self.value(node.this)
        if query := part(node, "query"):
            choices: Buffer = self._program.let(call("first", call("value", self._query(query))))
            return self._member(value, choices, wanted)
        field = part(node, "field")
        nodes = [field] if field is not None else node.expressions
        if len(nodes) == 1 and kind(nodes[0]) == "Placeholder":
            items = [self._parameters.one_or_several(_parameter(nodes[0]))]
        else:
            items = [self.value(item) for item in nodes]
        if len(items) == 1 and items[0].kind is Kind.LIST:
            if items[0].payload[0] in (Type.DICT, Type.TABLE):
                unsupported("IN is followed by a list, not by a dict or a table", node)
            if items[0].items is None:
                return self._member(value, self._program.let(quoted(items[0].payload)), wanted)
            items = [NULL_VALUE if text is None else text_value(text) for text in items[0].items]
        elif self._parameters.checking and any(kind(one) == "Placeholder" for one in (field, *node.expressions)):
            return TRUE
        elif field is not None:
            unsupported("IN is followed by values in parentheses, or by a parameter that is a list", node)
        return self._in_values(value, items, wanted)

    def _in_values(self, value: Value, items: list[Value], wanted: bool) -> bytes:
        certain = [item for item in items if item.kind is not Kind.NULL]
        if not wanted and len(certain) < len(items):
            return FALSE  # a comparison with null is never true
        if not certain:
            return b8(not wanted)
        if all(item.kind is Kind.TEXT for item in certain):
            for item in certain:
                self._check_comparable(value, item.text)
            choices = self.texts_for([item.text for item in certain], self.type_of(value), to_find=True)
        else:
            listed = constants(certain)
            if listed is None:
                unsupported("the values in parentheses after IN must be constants of one type")
            choices = self._program.let(quoted(listed))
        return self._member(value, choices, wanted)

    def texts_for(self, texts: Sequence[str | None], type_: Buffer, *, to_find: bool = False) -> bytes:
        """Return the step that holds texts, and nulls, as a vector of a type known when the query runs.

        It is like `text_for`: of dates or times only if all texts denote one.

        Args:
            to_find: whether values are looked up in the vector. Text with NUL, which equals no symbol, is then left out
                of symbols.
        """
        known = [text or "" for text in texts]
        possible = [text for text in known if "\0" not in text]
        symbols_: Buffer = quoted(symbols(possible))
        if len(possible) < len(known) and not to_find:
            symbols_ = self._no_symbol()
        choice: Buffer = call("if", equal(type_, symbol("SYM")), symbols_, quoted(strings(known)))
        for target, convert in (("DATE", date), ("TIMESTAMP", timestamp), ("TIME", time)):
            moments = [NULL if text is None else convert(text) for text in texts]
            listed = [NULL_VALUE if one == NULL else Value(one, Kind.OTHER) for one in moments if one is not None]
            if len(listed) == len(texts) and (items := constants(listed)) is not None:
                choice = call("if", equal(type_, symbol(target)), quoted(items), choice)
        return self._program.let(choice)

    def _member(self, value: Value, choices: Buffer, wanted: bool) -> bytes:
        member = call("in", value.payload, choices)
        if wanted:
            return member
        return negation(call("or", member, call("nil?", value.payload)) if value.nullable else member)

    def _like(self, node: Node, wanted: bool) -> bytes:
        escape = None
        if kind(node) == "Escape":
            escape = text_of(node.expression)
            if escape is None or len(escape) != 1:
                unsupported("ESCAPE is followed by one character", node)
            node = node.this
        only(node, "this", "expression", "negate")
        if node.args.get("negate"):
            wanted = not wanted
        pattern = self.value(node.expression)
        if pattern.kind is Kind.NULL:
            return FALSE
        unknown = self._parameters.checking and kind(node.expression) == "Placeholder"
        if pattern.kind is not Kind.TEXT and not unknown:
            unsupported("LIKE is followed by text, or by a parameter that is text", node)
        value = self.value(node.this)
        payload, text = value.payload, pattern.text
        if kind(node) == "ILike":
            payload, text = call("lower", payload), text.lower()
        matches = call("like", payload, string(like_pattern(text, escape, node)))
        null = call("nil?", value.payload)
        return negation(call("or", negation(matches) if wanted else matches, null))

    # Values

    def _column(self, node: Node) -> Value:
        only(node, "this")
        column = str(node.name)
        if self.table is None:
            unsupported("no columns can be used here", node)
        if self._grouped:
            unsupported("a column outside of an aggregate must be in GROUP BY", node)
        return Value(name(column), column=column)

    def _inner(self, node: Node) -> Value:
        return self.value(node.this)

    def _null(self, _: Node) -> Value:
        return NULL_VALUE

    def _boolean(self, node: Node) -> Value:
        return Value(b8(bool(node.this)), Kind.BOOL, nullable=False)

    def _literal(self, node: Node) -> Value:
        return text_value(str(node.this)) if node.is_string else number(str(node.this))

    def _placeholder(self, node: Node) -> Value:
        return self._parameters.value(_parameter(node))

    def _minus(self, node: Node) -> Value:
        value = self.value(node.this)
        return negated(value) or Value(call("neg", value.payload), nullable=value.nullable)

    def _arithmetic(self, node: Node, operator: str) -> Value:
        only(node, "this", "expression", "typed", "safe")
        left, right = self.value(node.this), self._operand(node.expression, node.this)
        if Kind.NULL in (left.kind, right.kind):
            return self._null_like(left, right)
        return Value(call(operator, left.payload, right.payload))

    def _operand(self, node: Node, other: Node) -> Value:
        return self._interval(node, self.value(other)) if kind(node) == "Interval" else self.value(node)

    def _null_like(self, left: Value, right: Value) -> Value:
        operand = right if left.kind is Kind.NULL else left
        return NULL_VALUE if operand.constant else Value(self.null_of(self.type_of(operand)))

    def _interval(self, node: Node, moment: Value) -> Value:
        """Compile an interval that is added to a moment: days to a date, milliseconds to a time, else nanoseconds."""
        nanoseconds = interval_nanoseconds(node)
        choice: Buffer = i64(nanoseconds)
        type_ = self.type_of(moment)
        for target, unit in (("DATE", UNITS["day"]), ("TIME", UNITS["millisecond"])):
            refused = f"an interval is added to a {target.lower()} that cannot hold it"
            whole = self._program.failure(refused) if nanoseconds % unit else i64(nanoseconds // unit)
            choice = call("if", equal(type_, symbol(target)), whole, choice)
        return Value(self._program.let(choice), Kind.OTHER, nullable=False)

    def _modulo(self, node: Node) -> Value:
        """Compile `%`, whose sign is that of the dividend in SQL and that of the divisor in the engine."""
        left, right = self.value(node.this), self.value(node.expression)
        if Kind.NULL in (left.kind, right.kind):
            return self._null_like(left, right)
        divisor = right.payload if (int_of(right) or 0) > 0 else call("abs", right.payload)
        remainder = call("%", call("abs", left.payload), divisor)
        return Value(call("*", call("signum", left.payload), remainder))

    def _concat(self, node: Node) -> Value:
        parts = [node.this, node.expression] if kind(node) == "DPipe" else node.expressions
        values = [self.value(one) for one in parts]
        payload = values[0].payload
        for value in values[1:]:
            payload = call("concat", payload, value.payload)
        return Value(payload)

    def _case(self, node: Node) -> Value:
        conditions, branches, default = self._branches(node)
        values = [self.value(branch) for branch in branches]
        return self._choose(conditions, [*values, NULL_VALUE if default is None else self.value(default)])

    def _branches(self, node: Node) -> tuple[list[bytes], list[Node], Node | None]:
        """Return the conditions of CASE or IF, their values, and the value if no condition holds."""
        if kind(node) == "If":
            only(node, "this", "true", "false")
            return [self.true(node.this)], [node.args["true"]], node.args.get("false")
        only(node, "this", "ifs", "default")
        ifs = node.args["ifs"]
        if node.this is None:
            conditions = [self.true(branch.this) for branch in ifs]
        else:
            conditions = [self._compare("==", node.this, branch.this) for branch in ifs]
        return conditions, [branch.args["true"] for branch in ifs], node.args.get("default")

    def _coalesce(self, node: Node) -> Value:
        only(node, "this", "expressions")
        values = [self.value(one) for one in (node.this, *node.expressions)]
        values = [value for value in values if value.kind is not Kind.NULL] or [NULL_VALUE]
        for place, value in enumerate(values):
            if not value.nullable:
                del values[place + 1 :]
        return self._choose([negation(call("nil?", value.payload)) for value in values[:-1]], values)

    def _nullif(self, node: Node) -> Value:
        only(node, "this", "expression")
        return self._choose([self._compare("==", node.this, node.expression)], [NULL_VALUE, self.value(node.this)])

    def _choose(self, conditions: Sequence[Buffer], values: Sequence[Value]) -> Value:
        """Compile a choice: the value of the first condition that holds, otherwise the last value."""
        certain = [place for place, condition in enumerate(conditions) if condition == TRUE]
        if certain:
            conditions, values = conditions[: certain[0]], values[: certain[0] + 1]
        if len(values) == 1:
            return values[0]
        payloads = self.unified(values)
        payload = payloads[-1]
        for condition, one in zip(reversed(conditions), reversed(payloads[:-1]), strict=True):
            payload = (
                one if condition == TRUE else payload if condition == FALSE else call("if", condition, one, payload)
            )
        return self.column_of(Value(payload, nullable=any(value.nullable for value in values)))

    def _cast(self, node: Node) -> Value:
        only(node, "this", "to")
        target = type_name(node.args["to"])
        value = self.value(node.this)
        if value.kind is Kind.TEXT and target in _MOMENTS:
            moment = _MOMENTS[target](value.text)
            if moment is None:
                unsupported(f"the text {value.text!r} is not a {target.lower()}; write it in the form of ISO 8601")
            return Value(moment, Kind.OTHER, nullable=False)
        if value.kind is Kind.TEXT and target == "STR":
            return value
        if target in _WITHOUT_NULL and value.nullable:
            converted = call("as", symbol(target), value.payload)
            return Value(
                conjunction(negation(call("nil?", value.payload)), converted) if target == "B8" else converted,
                nullable=False,
            )
        return Value(call("as", symbol(target), value.payload), nullable=value.nullable)

    def _round(self, node: Node) -> Value:
        only(node, "this", "decimals")
        value = self.value(node.this).payload
        decimals = node.args.get("decimals")
        if decimals is None:
            return Value(call("round", value))
        places = int_of(self.value(decimals))
        if places is None or not 0 <= places <= 15:
            unsupported("ROUND takes 0 to 15 places, as a constant", node)
        scale = f64(10.0**places)
        return Value(call("/", call("round", call("*", value, scale)), scale))

    def _power(self, node: Node) -> Value:
        only(node, "this", "expression")
        return Value(call("pow", self.value(node.this).payload, self.value(node.expression).payload))

    def _substring(self, node: Node) -> Value:
        only(node, "this", "start", "length")
        start, length = (
            int_of(self.value(one)) if (one := node.args.get(key)) else None for key in ("start", "length")
        )
        if start is None or start < 1 or length is None or length < 0:
            unsupported("SUBSTRING takes a start of 1 or more and a length, as constants", node)
        return Value(call("substr", self.value(node.this).payload, i64(start), i64(length)))

    def _extract(self, node: Node) -> Value:
        only(node, "this", "expression")
        function = PARTS.get(str(node.name).title())
        if function is None:
            unsupported("EXTRACT of this part is not supported", node)
        return Value(call(function, self.value(node.expression).payload))

    def _date_trunc(self, node: Node) -> Value:
        only(node, "this", "unit")
        unit = str(node.args["unit"].name).lower()
        if unit not in ("day", "hour", "minute", "second", "millisecond", "microsecond"):
            unsupported("DATE_TRUNC is supported for day, hour, minute, second, millisecond and microsecond", node)
        return self._bar(node.this, UNITS[unit])

    def _bar(self, moment: Node, nanoseconds: int) -> Value:
        value = self.value(moment).payload
        return Value(call("xbar", call("as", symbol("TIMESTAMP"), value), i64(nanoseconds)))

    def _anonymous(self, node: Node) -> Value:
        function = str(node.this).lower()
        if function == "time_bucket" and len(node.expressions) == 2 and kind(node.expressions[0]) == "Interval":
            return self._bar(node.expressions[1], interval_nanoseconds(node.expressions[0]))
        if function.title() in PARTS and len(node.expressions) == 1:  # sqlglot before 28.0 does not know all of them
            return Value(call(PARTS[function.title()], self.value(node.expressions[0]).payload))
        return unsupported(f"the function {node.this} is not supported", node)

    def _trim(self, node: Node) -> Value:
        only(node, "this")
        return Value(call("trim", self.value(node.this).payload))

    def _log(self, node: Node) -> Value:
        if node.args.get("expression") is not None:
            unsupported("only the natural logarithm is supported: write LN(x)", node)
        return unsupported("the base of LOG differs among databases: write LN(x)", node)


def _unified_constants(values: Sequence[Value]) -> list[Buffer]:
    kinds = {value.kind for value in values} - {Kind.NULL}
    if kinds == {Kind.TEXT}:
        return [string(value.text) for value in values]  # a null string is an empty one
    if kinds == {Kind.INT, Kind.FLOAT}:
        listed = [f64(float(int_of(value) or 0)) if value.kind is Kind.INT else value.payload for value in values]
        null = f64(float("nan"))
    elif len(kinds) <= 1 and kinds <= {Kind.INT, Kind.FLOAT, Kind.BOOL, Kind.OTHER}:
        listed = [value.payload for value in values]
        null = f64(float("nan")) if Kind.FLOAT in kinds else i64(-(2**63))
        if len(kinds & {Kind.BOOL, Kind.OTHER}) and any(value.kind is Kind.NULL for value in values):
            unsupported("a choice between this constant and NULL has no type; add CAST to the NULL")
    else:
        unsupported("a choice between constants of different types is not supported")
    return [null if value.kind is Kind.NULL else one for value, one in zip(values, listed, strict=True)]


def _parameter(placeholder: Node) -> str:
    """Return the name of a parameter."""
    if not placeholder.this:
        unsupported("a parameter needs a name: write :name, not ?")
    return str(placeholder.this)


def _symbols(names: Sequence[str]) -> bytes:
    return quoted(symbols(names))


_TEXTS = ("SYM", "STR")
_TYPE_OF_KIND = {Kind.INT: "I64", Kind.FLOAT: "F64", Kind.BOOL: "B8"}
_MOMENTS = {"DATE": date, "TIMESTAMP": timestamp, "TIME": time}
_COMPILERS: dict[str, Callable[[Expressions, Node], Value]] = {
    "Paren": Expressions._inner,
    "Null": Expressions._null,
    "Boolean": Expressions._boolean,
    "Column": Expressions._column,
    "Literal": Expressions._literal,
    "Placeholder": Expressions._placeholder,
    "Neg": Expressions._minus,
    "Mod": Expressions._modulo,
    "DPipe": Expressions._concat,
    "Concat": Expressions._concat,
    "Case": Expressions._case,
    "If": Expressions._case,
    "Coalesce": Expressions._coalesce,
    "Nullif": Expressions._nullif,
    "Cast": Expressions._cast,
    "Round": Expressions._round,
    "Pow": Expressions._power,
    "Substring": Expressions._substring,
    "Extract": Expressions._extract,
    "DateTrunc": Expressions._date_trunc,
    "TimestampTrunc": Expressions._date_trunc,
    "Anonymous": Expressions._anonymous,
    "Trim": Expressions._trim,
    "Log": Expressions._log,
}
