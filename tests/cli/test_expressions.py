"""Inputs as statements: where an expression ends, compared with the engine's own parser; SQL, commands and colors."""

import pytest
from rayforce import errors, eval_str

from rayforce_trio import draw
from rayforce_trio._cli._expressions import Kind, is_blank, is_unfinished, parse_input, tokens, unfinished_lines

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
    whole = eval_str(text)
    parts = [eval_str(statement.text) for statement in parse_input(text).statements]
    assert draw(parts[-1]) == draw(whole)  # the engine returns the value of the last expression


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


@pytest.mark.parametrize(
    ("text", "expressions"),
    [
        ("", []),
        (" ; nothing", []),
        ("1 2", ["1", "2"]),
        ("(+ 1 2)(+ 3 4)", ["(+ 1 2)", "(+ 3 4)"]),
        ("(+ 1 2) ; three\n(+ 3\n 4)\n", ["(+ 1 2)", "(+ 3\n 4)"]),
        ('"a b" \'c x', ['"a b"', "'c", "x"]),
        ("'(1 2) [3] {a: 4}", ["'(1 2)", "[3]", "{a: 4}"]),
        ("x'", ["x", "'"]),
        ("1 (+ 2 3)) 4", ["1", "(+ 2 3)", ") 4"]),
        ("1 (+ 2", ["1", "(+ 2"]),
        ('1 "a', ["1", '"a']),
    ],
)
def test_expressions_are_divided_as_the_engine_divides_them(text: str, expressions: list[str]) -> None:
    statements = parse_input(text).statements
    assert [statement.text for statement in statements] == expressions
    assert {statement.kind for statement in statements} <= {Kind.RAYFALL}


@pytest.mark.parametrize(
    ("text", "sql", "statements"),
    [
        ("\\tables", False, ["COMMAND tables"]),
        ("1 \n \\schema  prices \n2", False, ["RAYFALL 1", "COMMAND schema  prices", "RAYFALL 2"]),
        ("\\help (\n1", False, ["COMMAND help (", "RAYFALL 1"]),
        ("exit", False, ["COMMAND q"]),
        ("help", False, ["COMMAND help"]),
        ("(list help)", False, ["RAYFALL (list help)"]),
        ("1\nquit\n", False, ["RAYFALL 1", "COMMAND q"]),
        ("(exit 0)", False, ["RAYFALL (exit 0)"]),
        ("quit;", True, ["COMMAND q"]),
        ("SELECT 1; SELECT\n';' ;", True, ["SQL SELECT 1", "SQL SELECT\n';'"]),
        ("-- a; comment\nSELECT /* ; */ 1;", True, ["SQL SELECT /* ; */ 1"]),
        (";; SELECT 1;", True, ["SQL SELECT 1"]),
        (
            "\\sql\nSELECT 1;\n\\sql off\n(+ 1 2)",
            False,
            ["COMMAND sql", "SQL SELECT 1", "COMMAND sql off", "RAYFALL (+ 1 2)"],
        ),
        ("\\sql SELECT 1\n(+ 1 2)", False, ["COMMAND sql SELECT 1", "RAYFALL (+ 1 2)"]),
        ("\\sql SELECT 'a\nb'\n1", False, ["COMMAND sql SELECT 'a\nb'", "RAYFALL 1"]),
    ],
)
def test_an_input_is_divided_into_expressions_sql_and_commands(text: str, sql: bool, statements: list[str]) -> None:
    parsed = parse_input(text, sql=sql)
    assert [f"{statement.kind.name} {statement.text}" for statement in parsed.statements] == statements
    assert not parsed.is_unfinished


@pytest.mark.parametrize(
    ("text", "sql"),
    [
        ("SELECT 1", True),
        ("SELECT ';", True),
        ("SELECT 1; SELECT 2", True),
        ("SELECT /* ;", True),
        ("\\sql on\nSELECT 1", False),
        ("\\sql SELECT 'a", False),
        ("\\tables\n(+ 1", False),
    ],
)
def test_an_input_continues_until_its_last_statement_ends(text: str, sql: bool) -> None:
    assert is_unfinished(text, sql=sql)


def test_only_lines_in_the_middle_of_a_statement_have_the_prompt_for_it() -> None:
    assert unfinished_lines('1\n(+ 1\n2)\n"a\n\n"\n3') == [False, False, True, False, True, True, False]
    assert unfinished_lines("") == [False]


@pytest.mark.parametrize(
    ("text", "sql", "colors"),
    [
        ("(+ 1 -2.5)", False, {"1": "number", "-2.5": "number", "+": ""}),
        (
            "(if x 0Nl 2024.01.31) ; why",
            False,
            {"if": "keyword", "0Nl": "number", "2024.01.31": "number", "; why": "comment"},
        ),
        (
            "(select {from: t where: (== a 'b)})",
            False,
            {"select": "keyword", "from:": "keyword", "'": "symbol", "b": "symbol", "a": ""},
        ),
        ('(count "abc', False, {'"abc': "string", "count": ""}),
        ("\\schema prices", False, {"\\schema ": "command", "prices": ""}),
        ("\\sql select 'a'", False, {"\\sql ": "command", "select": "keyword", "'a'": "string"}),
        ("Select a -- all", True, {"Select": "keyword", "a": "", "-- all": "comment"}),
    ],
)
def test_an_input_is_colored(text: str, sql: bool, colors: dict[str, str]) -> None:
    parts = list(tokens(text, sql=sql))
    assert "".join(part for _, part in parts) == text
    found = {part: color for color, part in parts}
    assert {part: found[part] for part in colors} == colors
