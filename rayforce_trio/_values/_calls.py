"""The payloads of queries with parameters, and of calls of functions. The values in them are data, never code."""

import re
from collections.abc import Sequence

from ..errors import RayforceValueError
from ._payloads import Buffer, call, list_of, name, string

MAX_ARGUMENTS = 64
"""The largest number of arguments of a function or an operator; the engine refuses more."""

_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_RESERVED = frozenset({"do", "let", "eval", "parse", "quote"})
"""The names that the expression around a query with parameters uses itself."""

_LITERALS = frozenset({"true", "false", "null"})
"""Identifiers that Rayfall reads as values, not as names."""

_FUNCTION_NAME = re.compile(r"[^\s()\[\]{}\"'`;,\0]+\Z")


def parsed(text: str) -> bytes:
    """Return the expression that parses and evaluates a text.

    Raises:
        UnicodeEncodeError: the text cannot be encoded as UTF-8.
    """
    return call("eval", call("parse", string(text)))


def binding(parameter: str, value: Buffer) -> bytes:
    """Return the expression that binds a name to a value.

    Args:
        parameter: a name that `parameter_name` accepts.
        value: an expression that evaluates to the value.
    """
    return call("let", name(parameter), value)


def with_bindings(body: Buffer, bindings: Sequence[Buffer]) -> bytes:
    """Return the expression that evaluates `body` with some bindings."""
    return call("do", *bindings, body)


def parameter_name(text: object) -> str:
    """Return the name of a parameter.

    Raises:
        RayforceValueError: the name cannot be used.
    """
    if not isinstance(text, str) or not _PARAMETER.match(text):
        raise RayforceValueError(
            f"params: {text!r} cannot be the name of a parameter; use letters, digits and underscores, not starting "
            "with a digit"
        )
    if text in _RESERVED or text in _LITERALS:
        raise RayforceValueError(f"params: {text!r} cannot be the name of a parameter, because Rayfall uses it itself")
    return text


def function_call(function: str, arguments: Sequence[Buffer]) -> bytes:
    """Return the expression that calls a function.

    Args:
        function: its name, or the text of a lambda.
        arguments: expressions that evaluate to the arguments.

    Raises:
        RayforceValueError: the function is neither a name nor a lambda, or there are too many arguments.
        UnicodeEncodeError: the text of the lambda cannot be encoded as UTF-8.
    """
    if len(arguments) > MAX_ARGUMENTS:
        raise RayforceValueError(
            f"{function}: {len(arguments)} arguments; the engine accepts at most {MAX_ARGUMENTS}; pass a list instead"
        )
    if function.lstrip().startswith("("):
        return list_of([parsed(function), *arguments])
    if _FUNCTION_NAME.match(function) and function.isprintable():
        return list_of([name(function), *arguments])
    raise RayforceValueError(
        f"Invalid function: {function!r:.200}. Must be the name of a function or a lambda '(fn [x] …)'"
    )
