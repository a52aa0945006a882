"""Where an expression ends: compared with what the engine's own parser says of the same text."""

import pytest
from rayforce import errors, eval_str

from rayforce_trio._cli._expressions import is_blank, is_unfinished

WHOLE = [
    "1",
    "(+ 1 2)",
    "[1 2]",
    "{a: 1}",
    '"("',
    '"a\\"("',
    "'('",
    "'\"'",
    "'\\n'",
    "(list '(' '\\)' 1)",
    "(list ';' ''' 1)",
    "(list ')",
    "(quote a)",
    "(list 'sym 1)",
    "(+ 1 ; a comment with a bracket (\n 2)",
    "(+ 1 2) ; (",
    "(+ 1 2)\n(+ 3 4)",
    '";"',
    "(list 'a' 'b')",
]

UNFINISHED = ["(", "(+ 1", "(+ 1 ; )", '"abc', '(count "a)', '"a\\"', "[1 2", "{a: 1", "(fn [x] (+ x 1)", "(list '(' 1"]

TOO_MANY = [")", "(+ 1 2))", ") (", "1 ]"]


@pytest.mark.parametrize("text", WHOLE)
def test_what_is_whole_is_evaluated(text: str) -> None:
    assert not is_unfinished(text)
    eval_str(text)


@pytest.mark.parametrize("text", UNFINISHED)
def test_what_is_unfinished_is_gone_on_with_and_the_engine_would_refuse_it(text: str) -> None:
    assert is_unfinished(text)
    with pytest.raises(errors.RayforceParseError):
        eval_str(text)


@pytest.mark.parametrize("text", TOO_MANY)
def test_what_closes_more_than_it_opens_is_left_to_the_engine_to_refuse(text: str) -> None:
    assert not is_unfinished(text)
    with pytest.raises(errors.RayforceParseError):
        eval_str(text)


@pytest.mark.parametrize(("text", "blank"), [("", True), (" \n", True), (" ; c\n\n; (\n", True), ("; c\n1", False)])
def test_comments_alone_are_nothing_to_evaluate(text: str, blank: bool) -> None:
    assert is_blank(text) is blank
