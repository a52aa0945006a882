"""The result of a query in batches, written to a file or to standard output while it arrives."""

from io import BytesIO
from typing import Protocol

import anyio
import anyio.to_thread

from .. import Batches, Columns
from ._console import counted, write, write_bytes
from ._fields import csv_batch

_BAR_WIDTH = 30  # characters


class BatchWriter(Protocol):
    """Writes batches. Its methods may block."""

    def write(self, columns: Columns, /) -> None: ...

    def close(self) -> None:
        """Write the end. Idempotent."""


class BatchedOutput:
    """Writes batches, and tells how far it is.

    Args:
        writer: writes them.
        abandon: whether a cancelled `copy` leaves a write to its thread, for output that may block forever. Otherwise
            it waits until the batch is written.

    Attributes:
        rows: how many rows have been written.
    """

    def __init__(self, writer: BatchWriter, *, abandon: bool = True) -> None:
        self._writer = writer
        self._abandon = abandon
        self._total_rows: int | None = None
        self.rows = 0

    async def copy(self, batches: Batches) -> None:
        """Write all batches and the end, each in a thread. A checkpoint; if cancelled, a part has been written.

        Raises:
            RayforceError: the connection or the engine was lost, or a value cannot be represented.
            Exception: what the writer raises.
        """
        self._total_rows = batches.total_rows
        async for columns in batches:
            await anyio.to_thread.run_sync(self._writer.write, columns, abandon_on_cancel=self._abandon)
            self.rows += len(columns)
        await anyio.to_thread.run_sync(self._writer.close, abandon_on_cancel=self._abandon)

    def status(self) -> str:
        """Return a progress bar for the terminal, as soon as the number of rows is known."""
        if self._total_rows is None:
            return "the server is evaluating the query"
        return progress_bar(self.rows / self._total_rows if self._total_rows else 1, self.rows)


class CsvOutput:
    """Writes batches to standard output as CSV with a header."""

    def __init__(self) -> None:
        self._header = True

    def write(self, columns: Columns) -> None:
        """Write a batch. Raises the errors of `write`."""
        write(csv_batch(columns, header=self._header))
        self._header = False

    def close(self) -> None:
        """Do nothing: CSV has no end."""


class ArrowOutput:
    """Writes batches to standard output as an Arrow stream. Needs pyarrow."""

    def __init__(self) -> None:
        from ._files import ArrowWriter

        self._buffer = BytesIO()
        self._writer = ArrowWriter(self._buffer)

    def write(self, columns: Columns) -> None:
        """Write a batch. Raises the errors of `write_bytes`, and those of `ArrowWriter.write`."""
        self._writer.write(columns)
        self._flush()

    def close(self) -> None:
        """Write the end. Raises the errors of `write_bytes`."""
        self._writer.close()
        self._flush()

    def _flush(self) -> None:
        write_bytes([self._buffer.getvalue()])
        self._buffer.seek(0)
        self._buffer.truncate()


def progress_bar(fraction: float | None, rows: int) -> str:
    """Return a progress bar, if the fraction is known, and the number of rows."""
    if fraction is None:
        return counted(rows, "row")
    filled = int(min(fraction, 1) * _BAR_WIDTH)
    return f"[{'#' * filled:-<{_BAR_WIDTH}}] {min(fraction, 1):4.0%}, {counted(rows, 'row')}"
