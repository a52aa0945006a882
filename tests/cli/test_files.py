"""The files that `load` reads, without a server."""

import gzip
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet
import pytest
from rayforce import eval_str

from rayforce_trio import columns_of
from rayforce_trio._cli import _files
from rayforce_trio._cli._console import CommandFailed, UsageError
from rayforce_trio._cli._files import Source, arrow_stream, open_source
from rayforce_trio._cli._input_file import InputFile

TABLE = pa.table({"sym": pa.array(["a", "b", None]).dictionary_encode(), "px": [1.5, None, 3.0]})


@pytest.fixture
def opened() -> Iterator[Callable[..., Source]]:
    """Opens sources that are closed when the test ends."""
    with ExitStack() as stack:
        yield lambda path, *args, **options: open_source(
            stack.enter_context(closing(InputFile(path))), *args, **options
        )


Open = Callable[..., Source]


def rows(source: Source) -> list[dict[str, Any]]:
    return [row for batch in iter(source.next_batch, None) for row in batch.to_pylist()]


def as_csv(path: Path) -> None:
    path.write_text("sym,px\na,1.5\nb,\n,3\n")


def as_gzip(path: Path) -> None:
    path.write_bytes(gzip.compress(b"sym,px\na,1.5\nb,\n,3\n"))


def as_parquet(path: Path) -> None:
    pyarrow.parquet.write_table(TABLE, path)


def as_arrow_file(path: Path) -> None:
    with pa.ipc.new_file(path, TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=2)


def as_arrow_stream(path: Path) -> None:
    with pa.ipc.new_stream(path, TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=2)


EVERY_KIND = pytest.mark.parametrize("write", [as_csv, as_gzip, as_parquet, as_arrow_file, as_arrow_stream])


@EVERY_KIND
def test_the_kind_of_a_file_is_found_in_its_first_bytes(
    write: Callable[[Path], None], opened: Open, tmp_path: Path
) -> None:
    path = tmp_path / "rows"
    write(path)
    source = opened(str(path), {})
    assert [tuple(row.values()) for row in rows(source)] == [("a", 1.5), ("b", None), (rows_empty(write), 3.0)]
    assert source.fraction is not None
    assert 0.5 < source.fraction <= 1


def test_the_fraction_of_csv_counts_the_rows_that_were_returned(opened: Open, tmp_path: Path) -> None:
    """pyarrow reads far ahead."""
    path = tmp_path / "rows"
    path.write_bytes(b"n\n" + b"1234567\n" * 2**21)  # 16 MiB
    source = opened(str(path), {})
    fractions = [source.fraction]
    while source.next_batch() is not None:
        fractions.append(source.fraction)
    assert fractions == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1], abs=0.001)


@pytest.mark.parametrize("types", [{}, {"b": "STRING"}])
def test_csv_that_is_not_utf8_is_an_error(types: dict[str, str], opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes("a,b\n1,été\n".encode("latin-1"))
    with pytest.raises(UsageError, match=r"rows, column 'b': the text is not UTF-8|rows, row 1: .* invalid UTF8 data$"):
        opened(str(path), types)


def rows_empty(write: Callable[[Path], None]) -> str | None:
    return "" if write in (as_csv, as_gzip) else None  # CSV does not tell the empty string from null


@EVERY_KIND
def test_a_pipe_can_be_read_if_its_kind_needs_no_random_access(
    write: Callable[[Path], None], opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "rows")
    read, sent = os.pipe()
    os.write(sent, (tmp_path / "rows").read_bytes())
    os.close(sent)
    monkeypatch.setattr(os, "dup", lambda _: read)
    if write in (as_parquet, as_arrow_file):
        with pytest.raises(UsageError, match=r"^standard input: a file of this kind cannot be read from a pipe; name"):
            opened("-", {})
    else:
        source = opened("-", {})
        assert [row["px"] for row in rows(source)] == [1.5, None, 3.0]
        assert source.fraction is None


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("B8", "true", True),
        ("U8", "255", 255),
        ("I16", "-5", -5),
        ("I32", "7", 7),
        ("I64", "8", 8),
        ("F32", "0.5", 0.5),
        ("F64", "3", 3.0),
        ("DATE", "2024-01-31", date(2024, 1, 31)),
        ("TIME", "12:34:56.789", time(12, 34, 56, 789_000)),
        ("TIMESTAMP", "2024-01-31T00:00:00.000001Z", datetime(2024, 1, 31, 0, 0, 0, 1)),  # noqa: DTZ001 - UTC
        ("TIMESTAMP", "2024-01-31 00:00:00.000001", datetime(2024, 1, 31, 0, 0, 0, 1)),  # noqa: DTZ001 - UTC
        ("TIMESPAN", "1000", timedelta(microseconds=1)),
        ("GUID", "9c944928-5679-4706-b21b-e9ef534820f6", UUID("9c944928-5679-4706-b21b-e9ef534820f6").bytes),
        ("SYMBOL", "7", "7"),
        ("STRING", "7", "7"),
    ],
)
def test_types_of_csv_can_be_given(kind: str, text: str, value: Any, opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"a,b\n{text},1\n,2\n")
    source = opened(str(path), {"a": kind})
    assert source.schema.field("a").type == _files.TYPES[kind]
    batch = source.next_batch()
    assert batch.schema == source.schema
    assert [_plain(item) for item in batch["a"].to_pylist()] == [value, "" if kind in ("SYMBOL", "STRING") else None]


