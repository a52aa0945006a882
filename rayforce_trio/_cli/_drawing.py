"""Tables drawn for people: the columns that fit the width, and the first and last rows."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from .. import Columns
from .._text import escape_controls
from ._console import counted
from ._fields import item_texts

MAX_ROWS = 40
"""How many rows of a table are drawn if the output is not a terminal."""

_MAX_CELL_WIDTH = 60
_NUMERIC = frozenset({"U8", "I16", "I32", "I64", "F32", "F64"})
_NULLS = {"I16": "0Nh", "I32": "0Ni", "I64": "0Nl", "F32": "0Ne", "F64": "0Nf", "DATE": "0Nd", "TIME": "0Nt"}
_NULLS |= {"TIMESTAMP": "0Np", "GUID": "0Ng", "TIMESPAN": "0Nn"}
_FLOAT_DIGITS = 15  # significant digits of a float; the 16th and 17th are often noise, as in 0.30000000000000004
_ASCII = str.maketrans("┌┬┐├┼┤└┴┘│─…", "+++++++++|-~")


@dataclass(frozen=True, slots=True)
class Space:
    """The space for a table; `None` means no limit.

    Attributes:
        width: characters of a line.
        rows: rows of a table, at least 2.
        cell_width: characters of a cell.
        ascii: draw with ASCII characters.
    """

    width: int | None = None
    rows: int | None = MAX_ROWS
    cell_width: int = _MAX_CELL_WIDTH
    ascii: bool = False


@dataclass(frozen=True, slots=True)
class _Column:
    """A column as texts: its heading, which may have several lines, and its shown rows."""

    heading: Sequence[str]
    cells: Sequence[str]
    is_numeric: bool
    width: int


def draw_columns(columns: Columns, space: Space) -> str:
    """Return a table with the names and types of its columns, and a line with its number of rows.

    Raises:
        RayforceConversionError: a value cannot be represented.
    """
    total = len(columns)
    limit = total if space.rows is None or total <= space.rows else space.rows
    head, tail = (total, 0) if limit == total else (limit - limit // 2, limit // 2)
    shown: list[_Column] = []
    width = 1
    for name, kind in columns.schema.items():
        texts = _texts(columns, name, kind, [slice(0, head), slice(total - tail, total)])
        if head < total:
            texts.insert(head, "…")
        column = _column([name, kind], texts, space, is_numeric=kind in _NUMERIC)
        width += column.width + 3
        if space.width is not None and width > space.width and shown:
            break
        shown.append(column)
    counts = [_count(total, "row", limit)]
    if len(shown) < len(columns.names):
        counts.append(_count(len(columns.names), "column", len(shown)))
    return f"{_lines(shown, space)}{', '.join(counts)}\n"


def draw_rows(headings: Sequence[str], rows: Sequence[Sequence[str]], space: Space) -> str:
    """Return a table of texts, without types and without a line with its number of rows."""
    columns = [
        _column([heading], [row[index] for row in rows], space, is_numeric=False)
        for index, heading in enumerate(headings)
    ]
    return _lines(columns, space)


def _count(total: int, noun: str, shown: int) -> str:
    count = counted(total, noun)
    return count if shown == total else f"{count} ({shown:,} shown)"


def _column(heading: Sequence[str], cells: Sequence[str], space: Space, *, is_numeric: bool) -> _Column:
    limit = space.cell_width if space.width is None else max(min(space.cell_width, space.width - 4), 1)
    heading, cells = ([_cut(escape_controls(text), limit) for text in texts] for texts in (heading, cells))
    return _Column(heading, cells, is_numeric, max(map(_width, [*heading, *cells])))


def _lines(columns: Sequence[_Column], space: Space) -> str:
    lines = [_rule("┌┬┐", columns)]
    lines += [_row([column.heading[index] for column in columns], columns) for index in range(len(columns[0].heading))]
    lines.append(_rule("├┼┤", columns))
    lines += [_row(cells, columns) for cells in zip_longest(*(column.cells for column in columns), fillvalue="")]
    lines.append(_rule("└┴┘", columns))
    text = "".join(f"{line}\n" for line in lines)
    return text.translate(_ASCII) if space.ascii else text


def _rule(corners: str, columns: Sequence[_Column]) -> str:
    return corners[0] + corners[1].join("─" * (column.width + 2) for column in columns) + corners[2]


def _row(cells: Sequence[str], columns: Sequence[_Column]) -> str:
    padded = []
    for text, column in zip(cells, columns, strict=True):
        padding = " " * (column.width - _width(text))
        padded.append(f" {padding}{text} " if column.is_numeric else f" {text}{padding} ")
    return f"│{'│'.join(padded)}│"


def _texts(columns: Columns, name: str, kind: str, parts: Sequence[slice]) -> list[str]:
    """Return the items of some parts of a column as the engine writes them, but floats with up to 15 digits."""
    return [
        _text(text, kind)
        for part in parts
        if part.start < part.stop
        for text in item_texts(Columns({name: columns.raw[name]}), part.start, part.stop)
    ]


def _text(text: str | None, kind: str) -> str:
    if text is None:
        return _NULLS.get(kind, "")
    if kind in ("F32", "F64"):
        return _float_text(text)
    if kind == "DATE":
        return text.replace("-", ".")
    if kind == "TIMESTAMP":
        return text.removesuffix("Z").replace("-", ".").replace("T", "D")
    return text


def _float_text(text: str) -> str:
    """Return a float with at most 15 significant digits, and with a decimal point."""
    return text if len(text) <= _FLOAT_DIGITS else _with_point(f"{float(text):.{_FLOAT_DIGITS}g}")


def _with_point(text: str) -> str:
    return text if any(character in text for character in ".en") else f"{text}.0"


def _cut(text: str, width: int) -> str:
    if _width(text) <= width:
        return text
    while _width(text) >= width and text:
        text = text[: max(min(len(text) - 1, width), 0)]
    return f"{text}…"


def _width(text: str) -> int:
    """Return how many cells of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(_character_width(character) for character in text)


def _character_width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
