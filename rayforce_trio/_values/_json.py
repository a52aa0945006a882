"""Values in JSON, as `rayforce.json.v1` has them: see docs/reference/protocol.md.

A value in JSON is an object with its type. A reply is written piece by piece, so that an event loop can do other work
in between. A value that a client sends may also be a plain JSON value.
"""

import codecs
import itertools
import json
import math
import re
import struct
from collections.abc import Callable, Generator, Iterator
from json.encoder import encode_basestring
from types import MappingProxyType
from typing import Any, Literal, NoReturn, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import RayforceConversionError, RayforceValueError
from ._cells import json_cells
from ._decoding import to_vector
from ._payloads import NULL, Buffer, dict_of, list_of, vector
from ._python import MAX_DEPTH, encode_value, payload_of_items
from ._reader import FixedColumn, ListColumn, PayloadCursor, RawColumn, TextColumn, UnknownType
from ._render import render
from ._scalars import INT_MAX
from ._sequences import EXACT_FLOAT, concatenated, texts_of, vector_of
from ._types import DTYPES, EPOCH_DAYS, QUOTED, Type
from ._vectors import NULL_VALUES, FixedWidth, Vector, vector_items, vector_payload

P = ParamSpec("P")
T = TypeVar("T")

Steps = Generator[None, None, T]
"""Work that is done in steps of about `WORK_PER_PIECE`: it yields between them, and returns its result."""

Integers = Literal["auto", "number", "string"]
"""The form of I64 values: strings if one of them is beyond 2**53, always numbers, or always strings."""

WORK_PER_PIECE = 100
"""The work that writes one piece. The unit is about a microsecond, measured on a processor of 2023."""

_VALUE_WORK = 10  # of a value that is not in a vector
_SLICE_WORK = 12  # of a part of a vector, beside its items
_TEXT_WORK = 40  # of a part of a vector of symbols or strings, beside its items
_ATOMS_WORK = 20  # of atoms of a list that are converted together, beside those of each atom
_ATOM_WORK = 6
_LAMBDA_WORK = 60
_BYTE_WORK = 0.01  # of texts
_CHECK_WORK = 0.002  # of an integer that is compared with 2**53
_ATOMS_PER_PIECE = 12
_PLAIN_AT_ONCE = 500  # items of a list that a client has sent
_READ_AT_ONCE = 20  # items of a vector that a client has sent
_SHOWN_CHARACTERS = 100  # of a value in an error
_TEXT_PER_PIECE = 10_000  # bytes of symbols or strings, which become at most 60,000 characters
_SEARCHED_AT_ONCE = 1 << 14  # bytes, for the ends of symbols and strings
_CHECKED_AT_ONCE = 1 << 14  # integers
_VECTOR_HEADER = 10  # bytes: type code, attributes and count
_LENGTH = struct.Struct("<q")
_ATOM_HEADER = 2  # bytes: type code and attributes
_FIRST_ATOM = 0x80  # the type codes of atoms are negative
_NULL_ATOM = 1  # the attribute
_ERROR_CODE_SIZE = 8
_SEQUENCES = frozenset({Type.LIST, Type.SYMBOL, Type.STRING, *DTYPES})
_BUILTINS = range(Type.FUNCTION + 1, Type.FUNCTION + 4)  # by the number of their arguments

_DAY = 86_400 * 10**9  # nanoseconds
_DATE = re.compile(r"-?\d{3,7}-\d\d-\d\d")
_TIME = re.compile(r"(-?)(\d{2,4}):([0-5]\d):([0-5]\d)(?:\.(\d{1,3}))?")
_CLOCK = r"([01]\d|2[0-3]):([0-5]\d):([0-5]\d)(?:\.(\d{1,9}))?"
_TIMESTAMP = re.compile(rf"(\d{{4}}-\d\d-\d\d)[T ]{_CLOCK}(Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)?")
_TIMESPAN = re.compile(rf"(-?)(\d{{1,10}})D{_CLOCK}")
_TOO_LARGE = 'a number that a float can represent; write {"type": "f64", "value": "Infinity"} for infinity'
_GUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_DIGITS = re.compile(r"-?[0-9]{1,19}")


