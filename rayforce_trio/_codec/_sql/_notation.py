"""Parts of SQL that mean something by their notation: patterns, intervals, types, and the names of results."""

from ._functions import AGGREGATES, CASTS, DIRECT, ENGINE_TYPES, PARTS
from ._syntax import Node, fragment, identifier, kind, only, part, unsupported
from ._values import UNITS


def like_pattern(text: str, escape: str | None, node: Node) -> str:
    """Return the engine's pattern for one of LIKE: `*` and `?` for `%` and `_`, its own specials in brackets."""
    result, literal = [], False
    for character in text:
        if not literal and character == escape:
            literal = True
            continue
        if not literal and character in "%_":
            result.append("*" if character == "%" else "?")
        else:
            result.append(f"[{character}]" if character in "*?[" else character)
        literal = False
    if literal:
        unsupported("the pattern ends with the escape character", node)
    return "".join(result)


def interval_nanoseconds(node: Node) -> int:
    """Return the length of an interval.

    Raises:
        UnsupportedQuery: it is not a whole number of a unit of fixed length.
    """
    only(node, "this", "unit")
    unit = str(node.args["unit"].name).lower().removesuffix("s") if node.args.get("unit") else ""
    text = str(node.this.name) if kind(node.this) == "Literal" else ""
    if unit not in UNITS or not text.removeprefix("-").isdigit():
        unsupported("an INTERVAL is a whole number of weeks, days, hours, minutes or seconds", node)
    return int(text) * UNITS[unit]


def type_name(node: Node) -> str:
    """Return the engine's name for a type in SQL.

    Raises:
        UnsupportedQuery: the engine does not have the type.
    """
    only(node, "this", "kind", "nested")
    written = part(node, "kind")
    if written is not None:
        target = ENGINE_TYPES.get(str(written).upper())
    else:
        target = CASTS.get(str(getattr(node.this, "value", node.this)).upper())
    if target is None:
        return unsupported("the type is not supported", node)
    return target


def output_name(node: Node) -> str:
    """Return the name of a column of a result that has no alias.

    It is that of the column, or `sum_price` for SUM(price), or `count` for COUNT(*), or the expression itself.
    """
    if kind(node) == "Column":
        return identifier(node)
    if kind(node) == "Count" and kind(node.this) in ("Star", "Literal"):
        return "count"
    if kind(node) in (*AGGREGATES, *DIRECT, *PARTS, "Count") and kind(node.this) == "Column":
        return f"{fragment(node).partition('(')[0].lower()}_{identifier(node.this)}"
    return fragment(node).replace("\0", "")
