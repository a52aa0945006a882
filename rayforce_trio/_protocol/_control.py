"""Control messages of the extended protocol: text messages that contain one JSON object each.

The keys of the object name the notices in it. Unknown keys are ignored, so that later versions can add keys.
"""

import json
from dataclasses import dataclass
from typing import Any

from ._violation import ProtocolViolation

CONTROL_LIMIT = 64 * 1024
"""The length of the longest control message, in characters. Parsing a longer one would block the event loop."""

_MESSAGE_LIMIT = 5 * 1024
"""How much of an error message is sent, in characters. JSON may need twelve for one, so `CONTROL_LIMIT` holds."""


@dataclass(frozen=True, slots=True)
class CancelNotice:
    """The client cancels request `number`."""

    number: int


@dataclass(frozen=True, slots=True)
class ErrorNotice:
    """The response of request `number` is an error."""

    number: int
    code: str
    message: str


def dump_cancel(number: int) -> str:
    """Return the text that asks the server to stop request `number`."""
    return json.dumps({"cancel": number})


def dump_error(number: int, code: str, message: str) -> str:
    """Return the text that answers request `number` with an error."""
    return json.dumps({"error": {"request": number, "code": code, "message": message[:_MESSAGE_LIMIT]}})


def parse_control(text: str) -> list[CancelNotice | ErrorNotice]:
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
    notices: list[CancelNotice | ErrorNotice] = []
    if "cancel" in document:
        notices.append(CancelNotice(_number(document["cancel"])))
    if "error" in document:
        notices.append(_error(document["error"]))
    return notices


def _number(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ProtocolViolation("a request number must be an integer above 0")
    return value


def _error(value: Any) -> ErrorNotice:
    match value:
        case {"request": number, "code": str(code), "message": str(message)}:
            return ErrorNotice(_number(number), code, message)
    raise ProtocolViolation("an error must have a request number, a code and a message")