def json_pieces(payload: Buffer, *, integers: Integers = "auto") -> Iterator[str]:
    """Yield a value in JSON, in pieces that take about `WORK_PER_PIECE` each.

    Args:
        payload: a value in the wire format, which must not change meanwhile.
        integers: the form of I64 values.

    Raises:
        RayforceConversionError: the payload is damaged, or contains a value that has no form in JSON.
    """
    parts: list[str] = []
    for part in _Writer(payload, integers).whole():
        if part:
            parts.append(part)
        else:
            yield "".join(parts)
            parts.clear()
    yield "".join(parts)


def payload_of_json(data: object) -> bytes:
    """Return the payload of a value that a client has sent.

    Args:
        data: the value, as the `json` module reads it. An object must have a type, as `json_pieces` writes it. A plain
            integer is an I64, a number with a fraction an F64, a string a symbol, and an array a vector or a list.

    Raises:
        RayforceValueError: the value is not valid, or cannot be represented; the error says where it is.
    """
    return all_steps(payload_steps(data))


def payload_steps(data: object) -> Steps[bytes]:
    """Do what `payload_of_json` does, in steps: yield between them, and return the payload."""
    return bytes((yield from _plain(data, "", 0)))


def all_steps(steps: Steps[T]) -> T:
    """Take all steps at once, and return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


class _Writer:
    """Writes one value. A piece ends at each empty part."""

    def __init__(self, payload: Buffer, integers: Integers) -> None:
        self._payload = payload
        self._cursor = PayloadCursor(payload, _SEARCHED_AT_ONCE)
        self._integers = integers
        self._work = 0.0  # in the current piece

    def _is_full(self, work: float) -> bool:
        """Count the next work. Return whether it is too much for the current piece, which the caller has to end."""
        before = self._work
        self._work += work
        if before and self._work > WORK_PER_PIECE:
            self._work = work
            return True
        return False

    def _end_piece(self) -> str:
        self._work = 0.0
        return ""

    def whole(self) -> Iterator[str]:
        yield from self._value(0)
        if not self._cursor.is_at_end:
            raise RayforceConversionError("the reply is damaged: there are bytes after the end of the value")

    def _value(self, depth: int) -> Iterator[str]:
        if depth > MAX_DEPTH:
            raise RayforceConversionError(f"the value is nested more than {MAX_DEPTH} levels deep")
        cursor = self._cursor
        if self._is_full(_VALUE_WORK):
            yield ""
        try:
            code = cursor.type_code()
            if code == Type.NULL:
                yield '{"type":"null","value":null}'
            elif code == Type.ERROR:
                error = cursor.some_bytes(_ERROR_CODE_SIZE).rstrip(b"\0").decode("ascii", "replace")
                yield f'{{"type":"error","code":{encode_basestring(error)}}}'
            elif code < 0:
                yield from self._atom(*cursor.atom_view(code))
            elif code == Type.LIST:
                yield from self._list(depth)
            elif code == Type.DICT:
                cursor.take(1)  # attributes
                yield '{"type":"dict","keys":'
                yield from self._value(depth + 1)
                yield ',"values":'
                yield from self._value(depth + 1)
                yield "}"
            elif code == Type.TABLE:
                cursor.take(1)
                yield from self._table(depth)
            elif code in _BUILTINS:
                text = cursor.terminated().decode("utf-8", "replace")
                yield f'{{"type":"function","text":{encode_basestring(text)}}}'
            elif code == Type.FUNCTION:
                yield from self._lambda(depth)
            else:
                found = yield from self._vector(code)
                yield from self._items('{"type":"vector","of":', found)
        except UnknownType as unknown:
            raise RayforceConversionError(
                f"the result contains a value of type code {unknown.code}, which has no form in JSON"
            ) from None

    def _atom(self, kind: Type, data: Buffer | None) -> Iterator[str]:
        name = kind.name.lower()
        if data is None:
            yield f'{{"type":"{name}","value":null}}'
            return
        if kind in (Type.SYMBOL, Type.STRING):
            yield f'{{"type":"{name}","value":'
            yield from self._text(data)
            yield "}"
            return
        if self._is_full(_ATOMS_WORK):
            yield ""
        yield from self._fixed_atoms(kind, [bytes(data)])

    def _lambda(self, depth: int) -> Iterator[str]:
        """Write the beginning of the text of a lambda: attributes, parameters and a body, which are not written."""
        cursor = self._cursor
        start = cursor.position - 1
        cursor.take(1)
        for part in itertools.chain(self._value(depth + 1), self._value(depth + 1)):
            if not part:
                yield part
        if self._is_full(_LAMBDA_WORK):
            yield ""
        text = render(memoryview(self._payload)[start : cursor.position])
        yield f'{{"type":"function","text":{encode_basestring(text)}}}'

    def _list(self, depth: int) -> Iterator[str]:
        yield '{"type":"list","values":['
        yield from self._list_items(self._cursor.header(1)[1], depth)
        yield "]}"

    def _list_items(self, count: int, depth: int) -> Iterator[str]:
        written = 0
        while written < count:
            if written:
                yield ","
            if number := self._same_atoms(min(count - written, _ATOMS_PER_PIECE)):
                if self._is_full(_ATOMS_WORK + _ATOM_WORK * number):
                    yield ""
                yield ",".join(self._some_atoms(number))
                written += number
            else:
                yield from self._value(depth + 1)
                written += 1

    def _same_atoms(self, most: int) -> int:
        """Return how many atoms of the same type of fixed width come next; 0 if the next value is no such atom."""
        code = self._cursor.next_code
        if code is None or -code not in DTYPES:
            return 0
        return self._cursor.atoms_ahead(2 + DTYPES[Type(-code)].itemsize, most)

    def _some_atoms(self, number: int) -> list[str]:
        """Read and convert the next atoms, which have the same type of fixed width."""
        cursor = self._cursor
        found = [cursor.atom(cursor.type_code()) for _ in range(number)]
        return self._fixed_atoms(found[0][0], [data for _, data in found])

    def _fixed_atoms(self, kind: Type, data: list[bytes | None]) -> list[str]:
        """Return atoms of one type of fixed width, `None` for null."""
        blank = bytes(DTYPES[kind].itemsize)
        values = np.frombuffer(b"".join([blank if item is None else item for item in data]), DTYPES[kind])
        marked = kind in NULL_VALUES  # an atom has no mark for null, unlike a vector
        cells = json_cells(to_vector("the value", FixedColumn(kind, marked, values)))
        beginning = f'{{"type":"{kind.name.lower()}",'
        found = [
            f'{beginning}"value":{"null" if item is None else cell}}}' for item, cell in zip(data, cells, strict=True)
        ]
        if kind is Type.I64 and self._integers != "number":
            for index, cell in enumerate(cells):
                if (
                    data[index] is not None
                    and cell != "null"
                    and (self._integers == "string" or abs(int(cell)) > EXACT_FLOAT)
                ):
                    found[index] = f'{beginning}"encoding":"string","value":"{cell}"}}'
        return found

    def _table(self, depth: int) -> Iterator[str]:
        cursor = self._cursor
        code = cursor.type_code()
        names = (yield from self._vector(code)) if code == Type.SYMBOL else self._damaged("columns without names")
        if cursor.type_code() != Type.LIST or cursor.header(1)[1] != len(names):
            self._damaged("a table without a column for each name")
        lengths = set()
        separator = '{"type":"table","columns":['
        for number in range(len(names)):
            yield f'{separator}{{"name":'
            yield from self._text(names.text(number))
            yield ',"type":'
            separator = ","
            code = cursor.type_code()
            if code == Type.LIST:
                _, count = cursor.header(1)
                yield '"list","values":['
                yield from self._list_items(count, depth)
                yield "]}"
                lengths.add(count)
            elif code < 0:
                self._damaged("a column that is a single value")
            else:
                column = yield from self._vector(code)
                yield from self._items("", column)
                lengths.add(len(column))
        if len(lengths) > 1:
            self._damaged("columns of different lengths")
        yield f'{separator if not len(names) else ""}],"length":{lengths.pop() if lengths else 0}}}'

    def _vector(self, code: int) -> Any:
        """Read a vector after its type code, and return it."""
        if self._is_full(_SLICE_WORK if code in DTYPES else _TEXT_WORK):
            yield ""
        steps = self._cursor.vector_items(code, 0)
        try:
            while True:
                next(steps)
                yield self._end_piece()
        except StopIteration as end:
            return end.value

    def _items(self, beginning: str, column: RawColumn) -> Iterator[str]:
        """Write a vector after `beginning`: the type of its items, the items, and the end of the object."""
        assert not isinstance(column, ListColumn)
        yield f'{beginning}"{column.type.name.lower()}",'
        yield from self._cells('"values":[', column)
        yield "]}"

    def _cells(self, key: str, column: FixedColumn | TextColumn) -> Iterator[str]:
        as_strings = False
        if column.type is Type.I64:
            as_strings = yield from self._needs_strings(column)
        yield f'"encoding":"string",{key}' if as_strings else key
        is_text = isinstance(column, TextColumn)
        slice_work, item_work = _TEXT_WORK if is_text else _SLICE_WORK, _ITEM_WORK[column.type]
        most = int((WORK_PER_PIECE - slice_work) / item_work)
        start = 0
        while start < len(column):
            stop = min(start + most, len(column))
            work = slice_work + item_work * (stop - start)
            if isinstance(column, TextColumn):
                last = int(np.searchsorted(column.starts, column.starts[start] + _TEXT_PER_PIECE, "right")) - 1
                stop = max(min(stop, last), start + 1)
                work += _BYTE_WORK * min(column.starts[stop] - column.starts[start], _TEXT_PER_PIECE)
            if self._is_full(work):
                yield ""
            if start:
                yield ","
            if isinstance(column, TextColumn) and column.starts[stop] - column.starts[start] > _TEXT_PER_PIECE:
                yield from self._text(column.text(start))
            else:
                cells = json_cells(to_vector("the value", column.slice(start, stop)))
                if as_strings:
                    cells = [cell if cell == "null" else f'"{cell}"' for cell in cells]
                yield ",".join(cells)
            start = stop

    def _needs_strings(self, column: FixedColumn | TextColumn) -> Any:
        if self._integers != "auto":
            return self._integers == "string"
        for start in range(0, len(column), _CHECKED_AT_ONCE):
            if self._is_full(_SLICE_WORK + _CHECK_WORK * min(len(column) - start, _CHECKED_AT_ONCE)):
                yield ""
            part = to_vector("the value", column.slice(start, start + _CHECKED_AT_ONCE))
            assert isinstance(part, FixedWidth)
            numbers = part.values if part.nulls is None else part.values[~part.nulls]
            if len(numbers) and (numbers.max() > EXACT_FLOAT or numbers.min() < -EXACT_FLOAT):
                return True
        return False

    def _text(self, data: Buffer) -> Iterator[str]:
        """Write a text of any length; bytes that are not UTF-8 become U+FFFD."""
        for part in text_pieces(data):
            if self._is_full(_BYTE_WORK * min(len(data), _TEXT_PER_PIECE)):
                yield ""
            yield part

    def _damaged(self, problem: str) -> NoReturn:
        raise RayforceConversionError(f"the reply is damaged: it contains {problem}")


def text_pieces(data: Buffer) -> Iterator[str]:
    """Yield a text in JSON, in pieces of at most `_TEXT_PER_PIECE` bytes; bytes that are not UTF-8 become U+FFFD."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    beginning = '"'
    for start in range(0, len(data), _TEXT_PER_PIECE):
        stop = start + _TEXT_PER_PIECE
        written = encode_basestring(decoder.decode(bytes(data[start:stop]), final=stop >= len(data)))
        yield f"{beginning}{written[1:-1]}"
        beginning = ""
    yield f'{beginning}"'


