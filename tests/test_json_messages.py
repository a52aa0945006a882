"""The messages of `rayforce.json.v1`: every event, without a connection."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayforce_trio._protocol import (
    HEADER_SIZE,
    Failure,
    MessageType,
    Position,
    Publish,
    Result,
    Snapshot,
    Update,
    dump_error,
    dump_hello,
    dump_subscribed,
    dump_unsubscribed,
    join_verbose,
    parse_frame,
    parse_server_call,
    response_frame,
)
from rayforce_trio._server._json_messages import JsonMessages, update_text
from rayforce_trio._values._payloads import NULL, call, i64, list_of, name, quoted, string, symbol
from rayforce_trio.errors import RayforceConversionError

THREE = {"type": "i64", "value": 3}
DAMAGED = {"code": "io", "message": "the engine sent a damaged reply"}


def payload_of(messages: JsonMessages, **message: Any) -> bytes:
    """Return the payload of the request that a message becomes."""
    frame = messages.receive(json.dumps(message))
    assert isinstance(frame, bytes)
    header = parse_frame(frame)
    assert header.message_type is MessageType.SYNC
    return frame[HEADER_SIZE:]


def answered(messages: JsonMessages, payload: bytes) -> Any:
    """Return the text of an answer, as data."""
    text = str(messages.answer(response_frame(payload)))
    messages.answered()
    return json.loads(text)


def refused(messages: JsonMessages, text: str) -> tuple[Any, str, str]:
    """Return the id, code and message of the error that answers a message which is not valid."""
    frame = messages.receive(text)
    assert isinstance(frame, bytes)
    assert parse_frame(frame).compressed, "the server refuses it in its turn"
    answer, is_answer = messages.control(dump_error(1, "nyi", "compressed requests are not supported"))
    assert is_answer
    messages.answered()
    document = json.loads(str(answer))
    return document["id"], document["error"]["code"], document["error"]["message"]


# Requests


def test_a_query_is_sent_as_text() -> None:
    assert payload_of(JsonMessages(), id=1, query="(+ 1 2)") == string("(+ 1 2)")


def test_parameters_are_data() -> None:
    parsed = call("eval", call("parse", string("(+ x 1)")))
    payload = payload_of(JsonMessages(), id=1, query="(+ x 1)", params={"x": 2})
    assert payload == call("do", call("let", name("x"), quoted(i64(2))), parsed)


@pytest.mark.parametrize(
    ("function", "head"),
    [("upd", name("upd")), ("(fn [x] x)", call("eval", call("parse", string("(fn [x] x)"))))],
)
def test_a_call_has_arguments(function: str, head: bytes) -> None:
    assert payload_of(JsonMessages(), id=1, call=function, arguments=[6]) == list_of([head, quoted(i64(6))])
    assert payload_of(JsonMessages(), id=1, call=function) == list_of([head])


def test_a_snapshot_is_a_call_of_the_server() -> None:
    messages = JsonMessages()
    frame = messages.receive('{"id": 1, "snapshot": 5, "query": "trades"}')
    assert isinstance(frame, bytes)
    found = parse_server_call(frame)
    assert isinstance(found, Snapshot)
    assert (found.subscription, bytes(found.query)) == (5, string("trades"))


def test_a_value_is_published_by_a_call_of_the_server() -> None:
    messages = JsonMessages()
    frame = messages.receive('{"id": 1, "publish": "trades", "value": 7}')
    assert isinstance(frame, bytes)
    found = parse_server_call(frame)
    assert isinstance(found, Publish)
    assert (found.topic, bytes(found.value)) == ("trades", i64(7))


def test_output_is_asked_for_by_a_flag() -> None:
    frame = JsonMessages().receive('{"id": 1, "query": "x", "output": true}')
    assert isinstance(frame, bytes)
    assert parse_frame(frame).verbose


@pytest.mark.parametrize(
    "text",
    [
        '{"subscribe": {"id": 1, "topic": "trades"}}',
        '{"subscribe": {"id": 1, "topic": "trades", "resume": {"epoch": "e", "sequence": 4}}}',
        '{"unsubscribe": 1}',
    ],
)
def test_subscriptions_are_control_messages_already(text: str) -> None:
    translated = JsonMessages().receive(text)
    assert isinstance(translated, str)
    assert json.loads(translated) == json.loads(text)


# Cancels and ids


def test_a_request_is_cancelled_by_its_id_until_it_is_answered() -> None:
    messages = JsonMessages()
    messages.receive('{"id": "a", "query": "x"}')
    messages.receive('{"id": 7, "query": "x"}')
    assert messages.receive('{"cancel": 7}') == '{"cancel": 2}'
    assert messages.receive('{"cancel": "a"}') == '{"cancel": 1}'
    assert messages.receive('{"cancel": "7"}') is None
    answered(messages, i64(3))
    assert messages.receive('{"cancel": "a"}') is None


def test_messages_that_are_not_valid_are_numbered_too() -> None:
    messages = JsonMessages()
    messages.receive("nonsense")
    messages.receive('{"id": 1, "query": "x"}')
    assert messages.receive('{"cancel": 1}') == '{"cancel": 2}'


def test_an_id_can_be_used_again_when_it_is_answered() -> None:
    messages = JsonMessages()
    messages.receive('{"id": 1, "query": "x"}')
    messages.receive('{"id": 1, "query": "y"}')
    assert answered(messages, i64(3)) == {"id": 1, "result": THREE}
    error, _ = messages.control(dump_error(2, "nyi", ""))
    assert json.loads(str(error)) == {
        "id": 1,
        "error": {"code": "request", "message": "the id 1 belongs to a request that is not answered yet"},
    }
    messages.answered()
    assert payload_of(messages, id=1, query="z") == string("z")
    assert messages.receive('{"cancel": 1}') == '{"cancel": 3}'


# Messages that are not valid


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "must be JSON"),
        ("nonsense", "must be JSON"),
        ("[" * 50_000, "nested too deeply"),
        ('{"id": 1, "query": "x", "params": {"x": NaN}}', "must be JSON"),
        (f'{{"id": {"9" * 5000}, "query": "x"}}', "must be JSON"),
        ("[]", "must be a JSON object"),
        ("3", "must be a JSON object"),
        ("{}", "must have one of the keys query, call, snapshot, publish, cancel, subscribe, unsubscribe"),
        ('{"query": "x", "call": "y"}', "must have one of the keys"),
        ('{"query": "x", "cancel": 1}', "must have one of the keys"),
        ('{"query": "x"}', "must have an id"),
        ('{"query": "x", "id": null}', "an id must be an integer or a string"),
        ('{"query": "x", "id": true}', "an id must be an integer or a string"),
        ('{"query": "x", "id": 1.5}', "an id must be an integer or a string"),
        ('{"query": "x", "id": {}}', "an id must be an integer or a string"),
        (f'{{"query": "x", "id": {2**53 + 1}}}', "an id that is an integer must be between -2**53 and 2**53"),
        (f'{{"query": "x", "id": "{"a" * 129}"}}', "an id that is a string must have at most 128 characters"),
        ('{"cancel": null}', "an id must be an integer or a string"),
        ('{"cancel": [1]}', "an id must be an integer or a string"),
        ('{"subscribe": {"id": 0, "topic": "t"}}', "the id of a subscription must be an integer above 0"),
        ('{"subscribe": {"id": 1}}', "a subscription must have an id and a topic"),
        ('{"subscribe": {"id": 1, "topic": ""}}', "a topic must not be empty"),
        ('{"unsubscribe": "1"}', "the id of a subscription must be an integer above 0"),
    ],
)
def test_a_message_that_is_not_valid_is_answered_in_its_turn(text: str, says: str) -> None:
    given_id, code, message = refused(JsonMessages(), text)
    assert (given_id, code) == (None, "request")
    assert says in message


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"query": 5}, "query must be a string"),
        ({"query": "\ud800"}, "must not contain a lone surrogate"),
        ({"query": "x", "params": [1]}, "params must be an object of names and values; to pass arguments"),
        ({"query": "x", "params": {"a b": 1}}, "'a b' cannot be the name of a parameter"),
        ({"query": "x", "params": {"let": 1}}, "'let' cannot be the name of a parameter"),
        ({"query": "x", "params": {"x": 2**70}}, "params.x: "),
        ({"query": "x", "integers": "both"}, 'integers must be "auto", "number" or "string"'),
        ({"query": "x", "integers": ["auto"]}, 'integers must be "auto", "number" or "string"'),
        ({"query": "x", "output": 1}, "output must be true or false"),
        ({"call": 5}, "call must be the name of a function"),
        ({"call": "(fn [x] \ud800)"}, "must not contain a lone surrogate"),
        ({"call": "a b"}, "Must be the name of a function or a lambda"),
        ({"call": ".ws.publish", "arguments": []}, "names that begin with .ws. are reserved"),
        ({"call": "f", "arguments": {}}, "arguments must be an array"),
        ({"call": "f", "arguments": [2**70]}, "arguments[0]: "),
        ({"call": "f", "arguments": [0] * 65}, "at most 64"),
        ({"snapshot": 0, "query": "x"}, "snapshot must be the id of a subscription"),
        ({"snapshot": True, "query": "x"}, "snapshot must be the id of a subscription"),
        ({"snapshot": 1}, "a request for a snapshot must have a query"),
        ({"call": "f", "arguments": [{"type": "time", "value": "0" * 5000 + ":00:00"}]}, "is not a time such as"),
        ({"publish": 5, "value": 1}, "publish must be a topic"),
        ({"publish": "", "value": 1}, "a topic must not be empty"),
        ({"publish": "t"}, "value must be a value other than null"),
        ({"publish": "t", "value": 2**70}, ""),
    ],
)
def test_a_request_that_is_not_valid_is_answered_with_its_id(message: dict[str, Any], says: str) -> None:
    given_id, code, text = refused(JsonMessages(), json.dumps({"id": "a", **message}))
    assert (given_id, code) == ("a", "request")
    assert says in text


@pytest.mark.parametrize(
    "message",
    [
        {"id": 1, "query": "x", "params": {f"p{number}": number for number in range(1000)}},
        {"id": 1, "call": "f", "arguments": [[[1]] * 1000]},
        {"id": 1, "snapshot": 1, "query": "x", "params": {"a": [[1]] * 1000}},
        {"id": 1, "publish": "t", "value": [[1]] * 1000},
    ],
    ids=["params", "arguments", "snapshot", "publish"],
)
def test_a_long_request_is_translated_in_many_steps(message: dict[str, Any]) -> None:
    text = json.dumps(message)
    messages = JsonMessages()
    steps = messages.receive_in_steps(text)
    assert sum(1 for _ in steps) >= 1000
    assert messages.receive(text.replace('"id": 1', '"id": 2')) == JsonMessages().receive(text)


def deepest_json(limit: int = 100_000) -> int:
    """Return about how many levels of arrays the `json` module can read here."""
    low, high = 1, limit
    while low + 1 < high:
        middle = (low + high) // 2
        try:
            json.loads("[" * middle + "]" * middle)
            low = middle
        except RecursionError:
            high = middle
    return low


@pytest.mark.parametrize("pair", [("[", "]"), ('{"x":', "}"), ('{"x":[', "]}")], ids=["arrays", "objects", "both"])
@pytest.mark.parametrize(
    "message",
    [
        '{"id": 1, "subscribe": @}',
        '{"id": 1, "subscribe": {"id": 1, "topic": "t", "extra": @}}',
        '{"id": 1, "unsubscribe": @}',
        '{"id": 1, "cancel": @}',
        '{"id": @, "query": "x"}',
        '{"id": 1, "query": @}',
        '{"id": 1, "query": "x", "integers": @}',
        '{"id": 1, "query": "x", "params": {"x": @}}',
        '{"id": 1, "publish": "t", "value": {"type": "table", "columns": @}}',
        '{"id": 1, "call": "f", "arguments": [{"type": "i64", "value": @}]}',
        '{"id": 1, "call": "f", "arguments": [{"type": "vector", "of": "f64", "values": @}]}',
    ],
)
def test_a_message_of_any_depth_is_translated_or_refused(message: str, pair: tuple[str, str]) -> None:
    limit = deepest_json()
    for depth in [*range(1, 110), *range(limit // 2 - 40, limit // 2 + 10), *range(limit - 60, limit + 20), 50_000]:
        text = message.replace("@", pair[0] * depth + "1" + pair[1] * depth)
        messages = JsonMessages()
        translated = messages.receive(text)
        if isinstance(translated, bytes):
            assert json.loads(str(messages.failed(Failure("x", ""))))["error"]
        else:
            assert depth <= 100
            assert translated is not None


def test_a_value_in_an_error_is_shortened() -> None:
    value = [{"a": ["x" * 50] * 1000}] * 2
    message = {"id": 1, "call": "f", "arguments": [{"type": "i64", "value": value}]}
    _, _, text = refused(JsonMessages(), json.dumps(message))
    assert text.startswith(f"arguments[0]: value[0]: {json.dumps(value):.100} is not an integer")


# Answers


def test_a_value_is_the_result() -> None:
    messages = JsonMessages()
    messages.receive('{"id": "\\ud800\\"", "query": "x"}')
    assert answered(messages, i64(3)) == {"id": '\ud800"', "result": THREE}


def test_integers_can_be_texts() -> None:
    messages = JsonMessages()
    messages.receive('{"id": 1, "query": "x", "integers": "string"}')
    assert answered(messages, i64(3))["result"]["value"] == "3"


def test_an_error_of_the_server_and_one_of_the_engine() -> None:
    messages = JsonMessages()
    messages.receive('{"id": 1, "query": "x"}')
    messages.receive('{"id": 2, "query": "x"}')
    text, is_answer = messages.control(dump_error(1, "type", "cannot add i64 and sym"))
    assert is_answer
    assert json.loads(str(text)) == {"id": 1, "error": {"code": "type", "message": "cannot add i64 and sym"}}
    messages.answered()
    assert answered(messages, b"\x7ftype\0\0\0\0") == {"id": 2, "error": {"code": "type", "message": ""}}


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (Result(response_frame(i64(3))), {"output": 'a "b" é\n', "result": THREE}),
        (Failure("type", "no"), {"output": 'a "b" é\n', "error": {"code": "type", "message": "no"}}),
    ],
)
def test_an_answer_with_output(reply: Result | Failure, answer: dict[str, Any]) -> None:
    messages = JsonMessages()
    messages.receive('{"id": 1, "query": "x", "output": true}')
    frame = join_verbose('a "b" é\n'.encode(), reply).frame
    assert isinstance(frame, bytes)
    assert answered(messages, frame[HEADER_SIZE:]) == {"id": 1, **answer}


def test_a_damaged_answer_with_output_is_an_error() -> None:
    messages = JsonMessages()
    messages.receive('{"id": 1, "query": "x", "output": true}')
    assert answered(messages, i64(3))["error"]["code"] == "io"


@pytest.mark.parametrize(
    ("payload", "answer"),
    [
        (list_of([i64(18), NULL, i64(3)]), {"sequence": 18, "result": THREE}),
        (list_of([i64(18), NULL, b"\x7ftype\0\0\0\0"]), {"error": {"code": "type", "message": ""}}),
        (b"\x7ftype\0\0\0\0", {"error": {"code": "type", "message": ""}}),
        (i64(3), {"error": DAMAGED}),
        (list_of([symbol("a"), NULL]), {"error": DAMAGED}),
    ],
)
def test_a_snapshot_has_the_number_of_the_next_update(payload: bytes, answer: dict[str, Any]) -> None:
    messages = JsonMessages()
    messages.receive('{"id": 1, "snapshot": 5, "query": "trades"}')
    assert answered(messages, payload) == {"id": 1, **answer}


@pytest.mark.parametrize(
    ("payload", "answer"), [(i64(17), {"sequence": 17}), (symbol("a"), {"error": DAMAGED})], ids=["number", "damaged"]
)
def test_a_publication_is_answered_with_its_number(payload: bytes, answer: dict[str, Any]) -> None:
    messages = JsonMessages()
    messages.receive('{"id": 1, "publish": "trades", "value": 5}')
    assert answered(messages, payload) == {"id": 1, **answer}


def test_notices_of_subscriptions_are_passed_on_and_a_hello_is_not() -> None:
    messages = JsonMessages()
    subscribed, unsubscribed = dump_subscribed(1, Position("e", 4)), dump_unsubscribed(1, "gap", "lost")
    assert [str(messages.control(text)[0]) for text in (subscribed, unsubscribed)] == [subscribed, unsubscribed]
    assert not messages.control(subscribed)[1]
    assert messages.control(dump_hello(["streams"])) == (None, False)


def test_a_damaged_value_raises_before_anything_is_sent() -> None:
    messages = JsonMessages()
    messages.receive('{"id": 1, "query": "x"}')
    with pytest.raises(RayforceConversionError):
        str(messages.answer(response_frame(i64(3)[:-1])))
    failed = str(messages.failed(Failure("io", "damaged")))
    assert json.loads(failed) == {"id": 1, "error": {"code": "io", "message": "damaged"}}


@pytest.mark.parametrize("reply", [Result(response_frame(i64(3))), Failure("type", "no")], ids=["value", "error"])
def test_a_long_output_comes_in_short_pieces(reply: Result | Failure) -> None:
    messages = JsonMessages()
    messages.receive('{"id": 1, "query": "x", "output": true}')
    printed = "é\n" * 50_000
    frame = join_verbose(printed.encode(), reply).frame
    assert isinstance(frame, bytes)
    pieces = list(messages.answer(frame).pieces())
    assert max(map(len, pieces)) <= 1 << 16
    assert json.loads("".join(pieces))["output"] == printed


# Updates


def test_an_update_has_its_value() -> None:
    assert json.loads(update_text(Update(1, 17, 2, i64(3)), json.dumps(THREE))) == {
        "update": {"id": 1, "sequence": 17, "lost": 2, "value": THREE}
    }


def test_an_update_without_a_value_has_an_error() -> None:
    assert json.loads(update_text(Update(1, 17, 0, i64(3)), Failure("toobig", "too long"))) == {
        "update": {"id": 1, "sequence": 17, "lost": 0, "error": {"code": "toobig", "message": "too long"}}
    }


# Any messages

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_KEYS = st.sampled_from(
    ["id", "query", "call", "snapshot", "publish", "cancel", "subscribe", "unsubscribe", "params", "value", "arguments"]
)


@given(st.lists(st.one_of(st.text(max_size=20), st.dictionaries(_KEYS, _JSON, max_size=4).map(json.dumps)), max_size=8))
def test_any_messages_become_requests_that_are_answered_once(texts: list[str]) -> None:
    messages = JsonMessages()
    requests = [text for text in texts if isinstance(messages.receive(text), bytes)]
    for _ in requests:
        document = answered(messages, i64(1))
        assert "id" in document
        assert "result" in document or "error" in document or "sequence" in document
    with pytest.raises(IndexError):
        messages.answer(response_frame(i64(1)))
