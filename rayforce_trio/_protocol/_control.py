"""Control messages of the extended protocol: text messages that contain one JSON object each.

The keys of the object name the notices in it. Unknown keys are ignored, so that later versions can add keys.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ._violation import ProtocolViolation

CONTROL_LIMIT = 64 * 1024
"""The length of the longest control message, in characters. Parsing a longer one would block the event loop."""

MAX_TOPIC_SIZE = 1024
"""The length of the longest topic, in bytes of UTF-8."""

SUBSCRIPTIONS, STREAMS, ROWS = "subscriptions", "streams", "rows"
"""The features that a client can ask for in its hello."""

ACCESS, GAP, LIMIT, ENGINE = "access", "gap", "limit", "engine"
"""The codes of `UnsubscribedNotice`: the client may not subscribe to the topic; updates are missing; there are too many
subscriptions or topics; the engine cannot be reached.
"""

_MESSAGE_LIMIT = 5 * 1024
"""The characters of an error message that are sent. JSON may need twelve for one, so `CONTROL_LIMIT` holds."""

MAX_ID = 2**63 - 1
"""The largest id of a subscription or stream, and the largest sequence number."""

_MAX_EPOCH_SIZE = 64  # characters


@dataclass(frozen=True, slots=True)
class Position:
    """A position in the updates of a topic, behind which a subscription can be resumed. It can be pickled.

    Attributes:
        epoch: the id of a series of numbers. Numbers of different epochs cannot be compared.
        sequence: the number of the last update before this position; 0 if there is none.
    """

    epoch: str
    sequence: int


@dataclass(frozen=True, slots=True)
class HelloNotice:
    """The client asks for these features, or the server has them."""

    features: frozenset[str]


@dataclass(frozen=True, slots=True)
class CancelNotice:
    """The client cancels request `number`."""

    number: int


@dataclass(frozen=True, slots=True)
class TraceNotice:
    """The client's next request or post belongs to a trace. The values are those of W3C Trace Context, unchecked.

    Attributes:
        traceparent: the trace, and the span of the call that sends the request.
        tracestate: what tracing systems have added; empty if there is nothing.
    """

    traceparent: str
    tracestate: str = ""


@dataclass(frozen=True, slots=True)
class ErrorNotice:
    """The response of request `number` is an error."""

    number: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class SubscribeNotice:
    """The client subscribes to a topic; with `resume`, to the updates behind that position.

    The client chooses the id, an integer above 0, and never uses it twice on a connection.
    """

    id: int
    topic: str
    resume: Position | None


@dataclass(frozen=True, slots=True)
class UnsubscribeNotice:
    """The client ends a subscription. The server does not answer this."""

    id: int


@dataclass(frozen=True, slots=True)
class SubscribedNotice:
    """A subscription is active. Its first update is the one behind `position`."""

    id: int
    position: Position


@dataclass(frozen=True, slots=True)
class UnsubscribedNotice:
    """The server has refused or ended a subscription, and sends no more updates for it."""

    id: int
    code: str
    message: str


Notice = (
    HelloNotice
    | CancelNotice
    | TraceNotice
    | ErrorNotice
    | SubscribeNotice
    | UnsubscribeNotice
    | SubscribedNotice
    | UnsubscribedNotice
)


def dump_hello(features: Iterable[str]) -> str:
    """Return the text in which a client asks for features, or a server names those it has."""
    return json.dumps({"hello": {"features": sorted(features)}})


def dump_cancel(number: int) -> str:
    """Return the text that asks the server to stop request `number`."""
    return json.dumps({"cancel": number})


def dump_trace(trace: TraceNotice) -> str:
    """Return the text that is sent directly before a request or post that belongs to a trace."""
    document = {"traceparent": trace.traceparent}
    if trace.tracestate:
        document["tracestate"] = trace.tracestate
    return json.dumps({"trace": document})


def dump_error(number: int, code: str, message: str) -> str:
    """Return the text that answers request `number` with an error."""
    return json.dumps({"error": {"request": number, "code": code, "message": message[:_MESSAGE_LIMIT]}})


def dump_subscribe(subscription: int, topic: str, resume: Position | None = None) -> str:
    """Return the text that subscribes to a topic."""
    document: dict[str, Any] = {"id": subscription, "topic": topic}
    if resume is not None:
        document["resume"] = _dump_position(resume)
    return json.dumps({"subscribe": document})


def dump_unsubscribe(subscription: int) -> str:
    """Return the text that ends a subscription."""
    return json.dumps({"unsubscribe": subscription})


def dump_subscribed(subscription: int, position: Position) -> str:
    """Return the text that tells the client that a subscription is active."""
    return json.dumps({"subscribed": {"id": subscription, **_dump_position(position)}})


def dump_unsubscribed(subscription: int, code: str, message: str) -> str:
    """Return the text that tells the client that the server has refused or ended a subscription."""
    return json.dumps({"unsubscribed": {"id": subscription, "code": code, "message": message[:_MESSAGE_LIMIT]}})


def parse_control(text: str) -> list[Notice]:
    """Read a control message.

    Raises:
        ProtocolViolation: the text is not a JSON object, or the value of a known key is invalid.
    """
    if len(text) > CONTROL_LIMIT:
        raise ProtocolViolation(f"a control message of {len(text)} characters; the limit is {CONTROL_LIMIT}")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise ProtocolViolation("a text message that is not JSON") from None
    if not isinstance(document, dict):
        raise ProtocolViolation("a text message that is not a JSON object")
    return [parse(document[key]) for key, parse in _PARSERS.items() if key in document]


def _number(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ProtocolViolation("a request number must be an integer above 0")
    return value


def _id(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= MAX_ID:
        raise ProtocolViolation("the id of a subscription must be an integer above 0 that fits in 64 bits")
    return value


def _hello(value: Any) -> HelloNotice:
    match value:
        case {"features": list(features)}:
            return HelloNotice(frozenset(feature for feature in features if isinstance(feature, str)))
        case dict():
            return HelloNotice(frozenset())
    raise ProtocolViolation("a hello must be an object")


def _error(value: Any) -> ErrorNotice:
    match value:
        case {"request": number, "code": str(code), "message": str(message)}:
            return ErrorNotice(_number(number), code, message)
    raise ProtocolViolation("an error must have a request number, a code and a message")


def _trace(value: Any) -> TraceNotice:
    match value:
        case {"traceparent": str(parent), "tracestate": str(state)}:
            return TraceNotice(parent, state)
        case {"traceparent": str(parent)} if "tracestate" not in value:
            return TraceNotice(parent)
    raise ProtocolViolation("a trace must have a traceparent, and its values must be text")


def _subscribe(value: Any) -> SubscribeNotice:
    match value:
        case {"id": number, "topic": str(topic)}:
            resume = _position(value["resume"]) if "resume" in value else None
            return SubscribeNotice(_id(number), _topic(topic), resume)
    raise ProtocolViolation("a subscription must have an id and a topic")


def _subscribed(value: Any) -> SubscribedNotice:
    match value:
        case {"id": number}:
            return SubscribedNotice(_id(number), _position(value))
    raise ProtocolViolation("a subscription must have an id")


def _unsubscribed(value: Any) -> UnsubscribedNotice:
    match value:
        case {"id": number, "code": str(code), "message": str(message)}:
            return UnsubscribedNotice(_id(number), code, message)
    raise ProtocolViolation("the end of a subscription must have an id, a code and a message")


def _topic(text: str) -> str:
    if problem := topic_problem(text):
        raise ProtocolViolation(f"a topic {problem}")
    return text


def topic_problem(topic: str) -> str | None:
    """Return why a text cannot be a topic, as the end of a sentence; `None` if it can."""
    try:
        size = len(topic.encode())
    except UnicodeEncodeError:
        return "must be text that UTF-8 can encode"
    if not topic:
        return "must not be empty"
    if "\0" in topic:
        return "must not contain NUL"
    return f"must have at most {MAX_TOPIC_SIZE} bytes" if size > MAX_TOPIC_SIZE else None


def is_valid_position(position: Any) -> bool:
    """Return whether this is a position that a server can have: applications can make one of any values."""
    match position:
        case Position(epoch=str(epoch), sequence=int(sequence)) if type(sequence) is int:
            return len(epoch) <= _MAX_EPOCH_SIZE and 0 <= sequence <= MAX_ID
    return False


def _position(value: Any) -> Position:
    match value:
        case {"epoch": epoch, "sequence": sequence} if is_valid_position(position := Position(epoch, sequence)):
            return position
    raise ProtocolViolation("a position must have an epoch and a sequence number")


def _dump_position(position: Position) -> dict[str, Any]:
    return {"epoch": position.epoch, "sequence": position.sequence}


_PARSERS: dict[str, Callable[[Any], Notice]] = {
    "hello": _hello,
    "cancel": lambda value: CancelNotice(_number(value)),
    "trace": _trace,
    "error": _error,
    "subscribe": _subscribe,
    "unsubscribe": lambda value: UnsubscribeNotice(_id(value)),
    "subscribed": _subscribed,
    "unsubscribed": _unsubscribed,
}
"""The notices in the order in which they are reported."""