def _plain(data: object, where: str, depth: int) -> Steps[Buffer]:
    """Return the payload of a plain value or of one with a type."""
    if isinstance(data, dict):
        return (yield from _typed(data, where, depth))
    if isinstance(data, list):
        return (yield from _plain_list(data, where, depth))
    return _encoded(data, where)


def _plain_list(data: list[Any], where: str, depth: int) -> Steps[Buffer]:
    if depth > MAX_DEPTH:
        raise RayforceValueError(f"values are nested more than {MAX_DEPTH} levels deep")
    if (found := (yield from _plain_vector(data))) is not None:
        return _valid(vector_payload, found, where)
    payloads = []
    for index, item in enumerate(data):
        payloads.append((yield from _plain(item, f"{where}[{index}]", depth + 1)))
        yield
    return _valid(payload_of_items, payloads, where)


def _plain_vector(data: list[Any]) -> Steps[Vector | None]:
    """Read plain values of one type as a vector; `None` if they have to be read one by one, or one is not valid."""
    classes = {*map(type, data)}
    parts = []
    for start in range(0, len(data), _PLAIN_AT_ONCE):
        part = data[start : start + _PLAIN_AT_ONCE]
        if (read := vector_of(part, classes)) is None:
            return None
        if isinstance(read, FixedWidth) and read.type is Type.F64 and np.isinf(read.values).any():
            return None
        parts.append(read)
        yield
    return concatenated(parts) if parts else None


