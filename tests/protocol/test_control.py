import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayforce_trio._protocol import (
    CONTROL_LIMIT,
    CancelNotice,
    ErrorNotice,
    ProtocolViolation,
    dump_cancel,
    dump_error,
    parse_control,
)

numbers = st.integers(min_value=1)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
# Near the truth: the keys that mean something, with values that may not.
documents = st.dictionaries(
    st.sampled_from(["cancel", "error", "hello"]),
    json_values
    | st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("request", "code", "message", "further"), numbers | json_values)
    ),
)


def error(**fields: Any) -> str:
    return json.dumps({"error": {"request": 1, "code": "type", "message": "no", **fields}})


def test_the_text_on_the_wire() -> None:
    assert dump_cancel(7) == '{"cancel": 7}'
    assert dump_error(7, "type", "no") == '{"error": {"request": 7, "code": "type", "message": "no"}}'


@given(numbers)
def test_a_cancel_arrives_as_it_was_sent(number: int) -> None:
    assert parse_control(dump_cancel(number)) == [CancelNotice(number)]


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
    ["{}", '{"hello": {"version": 2}}', '{"Cancel": 1}', ' {"push": null}\n', '{"nan": NaN, "inf": -Infinity}'],
)
def test_unknown_keys_mean_nothing(text: str) -> None:
    assert parse_control(text) == []


def test_unknown_keys_do_not_hide_known_ones() -> None:
    text = '{"hello": {}, "error": {"request": 3, "code": "type", "message": "", "trace": []}, "cancel": 2}'
    assert parse_control(text) == [CancelNotice(2), ErrorNotice(3, "type", "")]


NOT_JSON = "^a text message that is not JSON$"
NO_OBJECT = "^a text message that is not a JSON object$"
NO_NUMBER = "^a request number must be an integer above 0$"
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
    assert all(type(notice.number) is int and notice.number >= 1 for notice in notices)


@pytest.mark.parametrize("text", ['{"cancel": "\ud800"}', '"\\ud800"', "\ud800", '{"\ud800": 1, "cancel": "\\udfff"}'])
def test_lone_surrogates_raise_nothing_but_violations(text: str) -> None:
    with pytest.raises(ProtocolViolation):
        parse_control(text)
