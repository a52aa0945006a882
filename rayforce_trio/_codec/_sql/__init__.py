"""SQL as a query: compiled from its syntax tree to a Rayfall expression, never to text.

This package alone imports sqlglot, and only when a query is made.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ...errors import (
    RayforceError,
    RayforceParseError,
    RayforceQueryCompilationError,
    RayforceValueError,
    UnsupportedQuery,
)
from ._values import Encode, Parameters

__all__ = ["SQL", "sql"]

_SHOWN = 60  # characters of a query, in its repr


class SQL:
    """An SQL statement as a query, returned by `sql`. `str` returns its text.

    Attributes:
        text (str): the statement, as it was given.
        parameters (frozenset[str]): the names of the parameters.
    """

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise UnsupportedQuery(f"sql() takes a str, not {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise RayforceParseError(
                "the SQL cannot be sent, because it contains a lone surrogate, which UTF-8 cannot encode"
            ) from None
        try:
            from ._statements import Statement
        except ModuleNotFoundError as error:
            if error.name != "sqlglot":
                raise
            raise RayforceError("SQL needs sqlglot; install it with: pip install 'rayforce-trio[sql]'") from None
        self.text = text
        parameters = Parameters()
        with _limited():
            self._statement = Statement(text)
            self._compiled, reasons = self._statement.compile(parameters)
        self.reasons = tuple(reasons)
        """Why the engine may refuse the statement with the code `domain`, in words. For error messages."""
        self.parameters = frozenset(parameters.used)

    def payload(self, values: Mapping[str, Any], encode: Encode) -> bytes:
        """Return the Rayfall expression, in the wire format, that computes the statement.

        Args:
            values: the parameters' values by name.
            encode: converts a value to a payload; the str is the place of the value, for errors.

        Raises:
            RayforceValueError: a parameter has no value, or a value has no parameter.
            RayforceConversionError: a value cannot be represented.
            UnsupportedQuery: a value cannot be used in its place.
        """
        for surplus in sorted(set(values) - self.parameters):
            has = ", ".join(f":{name}" for name in sorted(self.parameters)) or "none"
            raise RayforceValueError(f"the query has no parameter :{surplus}; its parameters: {has}")
        for missing in sorted(self.parameters - set(values)):
            raise RayforceValueError(f"the query uses the parameter :{missing}, which has no value")
        if not self.parameters:
            return self._compiled
        with _limited():
            payload, reasons = self._statement.compile(Parameters(values, encode))
        self.reasons = tuple(dict.fromkeys([*self.reasons, *reasons]))  # no value is part of a reason
        return payload

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        line = " ".join(self.text.split())
        return f"sql({line if len(line) <= _SHOWN else line[: _SHOWN - 1] + '…'!r})"


@contextmanager
def _limited() -> Iterator[None]:
    """Turn the `RecursionError` of a deeply nested statement into the error of a query."""
    try:
        yield
    except RecursionError:
        raise RayforceQueryCompilationError("the SQL is nested too deeply") from None


def sql(text: str) -> SQL:
    """Return an SQL statement as a query, which every call that takes a query accepts. Nothing is sent.

    Args:
        text: one SQL statement. `:name` stands for a parameter.

    Raises:
        RayforceParseError: the text is not SQL, or is more than one statement.
        UnsupportedQuery: `text` is not a `str`, or a part of the SQL is not supported; the error quotes that part.
        RayforceQueryCompilationError: the statement is nested too deeply.
        RayforceError: sqlglot is not installed.
    """
    return SQL(text)