def _encoded(data: object, where: str) -> Buffer:
    if isinstance(data, float) and math.isinf(data):
        raise _invalid(where, f"{json.dumps(data)} is not {_TOO_LARGE}")
    name = f"the value{where}" if not where or where.startswith("[") else where
    return _valid(encode_value, data, name, lambda _: None)


def _valid(encode: Callable[P, Buffer], *args: P.args, **kwargs: P.kwargs) -> Buffer:
    try:
        return encode(*args, **kwargs)
    except RayforceConversionError as error:
        raise RayforceValueError(str(error)) from None


def _typed(data: dict[str, Any], where: str, depth: int) -> Steps[Buffer]:
    """Return the payload of a value with a type."""
    if depth > MAX_DEPTH:
        raise RayforceValueError(f"values are nested more than {MAX_DEPTH} levels deep")
    kind = data.get("type")
    if kind == "null":
        return NULL
    if kind == "vector":
        return (yield from _vector_of(data.get("of"), _array(data, "values", where), f"{where}.values"))
    if kind == "list":
        return (yield from _list_of(_array(data, "values", where), f"{where}.values", depth))
    if kind == "dict":
        if "keys" not in data or "values" not in data:
            raise _invalid(where, "a dict must have keys and values")
        keys = yield from _plain(data["keys"], f"{where}.keys", depth + 1)
        values = yield from _plain(data["values"], f"{where}.values", depth + 1)
        _check_lengths(keys, values, where)
        return dict_of(keys, values)
    if kind == "table":
        return (yield from _table_of(_array(data, "columns", where), where, depth))
    if not isinstance(kind, str) or kind not in _TYPES:
        raise _invalid(where, f"an object must have a type, one of {', '.join([*_TYPES, *_COMPOUND])}")
    if "value" not in data:
        raise _invalid(where, f"a value of type {kind} must have the key value")
    value = data["value"]
    payload = yield from _vector_of(kind, [value], f"{where}.value")
    code = _TYPES[kind]
    attributes = QUOTED if code is Type.SYMBOL else _NULL_ATOM if value is None else 0
    return bytes([-code & 0xFF, attributes]) + payload[_VECTOR_HEADER:]


