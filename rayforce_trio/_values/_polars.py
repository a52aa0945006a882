"""polars, for users who have installed it: data frames."""

from typing import Any

from ..errors import RayforceError


def to_frame(table: Any) -> Any:
    """Return a pyarrow.Table as a polars.DataFrame.

    Raises:
        RayforceError: polars is not installed.
    """
    try:
        import polars as pl
    except ImportError as error:
        raise RayforceError("to_polars() needs polars; install it with: pip install polars") from error
    return pl.DataFrame(table)
