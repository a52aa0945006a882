"""Values that are cut into batches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.steps import counted

from rayforce_trio._values import _batches
from rayforce_trio._values._batches import BatchedValue, Pieces, batched_value
from rayforce_trio._values._columns import read_columns
from rayforce_trio._values._payloads import dict_of, i64, list_of, string, symbols, table_of, vector
from rayforce_trio._values._reader import NotColumns
from rayforce_trio._values._types import Type

ROWS = 5
COLUMNS = {
    "number": vector(Type.I64, ROWS, [bytes(range(8)) * ROWS], attributes=0x40),
    "flag": vector(Type.B8, ROWS, [b"\0\1\0\1\1"]),
    "guid": vector(Type.GUID, ROWS, [bytes(range(16)) * ROWS]),
    "symbol": symbols(["a", "bb", "", "dddd", "é"]),
    "string": vector(Type.STRING, ROWS, [string(text)[2:] for text in ["", "b", "cc", "", "é"]]),
    "list": list_of([i64(1), string("two"), symbols(["a", "b"]), list_of([i64(4)]), string("end")]),
}
TABLE = table_of(COLUMNS, list(COLUMNS.values()))
DICT = dict_of(symbols(COLUMNS), list_of(list(COLUMNS.values())))


WIDE = table_of(map(str, range(1000)), [vector(Type.U8, 2, [b"ab"])] * 1000)


def batched(payload: bytes) -> BatchedValue:
    return counted(batched_value(payload))[1]


def rows(value: BatchedValue, start: int, stop: int) -> bytes:
    pieces = Pieces()
    counted(value.cut(start, stop, pieces))
    return pieces.copy(0, len(pieces))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("payload", [TABLE, DICT], ids=["table", "dict"])
def test_batches_of_a_table_have_all_of_its_rows(payload: bytes, size: int) -> None:
    value = batched(payload)
    parts = [read_columns(rows(value, start, start + size)) for start in range(0, len(value), size)]
    expected = read_columns(payload)
    assert [row for part in parts for row in part.rows()] == list(expected.rows())
    assert {part.names for part in parts} == {expected.names}
    assert {str(part.schema) for part in parts} == {str(expected.schema)}
    assert [len(part) for part in parts[:-1]] == [size] * (len(parts) - 1)


def test_the_batch_of_all_rows_is_the_table() -> None:
    assert rows(batched(TABLE), 0, ROWS) == TABLE
    assert rows(batched(DICT), 0, ROWS) == TABLE


@pytest.mark.parametrize("name", [name for name in COLUMNS if name != "list"])
def test_a_batch_of_a_vector_is_a_vector(name: str) -> None:
    payload = COLUMNS[name]
    value = batched(payload)
    assert rows(value, 0, 10) == payload
    assert list(read_columns(rows(value, 1, 3)).rows()) == list(read_columns(payload).rows())[1:3]


def test_a_batch_without_rows_has_the_columns() -> None:
    empty = read_columns(rows(batched(TABLE), 0, 0))
    assert (len(empty), empty.schema) == (0, read_columns(TABLE).schema)


def test_a_table_without_columns_has_one_batch() -> None:
    empty = table_of([], [])
    value = batched(empty)
    assert len(value) == 0
    assert rows(value, 0, 10) == empty


def test_a_value_with_many_columns_is_read_and_cut_and_freed_in_steps() -> None:
    steps, value = counted(batched_value(WIDE))
    assert steps >= 1000
    for stop in 0, 1, 2:
        pieces = Pieces()
        steps, _ = counted(value.cut(0, stop, pieces))
        assert steps >= 1000 // 16
    assert pieces.copy(0, len(pieces)) == WIDE
    steps, _ = counted(value.release())
    assert steps >= 1000 // 16
    assert len(value) == 0


@pytest.mark.parametrize(
    "last", [list_of([i64(1)] * 5000), list_of([list_of([i64(1)] * 5000)])], ids=["flat", "nested"]
)
def test_the_end_of_a_long_value_is_found_in_steps(last: bytes) -> None:
    """It is the end of the column, whose position is not known."""
    value = batched(table_of(["list"], [list_of([last, last])]))
    for start, least in (0, 1), (1, 5000 // 300):
        pieces = Pieces()
        steps, _ = counted(value.cut(start, start + 1, pieces))
        assert steps >= least
        assert pieces.copy(0, len(pieces)) == table_of(["list"], [list_of([last])])


def test_what_the_columns_take() -> None:
    one_column = batched(COLUMNS["number"]).index_size
    assert batched(COLUMNS["symbol"]).index_size == one_column + 4 * (ROWS + 1)
    assert batched(WIDE).index_size == 1000 * one_column


def test_other_values_have_no_rows() -> None:
    with pytest.raises(NotColumns):
        batched(i64(1))


@given(st.lists(st.binary(max_size=5), min_size=1), st.integers(0, 30), st.integers(0, 30))
def test_any_part_of_pieces(added: list[bytes], start: int, stop: int) -> None:
    pieces = Pieces(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_batches, "_SHORT", 3)
        patch.setattr(_batches, "_JOINED", 5)
        for piece in added:
            pieces.add(piece)
    pieces.begin_with(b"<>")
    assert pieces.copy(start, stop) == b"".join([b"<>", *added])[start:stop]
