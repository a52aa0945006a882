"""The Rayfall program that a statement compiles to: steps with names of their own, and a result.

Names of steps, of computed columns and of bound values begin with `#`; the names in a statement cannot.
"""

from collections.abc import Mapping, Sequence

from ..._values._calls import MAX_ARGUMENTS
from ..._values._payloads import Buffer, call, dict_of, list_of, name, quoted, symbol, symbols, vector
from ..._values._types import Type
from ._values import b8

TRUE = b8(True)
FALSE = b8(False)


class Program:
    """Collects steps; each is evaluated once, in the order in which they were added.

    Attributes:
        reasons: why the program may fail with the error `domain`, in words: the engine sends the code alone.
    """

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self._steps: list[Buffer] = []
        self._names: dict[bytes, bytes] = {}
        self._count = 0

    def fresh(self) -> str:
        """Return a new name, unique in the program."""
        self._count += 1
        return f"#{self._count}"

    def let(self, payload: Buffer) -> bytes:
        """Add a step, and return the name of its value. Equal payloads share a step."""
        key = bytes(payload)
        if key not in self._names:
            step = name(self.fresh())
            self._steps.append(call("let", step, key))
            self._names[key] = step
        return self._names[key]

    def failure(self, reason: str) -> bytes:
        """Return an expression that fails with the error `domain`."""
        if reason not in self.reasons:
            self.reasons.append(reason)
        return call("raise", symbol("domain"))

    def check(self, condition: Buffer, reason: str) -> None:
        """Add a step that fails unless the condition holds."""
        self._steps.append(call("if", condition, TRUE, self.failure(reason)))

    def finish(self, result: Buffer) -> bytes:
        """Return the whole program as one expression, whose value is `result`."""
        return call("do", *self._steps, result) if self._steps else bytes(result)


def select(source: Buffer, clauses: Mapping[str, Buffer], columns: Mapping[str, Buffer]) -> bytes:
    """Return the expression that selects computed columns from a table.

    Args:
        clauses: `where`, `by`, `asc`, `desc` and `take`.
        columns: by name; all columns if empty.
    """
    parts = {"from": source, **clauses, **columns}
    return call("select", dict_of(symbols(parts), list_of(list(parts.values()))))


def update(source: Buffer, columns: Mapping[str, Buffer], where: Buffer | None = None) -> bytes:
    """Return the expression that adds columns to a table, or replaces them; in place, if the source is a symbol."""
    parts = {"from": source, **columns, **({} if where is None else {"where": where})}
    return call("update", dict_of(symbols(parts), list_of(list(parts.values()))))


def delete(source: Buffer, condition: Buffer) -> bytes:
    """Return the expression that removes rows from a table; in place, if the source is a symbol."""
    return call("delete", dict_of(symbols(["from", "where"]), list_of([source, condition])))


def where(source: Buffer, condition: Buffer) -> Buffer:
    """Return the rows for which a condition holds."""
    return source if condition == TRUE else select(source, {"where": condition}, {})


def rename(table: Buffer, names: Buffer) -> bytes:
    """Return a table with other names for its columns."""
    return call("xcol", table, names)


def pick(table: Buffer, names: Buffer) -> bytes:
    """Return a table's columns of these names, in their order."""
    return call("xcols", table, names)


def names_of(names: Sequence[str]) -> bytes:
    """Return names as data."""
    return quoted(symbols(names))


def rows(start: int, count: int) -> bytes:
    """Return the value of the clause `take`."""
    return vector(Type.I64, 2, [start.to_bytes(8, "little"), count.to_bytes(8, "little")])


def gather(function: str, payloads: Sequence[Buffer]) -> Buffer:
    """Return `(list …)` or `(enlist …)` of any number of expressions."""
    parts = [
        call(function, *payloads[start : start + MAX_ARGUMENTS]) for start in range(0, len(payloads), MAX_ARGUMENTS)
    ]
    whole = parts[0]
    for part in parts[1:]:
        whole = call("concat", whole, part)
    return whole


def mapped(parameter: str, body: Buffer, over: Buffer) -> bytes:
    """Return the list of the results of a function of one parameter for each item."""
    return call("map", call("fn", symbols([parameter]), body), over)


def one_of(value: Buffer, names: Sequence[str]) -> bytes:
    """Return whether a symbol is one of these."""
    return call("in", value, names_of(names))


def negation(condition: Buffer) -> bytes:
    """Return `not`; a constant for a constant condition."""
    if condition == TRUE:
        return FALSE
    return TRUE if condition == FALSE else call("not", condition)


def conjunction(first: Buffer, second: Buffer) -> bytes:
    """Return `and`, simplified if a condition is constant."""
    if first == FALSE or second == FALSE:
        return FALSE
    if first == TRUE:
        return bytes(second)
    return bytes(first) if second == TRUE else call("and", first, second)


def disjunction(first: Buffer, second: Buffer) -> bytes:
    """Return `or`, simplified if a condition is constant."""
    if first == TRUE or second == TRUE:
        return TRUE
    if first == FALSE:
        return bytes(second)
    return bytes(first) if second == FALSE else call("or", first, second)


def equal(first: Buffer, second: Buffer) -> bytes:
    """Return `==`."""
    return call("==", first, second)
