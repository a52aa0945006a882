"""Read replies as columns, in short steps between which other tasks run."""

from collections.abc import Iterator
from contextlib import contextmanager

import anyio.lowlevel

from .._protocol import string_in
from .._values._columns import Columns, ColumnsReader
from .._values._payloads import Buffer
from .._values._reader import NotColumns, UnknownType
from ..errors import RayforceConversionError, RayforceTypeError
from ._reconnecting import AnyExchange


async def read_columns(payload: memoryview, exchange: AnyExchange) -> Columns:
    """Return the value of a reply as columns.

    A checkpoint every few milliseconds; if cancelled, the columns read so far are dropped.

    Raises:
        RayforceTypeError: the value has no columns.
        RayforceConversionError: the value contains a type that `fetch` does not know, or it is damaged.
    """
    text = None if exchange.extended else string_in(payload)
    hint = "" if text is None else f"; this server reports errors as a String: {text}"
    return await finish(ColumnsReader(payload), hint)


async def finish(reader: ColumnsReader, hint: str = "") -> Columns:
    """Return the columns that a reader finds.

    A checkpoint every few milliseconds; if cancelled, it can be called again, and continues.

    Args:
        reader: may have done some of its steps.
        hint: the end of the error if the value has no columns.

    Raises:
        RayforceTypeError, RayforceConversionError: as for `read_columns`.
    """
    with _errors_of_the_public_api(hint):
        while not reader.step():
            await anyio.lowlevel.checkpoint()
    return reader.result()


def read_columns_at_once(payload: Buffer) -> Columns:
    """Return a value as columns, without letting other tasks run. Raises as `read_columns`. No checkpoint."""
    reader = ColumnsReader(payload)
    with _errors_of_the_public_api():
        while not reader.step():
            pass
    return reader.result()


@contextmanager
def _errors_of_the_public_api(hint: str = "") -> Iterator[None]:
    try:
        yield
    except NotColumns as error:
        raise RayforceTypeError(
            f"the result is {error.kind}, which has no columns; use execute() instead of fetch(){hint}"
        ) from None
    except UnknownType as error:
        raise RayforceConversionError(
            f"the result contains a type that fetch() cannot read ({error}); use execute() instead"
        ) from None
