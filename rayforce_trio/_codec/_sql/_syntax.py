"""SQL text to a syntax tree, and functions that examine trees. Names stay as they are written."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, cast

import sqlglot
from sqlglot import exp

from ...errors import RayforceParseError, UnsupportedQuery

Node = exp.Expression

_PLAIN = re.compile("[A-Za-z_][A-Za-z0-9_]*")  # a name that needs no quotes
_FRAGMENT = 80  # characters of SQL that an error quotes


def parse(text: str) -> Node:
    """Return the syntax tree of one statement.

    Raises:
        RayforceParseError: it is not SQL, or not one statement.
        UnsupportedQuery: it has a parameter with a dollar sign.
    """
    try:
        with _silenced(logging.getLogger("sqlglot")):  # it warns of statements that the caller refuses
            trees = sqlglot.parse(text)
    except sqlglot.errors.SqlglotError as error:
        raise RayforceParseError(f"the text is not SQL: {_message(error)}") from None
    statements = [tree for tree in trees if tree is not None and not isinstance(tree, exp.Semicolon)]
    if len(statements) != 1:
        found = f"{len(statements)} statements" if statements else "no statement"
        raise RayforceParseError(f"the SQL text must be one statement; it holds {found}")
    statement = cast(Node, statements[0])
    for name in statement.find_all(exp.Identifier):
        if name.this.startswith("$") and not name.quoted:
            unsupported(f"a parameter is written :name, not {name.this}")
    return statement


@contextmanager
def _silenced(logger: logging.Logger) -> Iterator[None]:
    disabled = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = disabled


def _message(error: Exception) -> str:
    if isinstance(error, sqlglot.errors.ParseError) and error.errors:
        first = error.errors[0]
        before = str(first.get("start_context") or "")[-20:]
        near = f"{before}{first.get('highlight') or ''}"
        where = f"line {first.get('line')}, column {first.get('col')}"
        return f"{str(first.get('description')).rstrip('.')} ({where}, near {near!r})"
    return str(error).partition("\n")[0]


def kind(node: Node) -> str:
    """Return the name of a node's class, such as `Select`."""
    return type(node).__name__


def part(node: Node, key: str) -> Any:
    """Return a part of a node, or None. Newer versions of sqlglot add an underscore to some keys."""
    value = node.args.get(key)
    return node.args.get(f"{key}_") if value is None else value


def fragment(node: Node) -> str:
    """Return the SQL of a node, abbreviated."""
    shown = node.copy()
    for identifier_ in shown.find_all(exp.Identifier):
        identifier_.set("quoted", not _PLAIN.fullmatch(identifier_.this))
    text = str(shown.sql(comments=False))
    return text if len(text) <= _FRAGMENT else f"{text[: _FRAGMENT - 1]}…"


def unsupported(problem: str, node: Node | None = None) -> NoReturn:
    """Raise `UnsupportedQuery` with the problem and the SQL that causes it."""
    where = "" if node is None else f": {fragment(node)}"
    raise UnsupportedQuery(f"{problem}{where}")


def only(node: Node, *keys: str) -> None:
    """Raise `UnsupportedQuery` if a node has parts other than these, which the compiler would ignore."""
    for key, value in node.args.items():
        if value and key.rstrip("_") not in keys:
            if key == "db":
                unsupported("a table has a name without a schema or a database", node)
            unsupported(f"SQL's {key.rstrip('_').replace('_', ' ').upper()} is not supported here", node)


def identifier(node: Node) -> str:
    """Return a name as it is written, without quotes.

    Raises:
        UnsupportedQuery: the engine does not accept the name.
    """
    text = str(node.name)
    if not text or "\0" in text or text.startswith("#"):
        unsupported("a name must not be empty, begin with #, or contain NUL", node)
    return text


def children(node: Node) -> Iterator[Node]:
    """Yield the nodes directly below a node."""
    for value in node.args.values():
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, exp.Expression):
                yield child


def walk(node: Node) -> Iterator[Node]:
    """Yield a node and all nodes below it, except those in subqueries."""
    yield node
    for child in children(node):
        if not is_query(child):
            yield from walk(child)


def is_query(node: Node) -> bool:
    """Return whether a node is a query."""
    return isinstance(node, exp.Query) and not isinstance(node, exp.Table)


def case(condition: Node, value: Node) -> Node:
    """Return `CASE WHEN condition THEN value END`."""
    return exp.Case(ifs=[exp.If(this=condition.copy(), true=value.copy())])


def one_literal() -> Node:
    """Return the literal 1."""
    return exp.Literal.number(1)


def plain_column(name: str) -> Node:
    """Return a column without a qualifier; equal columns are equal nodes, quoted or not."""
    return exp.column(exp.to_identifier(name, quoted=True))


def alias_of(node: Node) -> tuple[Node, str | None]:
    """Return an expression of a SELECT without its alias, and the alias."""
    if isinstance(node, exp.Alias):
        return node.this, identifier(node.args["alias"])
    return node, None


def text_of(node: Node | None) -> str | None:
    """Return the text of a text literal, or None for any other node."""
    if node is not None and isinstance(node, exp.Literal) and node.is_string:
        return str(node.this)
    return None


def integer_of(node: Node | None) -> int | None:
    """Return the number of an integer literal, or None for any other node."""
    if node is not None and isinstance(node, exp.Literal) and not node.is_string and str(node.this).isdigit():
        return int(node.this)
    return None


def replaced(tree: Node, function: Callable[[Node], Node]) -> Node:
    """Return a copy of a tree whose nodes `function` has replaced, except those in subqueries.

    If `function` returns the node that it was called with, that node stays, and `function` is called with its children.
    """
    copy = tree.copy()
    new = copy if is_query(copy) else function(copy)
    if new is copy and not is_query(copy):
        _replace_below(copy, function)
    return new


def _replace_below(node: Node, function: Callable[[Node], Node]) -> None:
    for child in list(children(node)):
        if is_query(child):
            continue
        new = function(child)
        if new is child:
            _replace_below(child, function)
        else:
            child.replace(new)


def conjuncts(node: Node) -> list[Node]:
    """Return the conditions that AND connects."""
    if isinstance(node, exp.Paren):
        return conjuncts(node.this)
    if isinstance(node, exp.And):
        return [*conjuncts(node.this), *conjuncts(node.expression)]
    return [node]


def columns_of(node: Node) -> list[Node]:
    """Return the columns in an expression or a query, without those in subqueries."""
    return [one for one in walk(node) if kind(one) == "Column" and kind(one.this) != "Star"]


def qualifier_of(column: Node) -> str:
    """Return the table that a column is qualified with, or the empty string."""
    table = column.args.get("table")
    return "" if table is None else str(table.name)
