"""Text that is made safe to print."""

import pytest

from rayforce_trio._text import escape_controls


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("", ""),
        ("visible: änn €", "visible: änn €"),
        ("two\r\nlines", r"two\r\nlines"),
        ("\x1b[2J\0\x7f\x9b", r"\x1b[2J\x00\x7f\x9b"),
        ("\u202eleft to right\u2028", r"\u202eleft to right\u2028"),
        ("\udc80", r"\udc80"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_characters_that_are_not_visible_are_escaped(text: str, escaped: str) -> None:
    assert escape_controls(text) == escaped


def test_some_characters_can_be_kept() -> None:
    assert escape_controls("a\tb\r\n\x1b", keep="\n\t") == "a\tb\\r\n\\x1b"