def _check_lengths(keys: Buffer, values: Buffer, where: str) -> None:
    """Refuse a dict that is not one. A native engine would answer the whole request with null."""
    for name, payload in (("keys", keys), ("values", values)):
        if payload[0] >= _FIRST_ATOM:
            raise _invalid(where, f"the {name} of a dict must be an array, a vector or a list")
    lengths = [_LENGTH.unpack_from(payload, _ATOM_HEADER)[0] for payload in (keys, values) if payload[0] in _SEQUENCES]
    if len({*lengths}) > 1:
        raise _invalid(where, f"the keys and the values have different lengths: {lengths[0]} and {lengths[1]}")


def _list_of(values: list[Any], where: str, depth: int) -> Steps[Buffer]:
    payloads = []
    for index, value in enumerate(values):
        payloads.append((yield from _plain(value, f"{where}[{index}]", depth + 1)))
        yield
    return list_of(payloads)


def _table_of(columns: list[Any], where: str, depth: int) -> Steps[Buffer]:
    names, payloads, lengths = [], [], set()
    for index, column in enumerate(columns):
        place = f"{where}.columns[{index}]"
        if not isinstance(column, dict) or not isinstance(column.get("name"), str) or "type" not in column:
            raise _invalid(place, "a column must have a name, a type and values")
        values = _array(column, "values", place)
        names.append(column["name"])
        lengths.add(len(values))
        if column["type"] == "list":
            payloads.append((yield from _list_of(values, f"{place}.values", depth)))
        else:
            payloads.append((yield from _vector_of(column["type"], values, f"{place}.values")))
        yield
    if len(lengths) > 1:
        raise _invalid(where, f"the columns have different lengths: {', '.join(map(str, sorted(lengths)))}")
    heads = yield from _vector_of("symbol", names, f"{where}.columns")
    return b"".join([bytes([Type.TABLE, 0]), heads, list_of(payloads)])


