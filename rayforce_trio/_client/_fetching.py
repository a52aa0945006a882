"""Read replies as columns, in short steps between which other tasks run."""

import anyio.lowlevel

from .._protocol import string_in
from .._values._columns import Columns, ColumnsReader
from .._values._reader import NotColumns, UnknownType
from ..errors import RayforceConversionError, RayforceTypeError
from ._exchange import Exchange


async def read_columns(payload: memoryview, exchange: Exchange) -> Columns:
    """Return the value of a reply as columns.

    A checkpoint every few milliseconds; if cancelled, the columns read so far are dropped.

    Raises:
        RayforceTypeError: the value has no columns.
        RayforceConversionError: the value contains a type that `fetch` does not know, or it is damaged.
    """
    reader = ColumnsReader(payload)
    try:
        while not reader.step():
            await anyio.lowlevel.checkpoint()
    except NotColumns as error:
        text = None if exchange.extended else string_in(payload)
        hint = "" if text is None else f"; this server reports errors as a String: {text}"
        raise RayforceTypeError(
            f"the result is {error.kind}, which has no columns; use execute() instead of fetch(){hint}"
        ) from None
    except UnknownType as error:
        raise RayforceConversionError(
            f"the result contains a type that fetch() does not know ({error}); use execute() instead"
        ) from None
    return reader.result()
