"""The exceptions for errors of the engine and of the server."""

import re
from types import MappingProxyType
from typing import Any

from rayforce.errors import CORE_EXC_CODE_MAPPING

from .._protocol import BUSY, CANCELLED, CLOSING, TIMEOUT, TOO_LARGE, Failure
from ..errors import QueryTimeout, RayforceError, RayforceUserError, ResultTooLarge, ServerBusy, ServerClosing
from ._encoding import describe
from ._sql import SQL

_CLASSES: dict[str, type[RayforceError]] = {
    **CORE_EXC_CODE_MAPPING,
    BUSY: ServerBusy,
    CLOSING: ServerClosing,
    TIMEOUT: QueryTimeout,
    TOO_LARGE: ResultTooLarge,
}

_LIKE_SQL = re.compile(r"\s*(select|with|insert|update|delete|create|drop)\s", re.IGNORECASE)

WORDS = MappingProxyType(
    {
        "access": "read-only clients may not do this",
        "arity": "a function was called with a wrong number of arguments",
        CANCELLED: "the query was stopped",
        "corrupt": "stored data is damaged",
        "domain": "a value is outside the range that the function accepts",
        "index": "an index is out of range",
        "internal": "internal error of the engine",
        "io": "a file or a connection cannot be read or written",
        "ipc": "communication with another server failed",
        "length": "lengths do not match",
        "limit": "a limit of the engine is exceeded",
        "name": "undefined name",
        "nyi": "the engine does not implement this yet",
        "oom": "the engine is out of memory",
        "os": "an operation of the operating system failed",
        "parse": "the text cannot be parsed",
        "range": "a value is out of range",
        "schema": "the table has no column of this name",
        "state": "the engine cannot do this in its present state",
        "type": "the function does not accept a value of this type",
        "user": "the query raised an error",
        "value": "a name or a value does not fit the table",
    }
)
"""What the engine's error codes mean. A native server sends the code alone."""


def engine_error(failure: Failure, query: Any = None) -> RayforceError:
    """Return the exception for an error in place of a value.

    An error of the engine has rayforce-py's class for its code and the engine's message. A native server sends the code
    alone; the message then explains the code and quotes the beginning of the query. Text that looks like SQL is
    answered with how to send SQL.
    """
    message = failure.message
    if not message:
        described = "" if query is None else describe(query)
        parts = [_words(failure.code, query), described and f"in the query {described}"]
        message = ", ".join(filter(None, parts))
    if failure.code in ("name", "parse") and isinstance(query, str) and _LIKE_SQL.match(query):
        message += "; to send SQL, use sql(text), or --sql on the command line"
    return _CLASSES.get(failure.code, RayforceUserError)(str(Failure(failure.code, message)))


def _words(code: str, query: Any) -> str:
    """Return the meaning of an error code; SQL has its own reasons for the code `domain`."""
    if code == "domain" and isinstance(query, SQL) and query.reasons:
        return " or ".join(query.reasons)
    return WORDS.get(code, "")
