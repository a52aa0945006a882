"""ORDER BY, LIMIT and OFFSET."""

from dataclasses import dataclass, field

from ..._values._payloads import Buffer, call, i64, quoted, symbols
from ._program import Program, rows, select
from ._syntax import Node, integer_of, kind, only, unsupported
from ._values import Parameters, Value

_ALL_ROWS = 2**40  # the limit of OFFSET without LIMIT


@dataclass
class Sorting:
    """ORDER BY: keys from the first to the last, and computed columns that only sort."""

    keys: list[tuple[str, bool]] = field(default_factory=list)
    computed: dict[str, Buffer] = field(default_factory=dict)


def ordered_by(node: Node) -> list[Node]:
    """Return the items of ORDER BY."""
    order = node.args.get("order")
    if order is None:
        return []
    only(order, "expressions")
    for one in order.expressions:
        only(one, "this", "desc", "nulls_first")
    return list(order.expressions)


def add_key(sorting: Sorting, ordered: Node, value: Value, program: Program, *, payload: Buffer | None = None) -> None:
    """Add a key of ORDER BY.

    Args:
        value: the key; its column, if it has one, is in the table that is sorted.
        payload: the expression that computes the key before the table is sorted; the default is the value.
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


def limits(node: Node, parameters: Parameters) -> tuple[int, int] | None:
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


def sorted_and_cut(table: Buffer, sorting: Sorting, limit: tuple[int, int] | None) -> Buffer:
    """Return a table in the order of the keys, and of that the rows that are asked for.

    Sorting is stable: keys of one direction are sorted by together, from the last to the first.
    """
    runs: list[tuple[bool, list[str]]] = []
    for column, descending in sorting.keys:
        if not runs or runs[-1][0] != descending:
            runs.append((descending, []))
        runs[-1][1].append(column)
    take: dict[str, Buffer] = {} if limit is None else {"take": i64(sum(limit))}  # the engine then sorts a part
    for place, (descending, columns) in reversed(list(enumerate(runs))):
        clauses: dict[str, Buffer] = {"desc" if descending else "asc": symbols(columns)}
        table = select(table, clauses | (take if place == 0 else {}), {})
    if limit is None:
        return table
    if not limit[0]:
        return table if runs else select(table, take, {})
    return call("take", table, quoted(rows(*limit)))