def _vector_of(kind: object, values: list[Any], where: str) -> Steps[bytes]:
    """Return the payload of a vector."""
    if not isinstance(kind, str) or kind not in _TYPES:
        raise _invalid(where, f"the type of the items must be one of {', '.join(_TYPES)}")
    code = _TYPES[kind]
    nulls = np.fromiter((value is None for value in values), np.bool_, len(values))
    found = nulls if nulls.any() else None
    try:
        if code in (Type.SYMBOL, Type.STRING):
            texts = texts_of((yield from _read(_text, values, "")), code, found)
            if code is Type.STRING and found is None:  # an empty string is not null here
                return vector(code, len(values), [vector_items(texts, where)[0]])
            return vector_payload(texts, where)
        items = yield from _read(_READERS[code], values, _BLANKS[code])
        return vector_payload(FixedWidth(code, _array_of(code, items), found), where)
    except _Unreadable as error:
        raise _invalid(f"{where}[{error.index}]", f"{_beginning(error.value)} is not {error.expected}") from None
    except UnicodeEncodeError:
        raise _invalid(where, "a text must not contain a lone surrogate, which UTF-8 cannot encode") from None
    except RayforceConversionError as error:
        raise RayforceValueError(str(error).lstrip(".")) from None


def _read(reader: Callable[[object], Any], values: list[Any], blank: Any) -> Steps[list[Any]]:
    items: list[Any] = []
    for start in range(0, len(values), _READ_AT_ONCE):
        if start:
            yield
        part = values[start : start + _READ_AT_ONCE]
        try:
            items += [blank if value is None else reader(value) for value in part]
        except _Unreadable as error:
            error.index = start + next(index for index, value in enumerate(part) if value is error.value)
            raise
    return items


def _beginning(data: object) -> str:
    """Return the first characters of data in JSON. It may be nested too deeply to be written as a whole."""
    parts = json.JSONEncoder().iterencode(data)  # every level begins with a part of its own
    return "".join(itertools.islice(parts, _SHOWN_CHARACTERS))[:_SHOWN_CHARACTERS]


class _Unreadable(Exception):
    def __init__(self, value: object, expected: str) -> None:
        super().__init__(expected)
        self.value = value
        self.expected = expected
        self.index = 0  # in the vector


def _array(data: dict[str, Any], key: str, where: str) -> list[Any]:
    values = data.get(key)
    if not isinstance(values, list):
        raise _invalid(where, f"{key} must be an array")
    return values


def _invalid(where: str, problem: str) -> RayforceValueError:
    return RayforceValueError(f"{where.lstrip('.')}: {problem}" if where else problem)


def _array_of(code: Type, items: list[Any]) -> NDArray[Any]:
    if code is Type.GUID:
        return np.frombuffer(b"".join(items), DTYPES[code])
    return np.array(items, DTYPES[code])


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _Unreadable(value, "a string")
    return value


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise _Unreadable(value, "true or false")
    return value


def _integer_of(low: int, high: int, name: str) -> Callable[[object], int]:
    def read(value: object) -> int:
        number = int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else value
        if type(number) is not int or not low <= number <= high:
            raise _Unreadable(value, f"an integer of type {name}, {low} to {high}")
        return number

    return read


def _float_of(layout: str, name: str) -> Callable[[object], float]:
    pack = struct.Struct(layout).pack

    def read(value: object) -> float:
        if value in ("Infinity", "-Infinity"):
            return float(str(value))
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _Unreadable(value, 'a number, "Infinity" or "-Infinity"')
        try:
            pack(value)  # rounds like numpy, which only warns of a number that is too large
        except (OverflowError, struct.error):
            raise _Unreadable(value, f"a number that a float of type {name} can represent") from None
        if math.isinf(value):
            raise _Unreadable(value, _TOO_LARGE)
        return float(value)

    return read


def _matched(pattern: re.Pattern[str], value: object, expected: str) -> re.Match[str]:
    found = pattern.fullmatch(value) if isinstance(value, str) and value.isascii() else None
    if found is None:
        raise _Unreadable(value, expected)
    return found


def _days(text: str, value: object, expected: str) -> int:
    try:
        return int(np.datetime64(text, "D").astype(np.int64)) - EPOCH_DAYS
    except ValueError:
        raise _Unreadable(value, expected) from None


