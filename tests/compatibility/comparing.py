"""Compare the messages of a side with its recording, except for parts that may differ between versions and runs.

These may differ: texts for people, the division of messages into fragments, pings, headers that were added, a text in
a refusal that had none, and keys of control messages that the recorded version did not know.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from support.wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, Head

from compatibility.recording import Event, Side
from compatibility.replay import BARRIER

_VARIABLE_HEADERS = {"content-length", "date", "host", "sec-websocket-key", "server", "user-agent"}
_CASELESS_HEADERS = {"connection", "upgrade"}
_NO_CODE = 1005  # RFC 6455, section 7.1.5


@dataclass
class Sent:
    """The requests, replies and other messages of one side, without the parts that may differ.

    Attributes:
        start: the method and target of its request, or the status of its response.
        headers: its headers, without those that differ from run to run.
        body: the body of a response with status 200, otherwise whether there was a body.
        messages: its messages, with their fragments joined.
        pongs: the payloads of its pongs.
        close: the code of its close frame; `None`: it sent none.
    """

    start: str = ""
    headers: set[tuple[str, str]] = field(default_factory=set)
    body: bytes | bool = False
    messages: list[Any] = field(default_factory=list)
    pongs: list[bytes] = field(default_factory=list)
    close: int | None = None


def sent_by(events: list[Event], side: Side, *, baseline: bool) -> Sent:
    """Collect the messages of one side.

    Args:
        baseline: whether the protocol is the baseline, in which a server sends errors as Strings.
    """
    sent = Sent()
    opcode, parts = BINARY, list[bytes]()
    for content in (event.content for event in events if event.side == side):
        match content:
            case Head():
                _read_head(content, sent)
            case Frame(opcode=opcode_, payload=payload) if opcode_ in (PING, PONG, CLOSE):
                if opcode_ == PONG and payload != BARRIER:
                    sent.pongs.append(payload)
                elif opcode_ == CLOSE:
                    sent.close = int.from_bytes(payload[:2]) if payload else _NO_CODE
            case Frame():
                opcode = opcode if content.opcode == CONTINUATION else content.opcode
                parts.append(content.payload)
                if content.final:
                    message = _read_message(opcode, b"".join(parts), strings_are_errors=baseline and side == "server")
                    sent.messages += [] if message is None else [message]
                    parts = []
    return sent


def _read_head(head: Head, sent: Sent) -> None:
    first, second, _ = f"{head.lines[0]}  ".split(" ", 2)
    is_response = first.startswith("HTTP/")
    sent.start = second if is_response else f"{first} {second}"
    sent.body = head.body if sent.start == "200" else bool(head.body)
    for name, value in head.headers:
        if name == "sec-websocket-protocol" and not is_response:
            sent.headers |= {(name, item.strip()) for item in value.split(",")}
        elif name not in _VARIABLE_HEADERS:
            sent.headers.add((name, value.lower() if name in _CASELESS_HEADERS else value))


def _read_message(opcode: int, payload: bytes, *, strings_are_errors: bool) -> Any:
    """Return a message without the text for people; `None` if it has no key that version 0.1.0 knows."""
    if opcode == TEXT:
        document = json.loads(payload)
        known = {key: document[key] for key in ("cancel", "error") if key in document}
        if "error" in known:
            assert isinstance(known["error"].pop("message"), str)
        return known or None
    if strings_are_errors and payload[16:17] == b"\xf3":
        return "String", payload[26:].partition(b":")[0].decode()
    return payload


def check_sent(recorded: Sent, actual: Sent) -> None:
    """Fail if the messages of a side differ from its recording."""
    assert actual.start == recorded.start
    assert recorded.headers <= actual.headers
    assert actual.body == recorded.body or not recorded.body
    assert [_shown(message) for message in actual.messages] == [_shown(message) for message in recorded.messages]
    assert actual.messages == recorded.messages
    assert actual.pongs == recorded.pongs
    assert actual.close == recorded.close


def _shown(message: Any) -> Any:
    """Return the beginning of a message: pytest takes long to show where long ones differ."""
    return message[:200] if isinstance(message, bytes) else message


def check_outcomes(recorded: dict[str, Any], actual: dict[str, Any], messages: list[str]) -> None:
    """Fail if the results and errors of a client's calls differ from the recording.

    Args:
        messages: the server's messages of errors, which the client's errors have to repeat.
    """
    assert _without_texts(actual) == _without_texts(recorded)
    for label, outcome in recorded.items():
        if isinstance(outcome, dict) and "text" in outcome:
            for message in messages:
                assert message not in outcome["text"] or message in actual[label]["text"]


def _without_texts(outcome: Any) -> Any:
    if not isinstance(outcome, dict):
        return outcome
    is_error = "error" in outcome
    return {name: _without_texts(value) for name, value in outcome.items() if not (is_error and name == "text")}


def error_messages(events: list[Event]) -> list[str]:
    """Return the messages of the errors that a server of the extended protocol has sent."""
    found = []
    for event in events:
        if event.side == "server" and isinstance(event.content, Frame) and event.content.opcode == TEXT:
            try:
                document = json.loads(event.content.payload)
            except ValueError:
                continue
            found.append(document.get("error", {}).get("message"))
    return [message for message in found if message]
