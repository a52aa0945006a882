"""Values that are cut into batches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayforce_trio._values._batches import BatchedValue, BatchReader, Pieces
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


def batched(payload: bytes) -> BatchedValue:
    reader = BatchReader(payload)
    while not reader.step():
        pass
    return reader.result()


def whole(pieces: Pieces) -> bytes:
    return pieces.copy(0, len(pieces))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("payload", [TABLE, DICT], ids=["table", "dict"])
def test_batches_of_a_table_have_all_of_its_rows(payload: bytes, size: int) -> None:
    value = batched(payload)
    parts = [read_columns(whole(value.batch(start, start + size))) for start in range(0, len(value), size)]
    expected = read_columns(payload)
    assert [row for part in parts for row in part.rows()] == list(expected.rows())
    assert {part.names for part in parts} == {expected.names}
    assert {str(part.schema) for part in parts} == {str(expected.schema)}
    assert [len(part) for part in parts[:-1]] == [size] * (len(parts) - 1)


def test_the_batch_of_all_rows_is_the_table() -> None:
    assert whole(batched(TABLE).batch(0, ROWS)) == TABLE
    assert whole(batched(DICT).batch(0, ROWS)) == TABLE


@pytest.mark.parametrize("name", [name for name in COLUMNS if name != "list"])
def test_a_batch_of_a_vector_is_a_vector(name: str) -> None:
    payload = COLUMNS[name]
    value = batched(payload)
    assert whole(value.batch(0, 10)) == payload
    assert list(read_columns(whole(value.batch(1, 3))).rows()) == list(read_columns(payload).rows())[1:3]


def test_a_batch_without_rows_has_the_columns() -> None:
    empty = read_columns(whole(batched(TABLE).batch(0, 0)))
    assert (len(empty), empty.schema) == (0, read_columns(TABLE).schema)


def test_what_the_positions_take() -> None:
    assert batched(COLUMNS["number"]).index_size == 0
    assert batched(COLUMNS["symbol"]).index_size == 4 * (ROWS + 1)


def test_other_values_have_no_rows() -> None:
    with pytest.raises(NotColumns):
        batched(i64(1))


@given(st.lists(st.binary(max_size=5), min_size=1), st.integers(0, 30), st.integers(0, 30))
def test_any_part_of_pieces(pieces: list[bytes], start: int, stop: int) -> None:
    assert Pieces(list(pieces)).copy(start, stop) == b"".join(pieces)[start:stop]
