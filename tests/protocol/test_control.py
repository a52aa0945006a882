import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayforce_trio._protocol import (
    CONTROL_LIMIT,
    MAX_TOPIC_SIZE,
    STREAMS,
    SUBSCRIPTIONS,
    CancelNotice,
    ErrorNotice,
    HelloNotice,
    Position,
    ProtocolViolation,
    SubscribedNotice,
    SubscribeNotice,
    TraceNotice,
    UnsubscribedNotice,
    UnsubscribeNotice,
    dump_cancel,
    dump_error,
    dump_hello,
    dump_subscribe,
    dump_subscribed,
    dump_trace,
    dump_unsubscribe,
    dump_unsubscribed,
    parse_control,
    topic_problem,
)

numbers = st.integers(min_value=1)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
FIELDS = (
    *("request", "code", "message", "features", "id", "topic", "epoch", "sequence", "resume", "traceparent"),
    *("tracestate", "further"),
)
# Near the truth: the keys that mean something, with values that may not.
documents = st.dictionaries(
    st.sampled_from(
        ["cancel", "error", "hello", "subscribe", "subscribed", "trace", "unsubscribe", "unsubscribed", "later"]
    ),
    json_values | st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, numbers | json_values)),
)


def error(**fields: Any) -> str:
    return json.dumps({"error": {"request": 1, "code": "type", "message": "no", **fields}})


def test_the_text_on_the_wire() -> None:
    assert dump_cancel(7) == '{"cancel": 7}'
    assert dump_error(7, "type", "no") == '{"error": {"request": 7, "code": "type", "message": "no"}}'
    assert dump_trace(TraceNotice("00-a-b-01")) == '{"trace": {"traceparent": "00-a-b-01"}}'
    assert dump_trace(TraceNotice("p", "a=1")) == '{"trace": {"traceparent": "p", "tracestate": "a=1"}}'


@given(numbers)
def test_a_cancel_arrives_as_it_was_sent(number: int) -> None:
    assert parse_control(dump_cancel(number)) == [CancelNotice(number)]


@given(st.text(), st.text())
def test_a_trace_arrives_as_it_was_sent(parent: str, state: str) -> None:
    assert parse_control(dump_trace(TraceNotice(parent, state))) == [TraceNotice(parent, state)]


@given(numbers, st.text(max_size=7), st.text())
def test_an_error_arrives_as_it_was_sent(number: int, code: str, message: str) -> None:
    assert parse_control(dump_error(number, code, message)) == [ErrorNotice(number, code, message)]


@pytest.mark.parametrize("character", ["x", "é", "\N{CJK UNIFIED IDEOGRAPH-4E2D}", "\N{GRINNING FACE}", "\0", '"'])
def test_a_long_message_is_cut_so_that_the_text_stays_within_the_limit(character: str) -> None:
    text = dump_error(2**63, "seven77", character * CONTROL_LIMIT)
    assert len(text) <= CONTROL_LIMIT
    (notice,) = parse_control(text)
    assert isinstance(notice, ErrorNotice)
    assert set(notice.message) == {character}
    assert len(notice.message) >= 4 * 1024


@pytest.mark.parametrize(
    "text",
    ["{}", '{"later": {"version": 2}}', '{"Cancel": 1}', ' {"push": null}\n', '{"nan": NaN, "inf": -Infinity}'],
)
def test_unknown_keys_mean_nothing(text: str) -> None:
    assert parse_control(text) == []


def test_unknown_keys_do_not_hide_known_ones() -> None:
    text = '{"later": {}, "error": {"request": 3, "code": "type", "message": "", "trace": []}, "cancel": 2}'
    assert parse_control(text) == [CancelNotice(2), ErrorNotice(3, "type", "")]


