"""Queries, parameters and calls to frames, and queries to text for error messages."""

from collections.abc import Mapping, Sequence
from typing import Any

from rayforce import String

from .._protocol import VERBOSE_FLAG, Header, MessageType, query_frame, topic_problem
from .._values._calls import binding, function_call, parameter_name, parsed, with_bindings
from .._values._payloads import Buffer, string
from .._values._render import ABBREVIATED_AT, abbreviated, render
from .._values._types import Type
from ..errors import RayforceConversionError, RayforceError, RayforceValueError
from ._ffi import check_thread, reraise, type_name
from ._queries import compile_query, data_payload, query_sketch, value_payload
from ._sql import SQL


class Call:
    """A query that calls a function of the server.

    Args:
        function: the function's name, such as `"upd"` or `".my.upd"`, or the text of a lambda, `"(fn [x y] …)"`.
        arguments: at most 64 Python values or Rayforce objects; they are data, never code.

    Raises:
        RayforceValueError: the function is neither a name nor a lambda, or there are too many arguments.
        RayforceConversionError: an argument cannot be sent; the error names the argument.
    """

    def __init__(self, function: str, arguments: Sequence[Any]) -> None:
        if not isinstance(function, str):
            raise RayforceValueError(
                f"Invalid function: {type_name(function)}. Must be the name of a function or a lambda '(fn [x] …)', "
                "a str"
            )
        values = [data_payload(value, f"argument {place} of {function}") for place, value in enumerate(arguments, 1)]
        try:
            self.payload = function_call(function, values)
        except UnicodeEncodeError:
            raise _unencodable() from None


def check_topic(topic: object) -> None:
    """Raise `RayforceValueError` if this cannot be a topic."""
    if not isinstance(topic, str):
        raise RayforceValueError(f"Invalid topic: {topic!r:.200}. Must be a str")
    if problem := topic_problem(topic):
        raise RayforceValueError(f"Invalid topic: {topic[:100]!r}. A topic {problem}")


def encode_update(value: Any) -> Buffer:
    """Return the payload of a value to publish.

    Raises:
        RayforceConversionError: the value cannot be sent.
        RayforceValueError: the value is null.
    """
    payload = value_payload(value, "the value")
    if payload[0] == Type.NULL:
        raise RayforceValueError("null cannot be published")
    return payload


def encode_call(function: str, arguments: Sequence[Any]) -> Call:
    """Return the query that calls a function of the server. Arguments and errors are those of `Call`."""
    return Call(function, arguments)


def encode(
    query: Any, message_type: MessageType, *, params: Mapping[str, Any] | None = None, verbose: bool = False
) -> bytes:
    """Return the frame that carries a query.

    Args:
        query: a str, a `Call`, an `SQL`, or a String, List, Expression, SQLQuery or query object of rayforce-py.
        message_type: `SYNC` for a request, `ASYNC` for a post.
        params: values by the names that the query uses for them.
        verbose: ask for the printed text as well; `decode_verbose` reads the reply.

    Raises:
        UnsupportedQuery: `query` is not a query; the error names its type.
        RayforceValueError: `params` is not a mapping, or contains a name that cannot be used.
        RayforceConversionError: a value cannot be sent; the error says where it is.
        RayforceError: the query cannot be compiled.
    """
    flags = VERBOSE_FLAG if verbose else 0
    if type(query) is str and (params is None or not _mapping(params)):
        check_thread()
        try:
            return query_frame(query, message_type, flags)
        except UnicodeEncodeError:
            raise _unencodable() from None
    try:
        if isinstance(query, SQL):
            payload: Buffer = query.payload({} if params is None else _mapping(params), value_payload)
        else:
            bindings = _bindings(params) if params is not None else []
            payload = with_bindings(_body(query), bindings) if bindings else _payload(query)
    except RuntimeError as error:
        reraise(error)
    return b"".join([Header(flags, message_type, len(payload)).pack(), payload])


def _payload(query: Any) -> Buffer:
    """Return the payload of a query without parameters. The server parses and evaluates a String."""
    if isinstance(query, str):
        return _text(query)
    return query.payload if isinstance(query, Call) else compile_query(query)


def _body(query: Any) -> Buffer:
    """Return the expression that evaluates a query with the names that are visible there."""
    if isinstance(query, str | String):
        return _parsed(str(query))
    return _payload(query)


def _parsed(text: str) -> bytes:
    try:
        return parsed(text)
    except UnicodeEncodeError:
        raise _unencodable() from None


def _text(text: str) -> bytes:
    try:
        return string(str(text))
    except UnicodeEncodeError:
        raise _unencodable() from None


def _unencodable() -> RayforceConversionError:
    return RayforceConversionError(
        "the query cannot be sent, because it contains a lone surrogate, which UTF-8 cannot encode"
    )


def _bindings(params: Any) -> list[bytes]:
    pairs = _mapping(params).items()
    return [binding(parameter_name(text), data_payload(value, f"params[{text!r}]")) for text, value in pairs]


def _mapping(params: Any) -> Mapping[Any, Any]:
    if not isinstance(params, Mapping):
        raise RayforceValueError(f"Invalid params: {type_name(params)}. Must be a dict of names and values")
    return params


def describe(query: Any) -> str:
    """Return the beginning of a query on one line: its text, or the text of the expression it compiles to."""
    if isinstance(query, str | String | SQL):
        return abbreviated(" ".join(str(query)[: 10 * ABBREVIATED_AT].split()))
    try:
        return render(query.payload if isinstance(query, Call) else query_sketch(query))
    except (RayforceError, RuntimeError):  # its values have changed since it was compiled
        return f"({type_name(query)})"