def _plain(item: Any) -> Any:
    return item.to_pydatetime() if hasattr(item, "to_pydatetime") else getattr(item, "to_pytimedelta", lambda: item)()


def test_types_of_parquet_can_be_given(opened: Open, tmp_path: Path) -> None:
    as_parquet(tmp_path / "rows")
    batch = opened(str(tmp_path / "rows"), {"sym": "STRING", "px": "F32"}).next_batch()
    assert batch.schema.types == [pa.string(), pa.float32()]


def test_default_types_are_for_columns_of_csv_that_exist(opened: Open, tmp_path: Path) -> None:
    as_csv(tmp_path / "rows")
    defaults = {"sym": "SYMBOL", "px": "F32", "other": "I64", "mixed": "LIST"}
    source = opened(str(tmp_path / "rows"), {"px": "F64"}, defaults=defaults)
    assert source.schema.types == [_files.TYPES["SYMBOL"], pa.float64()]


@pytest.mark.parametrize(
    ("text", "types", "says"),
    [
        ("a,b\n1,2\n2,x\n", {"b": "I64"}, ", row 2, column 'b': 'x' is not of the type I64"),
        ("a\n1\n2\n300\n", {"a": "U8"}, ", row 3, column 'a': '300' is not of the type U8"),
        ("g,b\nx,1\n", {"g": "GUID"}, ", row 1, column 'g': 'x' is not of the type GUID"),
        ("a,b\n1,2\n2\n", {}, ", row 2: Expected 2 columns, got 1: 2"),
        (
            "a\n" + "1\n" * 50 + "2.5\n",
            {},
            ", row 51, column 'a': CSV conversion error to int64: invalid value '2.5'; the first rows have another "
            "type: set it with --type a=TYPE",
        ),
    ],
)
def test_an_error_names_the_file_the_column_and_the_row(
    text: str, types: dict[str, str], says: str, opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_files, "BYTES_PER_BATCH", 64)
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises((CommandFailed, UsageError)) as failed:
        rows(opened(str(path), types))
    assert str(failed.value).startswith(str(path))
    assert str(failed.value).removeprefix(str(path)) == says


def test_rows_are_counted_over_all_batches(opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "BYTES_PER_BATCH", 1024)
    path = tmp_path / "rows.csv"
    path.write_text("a\n" + "1\n" * 5000 + "x\n")
    with pytest.raises(CommandFailed, match=r", row 5001, column 'a': 'x' is not of the type F64$"):
        rows(opened(str(path), {"a": "F64"}))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", ": Empty CSV file"),
        (b"PAR1 and no more", ": "),
        (b"ARROW1 and no more", ": "),
        (b"\xff\xff\xff\xff\x01", ": "),
        (b"a,b\n", " has no column 'c'; its columns are: a, b"),
    ],
)
def test_a_file_that_cannot_be_read_is_wrong_usage(content: bytes, says: str, opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(content)
    with pytest.raises(UsageError) as refused:
        opened(str(path), {"c": "I64"})
    assert str(refused.value).startswith(f"{path}{says}")


def test_a_missing_file_is_wrong_usage(opened: Open, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing cannot be read: No such file or directory$"):
        opened(str(tmp_path / "missing"), {})


def test_an_arrow_stream_is_written_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "_ROWS_PER_BATCH", 3)
    parts = list(arrow_stream(columns_of(eval_str("(table [a b] (list (til 7) [a b c d e f g]))"))))
    table = pa.ipc.open_stream(b"".join(parts)).read_all()
    assert table.column_names == ["a", "b"]
    assert table["a"].to_pylist() == list(range(7))
    assert len(parts) == 4
