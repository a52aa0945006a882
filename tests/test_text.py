"""Text for people: made safe to print, and numbers with their nouns."""

import pytest

from rayforce_trio._text import counted, escape_controls


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


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1_000_000, "1000000 rows"), (-1, "-1 rows")]
)
def test_a_noun_has_the_number_of_its_count(number: int, text: str) -> None:
    assert counted(number, "row") == text


@pytest.mark.parametrize(("number", "text"), [(0.0, "0 seconds"), (1.0, "1 second"), (0.25, "0.25 seconds")])
def test_fractions_are_short(number: float, text: str) -> None:
    assert counted(number, "second") == text


def test_a_plural_can_be_given() -> None:
    assert [counted(number, "query", "queries") for number in (1, 2)] == ["1 query", "2 queries"]