NOT_JSON = "^a text message that is not JSON$"
NO_OBJECT = "^a text message that is not a JSON object$"
NO_NUMBER = "^a request number must be an integer above 0$"
NO_TRACE = "^a trace must have a traceparent, and its values must be text$"
NO_ERROR = "^an error must have a request number, a code and a message$"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", NOT_JSON),
        ("cancel 1", NOT_JSON),
        ('{"cancel": 1', NOT_JSON),
        ('{"cancel": 1} {"cancel": 2}', NOT_JSON),
        ("{'cancel': 1}", NOT_JSON),
        ("\ufeff{}", NOT_JSON),
        ("[" * CONTROL_LIMIT, NOT_JSON),
        ('{"a":' * (CONTROL_LIMIT // 5), NOT_JSON),
        ('{"cancel": ' + "9" * 5000 + "}", NOT_JSON),
        ("null", NO_OBJECT),
        ("1", NO_OBJECT),
        ("NaN", NO_OBJECT),
        ('"{}"', NO_OBJECT),
        ('["cancel", 1]', NO_OBJECT),
        ('{"cancel": 0}', NO_NUMBER),
        ('{"cancel": -1}', NO_NUMBER),
        ('{"cancel": 1.0}', NO_NUMBER),
        ('{"cancel": 1e3}', NO_NUMBER),
        ('{"cancel": NaN}', NO_NUMBER),
        ('{"cancel": Infinity}', NO_NUMBER),
        ('{"cancel": true}', NO_NUMBER),
        ('{"cancel": null}', NO_NUMBER),
        ('{"cancel": "1"}', NO_NUMBER),
        ('{"cancel": [1]}', NO_NUMBER),
        ('{"cancel": 1, "cancel": 0}', NO_NUMBER),
        (error(request=True), NO_NUMBER),
        (error(request=0), NO_NUMBER),
        (error(request=None), NO_NUMBER),
        (error(code=1), NO_ERROR),
        (error(code=None), NO_ERROR),
        (error(message=["no"]), NO_ERROR),
        ('{"error": {"code": "type", "message": "no"}}', NO_ERROR),
        ('{"error": {"request": 1, "message": "no"}}', NO_ERROR),
        ('{"error": {"request": 1, "code": "type"}}', NO_ERROR),
        ('{"error": "no"}', NO_ERROR),
        ('{"error": null}', NO_ERROR),
        ('{"error": [1, "type", "no"]}', NO_ERROR),
        ('{"trace": "00-a-b-01"}', NO_TRACE),
        ('{"trace": {}}', NO_TRACE),
        ('{"trace": {"tracestate": "a=1"}}', NO_TRACE),
        ('{"trace": {"traceparent": null}}', NO_TRACE),
        ('{"trace": {"traceparent": "p", "tracestate": null}}', NO_TRACE),
        ('{"trace": {"traceparent": "p", "tracestate": ["a=1"]}}', NO_TRACE),
    ],
    ids=lambda value: value[:40],
)
def test_what_makes_no_sense_is_refused(text: str, why: str) -> None:
    with pytest.raises(ProtocolViolation, match=why):
        parse_control(text)


def test_the_limit_counts_characters() -> None:
    longest = '{"x": "' + "é" * (CONTROL_LIMIT - 9) + '"}'
    assert parse_control(longest) == []
    with pytest.raises(ProtocolViolation, match=r"^a control message of 65537 characters; the limit is 65536$"):
        parse_control(longest + " ")


@given(st.text() | json_values.map(json.dumps) | documents.map(json.dumps))
def test_arbitrary_text_raises_nothing_but_violations(text: str) -> None:
    try:
        notices = parse_control(text)
    except ProtocolViolation:
        return
    for notice in notices:
        match notice:
            case HelloNotice(features):
                assert all(type(feature) is str for feature in features)
            case CancelNotice(number) | ErrorNotice(number):
                assert type(number) is int
                assert number >= 1
            case SubscribeNotice(number) | UnsubscribeNotice(number) | SubscribedNotice(number):
                assert 1 <= number < 2**63
            case TraceNotice(parent, state):
                assert type(parent) is type(state) is str
            case UnsubscribedNotice(number, code, message):
                assert 1 <= number < 2**63
                assert type(code) is type(message) is str


positions = st.builds(Position, st.text(max_size=64), st.integers(0, 2**63 - 1))
ids = st.integers(1, 2**63 - 1)
topics = st.text(min_size=1, max_size=256).filter(lambda topic: topic_problem(topic) is None)


@given(ids, topics, st.none() | positions)
def test_a_subscription_arrives_as_it_was_sent(number: int, topic: str, resume: Position | None) -> None:
    assert parse_control(dump_subscribe(number, topic, resume)) == [SubscribeNotice(number, topic, resume)]
    assert parse_control(dump_unsubscribe(number)) == [UnsubscribeNotice(number)]


@given(ids, positions, st.text(max_size=7), st.text(max_size=100))
def test_the_answers_to_a_subscription_arrive_as_they_were_sent(
    number: int, position: Position, code: str, message: str
) -> None:
    assert parse_control(dump_subscribed(number, position)) == [SubscribedNotice(number, position)]
    assert parse_control(dump_unsubscribed(number, code, message)) == [UnsubscribedNotice(number, code, message)]


@pytest.mark.parametrize("features", [set(), {SUBSCRIPTIONS}, {SUBSCRIPTIONS, STREAMS, "of a later version"}])
def test_a_hello_arrives_as_it_was_sent(features: set[str]) -> None:
    assert parse_control(dump_hello(features)) == [HelloNotice(frozenset(features))]


@pytest.mark.parametrize(
    ("topic", "problem"),
    [
        ("", "must not be empty"),
        ("a\0b", "must not contain NUL"),
        ("\ud800", "must be text that UTF-8 can encode"),
        ("é" * (MAX_TOPIC_SIZE // 2) + "x", "must have at most 1024 bytes"),
    ],
)
def test_a_text_that_cannot_be_a_topic_is_refused(topic: str, problem: str) -> None:
    assert topic_problem(topic) == problem
    with pytest.raises(ProtocolViolation, match=f"a topic {problem}"):
        parse_control(json.dumps({"subscribe": {"id": 1, "topic": topic}}))


@pytest.mark.parametrize("text", ['{"cancel": "\ud800"}', '"\\ud800"', "\ud800", '{"\ud800": 1, "cancel": "\\udfff"}'])
def test_lone_surrogates_raise_nothing_but_violations(text: str) -> None:
    with pytest.raises(ProtocolViolation):
        parse_control(text)
