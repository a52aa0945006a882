"""SQL's functions and types, and the engine's for them. Keys are the names of sqlglot's classes."""

DIRECT = {
    "Abs": "abs",
    "Ceil": "ceil",
    "Floor": "floor",
    "Sqrt": "sqrt",
    "Exp": "exp",
    "Ln": "log",
    "Sign": "signum",
    "Upper": "upper",
    "Lower": "lower",
    "Length": "strlen",
}

PARTS = {
    "Year": "yyyy",
    "Month": "mm",
    "Day": "dd",
    "Hour": "hh",
    "Minute": "minute",
    "Second": "ss",
}

AGGREGATES = {
    "Sum": "sum",
    "Avg": "avg",
    "Min": "min",
    "Max": "max",
    "First": "first",
    "Last": "last",
    "AnyValue": "first",
    "Median": "med",
    "Stddev": "stddev",
    "StddevSamp": "stddev",
    "StddevPop": "stddev_pop",
    "Variance": "var",
    "VariancePop": "var_pop",
}
"""Aggregates of one argument that the engine computes as SQL does; `Count` is compiled by itself."""

ENGINE_TYPES = {
    "B8": "B8",
    "U8": "U8",
    "I16": "I16",
    "I32": "I32",
    "I64": "I64",
    "F32": "F32",
    "F64": "F64",
    "SYMBOL": "SYM",
    "STRING": "STR",
    "GUID": "GUID",
    "UTINYINT": "U8",
}
"""Type names that are not SQL's: the engine's own, and that of its bytes in other databases."""

CASTS = {
    "BOOLEAN": "B8",
    "SMALLINT": "I16",
    "INT": "I32",
    "BIGINT": "I64",
    "FLOAT": "F32",
    "DOUBLE": "F64",
    "TEXT": "STR",
    "VARCHAR": "STR",
    "CHAR": "STR",
    "DATE": "DATE",
    "TIME": "TIME",
    "TIMESTAMP": "TIMESTAMP",
    "DATETIME": "TIMESTAMP",
    "UUID": "GUID",
}
"""SQL's type names."""
