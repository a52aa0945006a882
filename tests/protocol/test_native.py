"""The credentials of the native protocol."""

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayforce_trio._protocol import dump_credentials

SECRET = "correct horse"
LARGEST = 253  # bytes that user name and password have together


@pytest.mark.parametrize(
    ("user", "password", "data"),
    [
        ("ann", "secret", b"\x0bann:secret\0"),
        ("", "", b"\x02:\0"),
        ("", "a:b", b"\x05:a:b\0"),
        ("é", "ü", b"\x06\xc3\xa9:\xc3\xbc\0"),
    ],
)
def test_credentials_as_they_are_sent(user: str, password: str, data: bytes) -> None:
    assert dump_credentials(user, password) == data


@given(st.text(), st.text())
def test_credentials_are_sent_as_they_are_or_not_at_all(user: str, password: str) -> None:
    try:
        length, *rest = dump_credentials(user, password)
    except ValueError:
        assert ":" in user or "\0" in user + password or len((user + password).encode()) > LARGEST
    else:
        assert length == len(rest) <= 255
        assert bytes(rest).decode() == f"{user}:{password}\0"
        assert bytes(rest).decode()[:-1].split(":", 1) == [user, password]


@pytest.mark.parametrize(
    ("user", "password", "why"),
    [
        ("a:b", SECRET, "the user name no colon"),
        ("ann", f"{SECRET}\0", "Must not contain NUL"),
        ("a\0nn", SECRET, "Must not contain NUL"),
        ("ann", SECRET * 20, "Must have at most 253 bytes together"),
        (SECRET * 20, "", "Must have at most 253 bytes together"),
        ("", "é" * 127, "Must have at most 253 bytes together"),
        ("ann", f"{SECRET}\udcff", "UTF-8|utf-8"),
        (f"{SECRET}\udcff", "", "UTF-8|utf-8"),
    ],
    ids=ascii,
)
def test_credentials_that_cannot_be_sent_are_refused_without_being_shown(user: str, password: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        dump_credentials(user, password)
    shown = [str(caught.value), repr(caught.value), *traceback.format_exception(caught.value)]
    assert not [text for text in shown if "horse" in text or "é" in text or "\\udcff" in text]


@pytest.mark.parametrize("password", [None, b"secret", 5])
def test_a_password_that_is_no_text_is_refused(password: str) -> None:
    with pytest.raises((TypeError, ValueError, AttributeError)):
        dump_credentials("ann", password)
