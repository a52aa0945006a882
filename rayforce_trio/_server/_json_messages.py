"""The protocol `rayforce.json.v1` of one connection, without I/O: a translation from and to the extended protocol.

A client's texts become frames and control messages; the server's answers, notices and updates become texts. Frames
have no ids, but are answered in order, so the ids of the unanswered requests are kept in their order. A request that
is not valid also takes its turn: it becomes a request that the server refuses, and this refusal becomes the error.

Nothing else depends on JSON: requests are counted, limited, cancelled and refused as those of any other client.
"""

import enum
import itertools
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, get_args

from .._protocol import (
    COMPRESSED_FLAG,
    HEADER_SIZE,
    MAX_ID,
    PUBLISH,
    SIZED,
    SNAPSHOT,
    VERBOSE_FLAG,
    ErrorNotice,
    Failure,
    Frame,
    FrameError,
    Header,
    MessageType,
    ProtocolViolation,
    SubscribedNotice,
    UnsubscribedNotice,
    Update,
    dump_cancel,
    dump_hello,
    error_code,
    parse_control,
    split_payload,
    split_verbose,
    topic_problem,
)
from .._values._calls import MAX_ARGUMENTS, binding, function_call, parameter_name, parsed, with_bindings
from .._values._json import Integers, Steps, all_steps, json_pieces, payload_steps, text_pieces
from .._values._payloads import NULL, Buffer, call, i64, quoted, string
from .._values._python import MAX_DEPTH
from ..errors import RayforceConversionError, RayforceValueError
from ._expressions import integer_in

INVALID = "request"
"""The error code of a message that is not valid."""

_MAX_ID_TEXT = 128  # characters
_MAX_ID_NUMBER = 2**53

_REFUSED = Header(COMPRESSED_FLAG, MessageType.SYNC, 1).pack() + NULL
"""A request that the server refuses in its turn, without the engine: compressed requests are not supported."""

_DAMAGED = Failure("io", "the engine sent a damaged reply")
_TRIPLE = 10  # bytes before the first item of a list
_ITEM_I64 = 10  # bytes of an I64


class _Expected(enum.Enum):
    """The kind of answer that a request gets, beside an error."""

    RESULT = enum.auto()
    """Its value."""
    OUTPUT = enum.auto()
    """The text that it printed, and its value."""
    SNAPSHOT = enum.auto()
    """The number of the next update, and its value."""
    SEQUENCE = enum.auto()
    """The number of an update."""
    REFUSAL = enum.auto()
    """Nothing: it is not valid."""


@dataclass(frozen=True, slots=True)
class _Request:
    """A request that has not been answered."""

    id: int | str | None
    number: int
    expected: _Expected
    integers: Integers = "auto"
    failure: Failure | None = None


class JsonText(NamedTuple):
    """A text for the client: a beginning, perhaps a printed output, the value in a payload, and an end.

    Attributes:
        before: the text before the value, or before the output.
        payload: the value in the wire format; `None` if the text has none.
        after: the text after the value.
        integers: the form of I64 values.
        output: the printed output, in UTF-8, after `before`; `None` if the text has none.
        between: the text between the output and the value.
    """

    before: str
    payload: Frame | None = None
    after: str = ""
    integers: Integers = "auto"
    output: Frame | None = None
    between: str = ""

    def pieces(self) -> Iterator[str]:
        """Yield the text in short pieces.

        Raises:
            RayforceConversionError: the payload is damaged.
        """
        yield self.before
        if self.output is not None:
            yield from text_pieces(self.output)
            yield self.between
        if self.payload is not None:
            yield from json_pieces(self.payload, integers=self.integers)
            yield self.after

    def __str__(self) -> str:
        return "".join(self.pieces())


class _Invalid(Exception):
    """A message is not valid. The text says why."""


