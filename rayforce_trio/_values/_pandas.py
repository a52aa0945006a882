"""pandas, for users who have installed it: data frames, and scalars with nanoseconds."""

from typing import Any

from numpy.typing import NDArray

from ..errors import RayforceError

_UUID = "extension<arrow.uuid>"


def with_nanoseconds(values: NDArray[Any]) -> list[Any]:
    """Return datetime64[ns] or timedelta64[ns] as pandas.Timestamp or Timedelta; nothing if pandas is missing."""
    try:
        import pandas as pd
    except ImportError:
        return []
    return list(pd.DatetimeIndex(values) if values.dtype.kind == "M" else pd.TimedeltaIndex(values))


def to_frame(table: Any) -> Any:
    """Return a pyarrow.Table as a pandas.DataFrame.

    Integers with nulls become pandas' nullable integers, since floats would lose digits.

    Raises:
        RayforceError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise RayforceError("to_pandas() needs pandas; install it with: pip install pandas") from error
    frame = table.to_pandas(date_as_object=False)
    nullable = {"int16": pd.Int16Dtype(), "int32": pd.Int32Dtype(), "int64": pd.Int64Dtype()}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count and str(column.type) in nullable:
            frame[name] = column.to_pandas(types_mapper=lambda kind: nullable.get(str(kind)))
        elif str(column.type) == _UUID:  # pyarrow before 26 makes bytes of them
            frame[name] = pd.Series(column.to_pylist(), dtype=object)
    return frame