def _date(value: object) -> int:
    expected = "a date such as 2026-01-31"
    days = _days(_matched(_DATE, value, expected)[0], value, expected)
    if abs(days) >= 2**31:
        raise _Unreadable(value, expected)
    return days


def _time(value: object) -> int:
    expected = "a time such as 13:30:00.250"
    sign, hours, minutes, seconds, fraction = _matched(_TIME, value, expected).groups()
    milliseconds = ((int(hours) * 60 + int(minutes)) * 60 + int(seconds)) * 1000 + int((fraction or "0").ljust(3, "0"))
    if milliseconds >= 2**31:
        raise _Unreadable(value, expected)
    return -milliseconds if sign else milliseconds


def _timestamp(value: object) -> int:
    expected = "a timestamp such as 2026-01-31T13:30:00.123456789Z"
    day, hours, minutes, seconds, fraction, zone = _matched(_TIMESTAMP, value, expected).groups()
    offset = 0 if zone in (None, "Z") else (int(zone[1:3]) * 60 + int(zone[4:])) * (-60 if zone[0] == "-" else 60)
    days = _days(day, value, expected)
    return _nanoseconds(days, hours, minutes, seconds, fraction, value, expected, offset=offset)


def _timespan(value: object) -> int:
    expected = "a timespan such as 1D02:03:04.000000005"
    sign, days, hours, minutes, seconds, fraction = _matched(_TIMESPAN, value, expected).groups()
    nanoseconds = _nanoseconds(int(days), hours, minutes, seconds, fraction, value, expected)
    return -nanoseconds if sign else nanoseconds


def _nanoseconds(
    days: int,
    hours: str,
    minutes: str,
    seconds: str,
    fraction: str | None,
    value: object,
    expected: str,
    *,
    offset: int = 0,
) -> int:
    """Return the time in nanoseconds; `offset` is that of the time zone from UTC, in seconds."""
    clock = ((int(hours) * 60 + int(minutes)) * 60 + int(seconds) - offset) * 10**9
    nanoseconds = days * _DAY + clock + int((fraction or "0").ljust(9, "0"))
    if abs(nanoseconds) > INT_MAX:
        raise _Unreadable(value, f"{expected}, between 1707-09-22 and 2292-04-10")
    return nanoseconds


def _guid(value: object) -> bytes:
    found = _matched(_GUID, value, "a GUID such as 123e4567-e89b-12d3-a456-426614174000")
    return bytes.fromhex(found[0].replace("-", ""))


_ITEM_WORK: MappingProxyType[Type, float] = MappingProxyType(
    {
        Type.B8: 0.1,
        Type.U8: 0.2,
        Type.I16: 0.2,
        Type.I32: 0.2,
        Type.I64: 0.2,
        Type.F32: 1.3,
        Type.F64: 0.6,
        Type.DATE: 0.6,
        Type.TIME: 0.7,
        Type.TIMESTAMP: 0.6,
        Type.TIMESPAN: 1.6,
        Type.GUID: 1.2,
        Type.SYMBOL: 0.13,
        Type.STRING: 0.13,
    }
)
"""The work that writes an item of a vector. Each byte of a text is `_BYTE_WORK` in addition."""

_COMPOUND = ("vector", "list", "dict", "table", "null")
_TYPES: MappingProxyType[str, Type] = MappingProxyType(
    {code.name.lower(): code for code in (*DTYPES, Type.SYMBOL, Type.STRING)}
)
_BLANKS: MappingProxyType[Type, Any] = MappingProxyType(
    {code: bytes(16) if code is Type.GUID else 0 for code in DTYPES}
)
_READERS: MappingProxyType[Type, Callable[[object], Any]] = MappingProxyType(
    {
        Type.B8: _boolean,
        Type.U8: _integer_of(0, 255, "u8"),
        Type.I16: _integer_of(1 - 2**15, 2**15 - 1, "i16"),
        Type.I32: _integer_of(1 - 2**31, 2**31 - 1, "i32"),
        Type.I64: _integer_of(-INT_MAX, INT_MAX, "i64"),
        Type.F32: _float_of("<f", "f32"),
        Type.F64: _float_of("<d", "f64"),
        Type.DATE: _date,
        Type.TIME: _time,
        Type.TIMESTAMP: _timestamp,
        Type.TIMESPAN: _timespan,
        Type.GUID: _guid,
    }
)