class JsonMessages:
    """Translate the messages of one connection.

    Pass every text of the client to `receive`, and the answers of the server to `answer`, in their order.
    """

    HELLO = dump_hello(["streams", "subscriptions"])
    """The message that the connection needs first: it asks for the features that these clients use."""

    def __init__(self) -> None:
        self._last_number = 0
        self._unanswered = deque[_Request]()
        self._numbers: dict[int | str, int] = {}

    def receive(self, text: str) -> bytes | str | None:
        """Return a client's message in the extended protocol; `None` if nothing is to be done."""
        return all_steps(self.receive_in_steps(text))

    def receive_in_steps(self, text: str) -> Steps[bytes | str | None]:
        """Do what `receive` does, in short steps. Finish them before the next message."""
        given_id: Any = None
        try:
            message = _object_in(text)
            given_id = message.get("id")
            yield
            return (yield from self._translate(message))
        except _Invalid as error:
            valid = type(given_id) in (int, str) and _id_problem(given_id) is None
            return self._request(
                _Request(given_id if valid else None, 0, _Expected.REFUSAL, failure=Failure(INVALID, str(error))),
                _REFUSED,
            )

    def _translate(self, message: dict[str, Any]) -> Steps[bytes | str | None]:
        kinds = [key for key in _KINDS if key in message]
        if "snapshot" in kinds and "query" in kinds:
            kinds.remove("query")
        if len(kinds) != 1:
            raise _Invalid(f"a message must have one of the keys {', '.join(_KINDS)}")
        kind = kinds[0]
        if kind == "cancel":
            number = self._numbers.get(_checked_id(message["cancel"]))
            return None if number is None else dump_cancel(number)
        if kind in ("subscribe", "unsubscribe"):
            return (yield from _notice({kind: message[kind]}))
        return (yield from self._translate_request(kind, message))

    def _translate_request(self, kind: str, message: dict[str, Any]) -> Steps[bytes]:
        if "id" not in message:
            raise _Invalid("a request must have an id, an integer or a string")
        request_id = _checked_id(message["id"])
        if request_id in self._numbers:
            raise _Invalid(f"the id {json.dumps(request_id)} belongs to a request that is not answered yet")
        integers = message.get("integers", "auto")
        if integers not in get_args(Integers):
            raise _Invalid('integers must be "auto", "number" or "string"')
        output = message.get("output", False)
        if type(output) is not bool:
            raise _Invalid("output must be true or false")
        expected = _Expected.OUTPUT if output else _Expected.RESULT
        try:
            if kind == "query":
                payload: Buffer = yield from _query(message)
            elif kind == "call":
                payload = yield from _function_call(message)
            elif kind == "snapshot":
                payload, expected = (yield from _snapshot(message)), _Expected.SNAPSHOT
            else:
                payload, expected = (yield from _publish(message)), _Expected.SEQUENCE
        except (RayforceValueError, RayforceConversionError) as error:
            raise _Invalid(str(error)) from None
        except UnicodeEncodeError:
            raise _Invalid("text must not contain a lone surrogate, which UTF-8 cannot encode") from None
        flags = VERBOSE_FLAG if expected is _Expected.OUTPUT else 0
        frame = b"".join([Header(flags, MessageType.SYNC, len(payload)).pack(), payload])
        return self._request(_Request(request_id, 0, expected, integers), frame)

    def _request(self, request: _Request, frame: bytes) -> bytes:
        """Number a request, and return its frame."""
        self._last_number += 1
        self._unanswered.append(
            _Request(request.id, self._last_number, request.expected, request.integers, request.failure)
        )
        if request.id is not None and request.expected is not _Expected.REFUSAL:
            self._numbers[request.id] = self._last_number
        return frame

    def control(self, text: str) -> tuple[JsonText | None, bool]:
        """Translate a control message of the server; return the text for the client, if any.

        Also return whether it answers the oldest request: then call `answered` when it has been sent.
        """
        notices = parse_control(text)
        for notice in notices:
            if isinstance(notice, ErrorNotice):
                return self._error(Failure(notice.code, notice.message)), True
            if isinstance(notice, SubscribedNotice | UnsubscribedNotice):
                return JsonText(text), False
        return None, False

    def answer(self, frame: Frame) -> JsonText:
        """Return the text of an answer to the oldest request. Call `answered` when it has been sent."""
        request = self._unanswered[0]
        payload = memoryview(frame)[HEADER_SIZE:]
        beginning = f'{{"id":{json.dumps(request.id)},'
        match request.expected:
            case _Expected.REFUSAL:
                return self._error(_DAMAGED)
            case _Expected.OUTPUT:
                return self._answer_with_output(frame, beginning, request)
            case _ if (code := error_code(frame)) is not None:
                return self._error(Failure(code, ""))
            case _Expected.SNAPSHOT:
                sequence = integer_in(bytes(frame[:HEADER_SIZE]) + bytes(payload[_TRIPLE : _TRIPLE + _ITEM_I64]))
                value = payload[_TRIPLE + _ITEM_I64 + len(NULL) :]
                if sequence is None or not value:
                    return self._error(_DAMAGED)
                if (code := error_code(value, 0)) is not None:
                    return self._error(Failure(code, ""))
                return JsonText(f'{beginning}"sequence":{sequence},"result":', value, "}", request.integers)
            case _Expected.SEQUENCE:
                number = integer_in(frame)
                return self._error(_DAMAGED) if number is None else JsonText(f'{beginning}"sequence":{number}}}')
        return JsonText(f'{beginning}"result":', payload, "}", request.integers)

    def failed(self, failure: Failure) -> JsonText:
        """Return the text that answers the oldest request with an error. Call `answered` when it has been sent."""
        return self._error(failure)

    def answered(self) -> None:
        """Report that the answer to the oldest request has been sent."""
        request = self._unanswered.popleft()
        if request.id is not None and self._numbers.get(request.id) == request.number:
            del self._numbers[request.id]

    def _answer_with_output(self, frame: Frame, beginning: str, request: _Request) -> JsonText:
        split = split_payload(memoryview(frame)[HEADER_SIZE:])
        if isinstance(split, Failure):
            try:
                printed, reply = split_verbose(frame)
            except FrameError:
                return self._error(split)
            return self._error(reply if isinstance(reply, Failure) else split, printed)
        output, value = split
        return JsonText(f'{beginning}"output":', value, "}", request.integers, output[SIZED.size :], ',"result":')

    def _error(self, failure: Failure, output: str | None = None) -> JsonText:
        request = self._unanswered[0]
        beginning = f'{{"id":{_quoted(request.id)}'
        error = f',"error":{_error_object(request.failure or failure)}}}'
        if output is None:
            return JsonText(beginning + error)
        return JsonText(f'{beginning},"output":', output=output.encode(), between=error)


def update_text(update: Update, value: str | Failure) -> str:
    """Return the text of an update, with its value in JSON, or with the error that takes its place."""
    beginning = f'{{"update":{{"id":{update.subscription},"sequence":{update.sequence},"lost":{update.lost},'
    if isinstance(value, Failure):
        return f'{beginning}"error":{_error_object(value)}}}}}'
    return f'{beginning}"value":{value}}}}}'


def _object_in(text: str) -> dict[str, Any]:
    try:
        message = json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        raise _Invalid("a message must be JSON") from None
    except RecursionError:
        raise _Invalid("the message is nested too deeply") from None
    if not isinstance(message, dict):
        raise _Invalid("a message must be a JSON object")
    return message


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(text)


def _checked_id(given: object) -> int | str:
    if isinstance(given, int | str) and (problem := _id_problem(given)) is None:
        return given
    problem = _id_problem(given) if isinstance(given, int | str) else "must be an integer or a string"
    raise _Invalid(f"an id {problem}")


def _id_problem(given: int | str) -> str | None:
    if isinstance(given, bool):
        return "must be an integer or a string"
    if isinstance(given, int):
        return None if abs(given) <= _MAX_ID_NUMBER else "that is an integer must be between -2**53 and 2**53"
    return None if len(given) <= _MAX_ID_TEXT else f"that is a string must have at most {_MAX_ID_TEXT} characters"


def _notice(document: dict[str, Any]) -> Steps[str]:
    """Return the control message with this content, if it is valid."""
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        parts = (part.values() if type(part) is dict else part for part in level)
        level = [part for part in itertools.chain.from_iterable(parts) if type(part) in (dict, list)]
    if level:
        raise _Invalid("the message is nested too deeply")  # json.dumps would fail at a depth that json.loads accepts
    yield
    text = json.dumps(document)
    try:
        parse_control(text)
    except ProtocolViolation as error:
        raise _Invalid(str(error)) from None
    return text


def _query(message: dict[str, Any]) -> Steps[Buffer]:
    """Return the payload of a query and its parameters."""
    text, params = message["query"], message.get("params", {})
    if not isinstance(text, str):
        raise _Invalid("query must be a string")
    if not isinstance(params, dict):
        raise _Invalid("params must be an object of names and values; to pass arguments to a function, use call")
    if not params:
        return string(text)
    bindings = []
    for key, value in params.items():
        bindings.append(binding(parameter_name(key), (yield from _data(value, f"params.{key}"))))
        yield
    return with_bindings(parsed(text), bindings)


def _function_call(message: dict[str, Any]) -> Steps[Buffer]:
    """Return the payload of a call of a function."""
    function, arguments = message["call"], message.get("arguments", [])
    if not isinstance(function, str):
        raise _Invalid("call must be the name of a function or a lambda, a string")
    if not isinstance(arguments, list):
        raise _Invalid("arguments must be an array")
    if function.startswith(".ws."):
        raise _Invalid("names that begin with .ws. are reserved for the server")
    given = []
    for place, value in enumerate(arguments[: MAX_ARGUMENTS + 1]):
        given.append((yield from _data(value, f"arguments[{place}]")))
    return function_call(function, given)


def _snapshot(message: dict[str, Any]) -> Steps[Buffer]:
    subscription = message["snapshot"]
    if type(subscription) is not int or not 1 <= subscription <= MAX_ID:
        raise _Invalid("snapshot must be the id of a subscription")
    if "query" not in message:
        raise _Invalid("a request for a snapshot must have a query")
    return call(SNAPSHOT, i64(subscription), (yield from _query(message)))


def _publish(message: dict[str, Any]) -> Steps[Buffer]:
    topic = message["publish"]
    if not isinstance(topic, str):
        raise _Invalid("publish must be a topic, a string")
    if problem := topic_problem(topic):
        raise _Invalid(f"a topic {problem}")
    payload = yield from payload_steps(message.get("value"))
    if payload == NULL:
        raise _Invalid("value must be a value other than null")
    return call(PUBLISH, string(topic), payload)


def _data(value: object, place: str) -> Steps[Buffer]:
    try:
        return quoted((yield from payload_steps(value)))
    except (RayforceValueError, RayforceConversionError) as error:
        raise _Invalid(f"{place}: {error}") from None


def _error_object(failure: Failure) -> str:
    return _quoted({"code": failure.code, "message": failure.message})


def _quoted(data: object) -> str:
    return json.dumps(data, separators=(",", ":"))


_KINDS = ("query", "call", "snapshot", "publish", "cancel", "subscribe", "unsubscribe")
