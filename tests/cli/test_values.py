"""What JSON and CSV make of every type the engine has, and what its own drawing makes of them."""

import json
from typing import Any

import anyio
import pytest
from rayforce import F64, Symbol, Table, Vector

from rayforce_trio import WSClient, draw, errors
from rayforce_trio._cli._formats import as_csv, as_json, as_text, to_json_data

INFINITE = Vector([float("inf"), float("-inf"), 1.0], ray_type=F64)  # no query comes to it: the engine makes it null


def received(port: int, expression: str) -> Any:
    """Return what a server answers."""

    async def execute() -> Any:
        with anyio.fail_after(30):
            async with WSClient("127.0.0.1", port).connect() as connection:
                return await connection.execute(expression)

    return anyio.run(execute)


ATOMS = [
    ("true", True, "true"),
    ("false", False, "false"),
    ("0x1f", 31, "0x1f"),
    ("(as 'I16 -5)", -5, "-5"),
    ("(as 'I16 0Nl)", None, "0Nh"),
    ("(as 'I32 -5)", -5, "-5"),
    ("(as 'I32 0Nl)", None, "0Ni"),
    ("9223372036854775807", 9223372036854775807, "9223372036854775807"),
    ("0Nl", None, "0Nl"),
    ("(as 'F32 1.1)", 1.1, "1.1e"),
    ("(as 'F32 0Nf)", None, "0Ne"),
    ("0.1", 0.1, "0.1"),
    ("(+ 0.1 0.2)", 0.30000000000000004, "0.3"),
    ("1e300", 1e300, "1.00e+300"),
    ("0Nf", None, "0Nf"),
    ("2024.02.29", "2024-02-29", "2024.02.29"),
    ("1969.12.31", "1969-12-31", "1969.12.31"),
    ("(+ 2024.01.01 3000000)", "10237-09-21", "10237.09.21"),
    ("0Nd", None, "0Nd"),
    ("12:34:56.789", "12:34:56.789", "12:34:56.789"),
    ("(- 00:00:00.000 00:00:01.500)", "-00:00:01.500", "-00:00:01.500"),
    ("0Nt", None, "0Nt"),
    ("2024.02.29D12:34:56.789123456", "2024-02-29T12:34:56.789123456Z", "2024.02.29D12:34:56.789123456"),
    ("1900.01.01D00:00:00.000000001", "1900-01-01T00:00:00.000000001Z", "1900.01.01D00:00:00.000000001"),
    ("(as 'timestamp 9223372036854775807)", "2292-04-10T23:47:16.854775807Z", "2292.04.10D23:47:16.854775807"),
    ("0Np", None, "0Np"),
    ("0Ng", None, "0Ng"),
    ("'sym", "sym", "sym"),
    ('(as \'symbol "")', None, "'"),
    ('"a \\"quoted\\" é"', 'a "quoted" é', '"a "quoted" é"'),
    ('""', "", '""'),
    ("null", None, None),
    ("+", "<+>", "<+>"),
    ("sum", "<sum>", "<sum>"),
    ("list", "<list>", "<list>"),
    ("(fn [x] (+ x 1))", "lambda", "lambda"),
]

CONTAINERS: list[tuple[str, object]] = [
    ("[true false]", [True, False]),
    ("(as 'U8 [1 2])", [1, 2]),
    ("(as 'I16 [1 0N -3])", [1, None, -3]),
    ("(as 'I32 [1 0N -3])", [1, None, -3]),
    ("[1 0N -3]", [1, None, -3]),
    ("(as 'F32 [1.1 0Nf])", [1.1, None]),
    ("[1.1 0Nf]", [1.1, None]),
    ("[1969.12.31 0Nd]", ["1969-12-31", None]),
    ("[12:34:56.789 0Nt]", ["12:34:56.789", None]),
    ("[2024.01.01D12:34:56.789123456 0Np]", ["2024-01-01T12:34:56.789123456Z", None]),
    ("[a b]", ["a", "b"]),
    ('["a" "" "é"]', ["a", None, "é"]),
    ("(til 0)", []),
    ("(list)", []),
    ('(list 1 "a" null (til 2) (list 2.5))', [1, "a", None, [0, 1], [2.5]]),
    ("(dict [a b] [1 2])", {"a": 1, "b": 2}),
    ('(dict ["a" "b"] (list 1 (til 2)))', {"a": 1, "b": [0, 1]}),
    ("(dict [1 2] [a b])", [[1, "a"], [2, "b"]]),
    ("(dict [2024.01.01] (list (dict [a] [1])))", [["2024-01-01", {"a": 1}]]),
    ('(table [a b] (list [1 0N] ["x" ""]))', [{"a": 1, "b": "x"}, {"a": None, "b": None}]),
    ('(dict ["" "b"] [1 2])', {"": 1, "b": 2}),
    ("(take (table [a] (list [1 2])) 0)", []),
    ("(list (table [a] (list [1 2])))", [[{"a": 1}, {"a": 2}]]),
]


@pytest.mark.parametrize(("expression", "value", "drawn"), ATOMS)
def test_an_atom(our_port: int, expression: str, value: object, drawn: str | None) -> None:
    atom = received(our_port, expression)
    assert to_json_data(atom) == value
    assert type(to_json_data(atom)) is type(value)
    if drawn is not None:
        assert draw(atom) == drawn


@pytest.mark.parametrize(("expression", "value"), CONTAINERS)
def test_a_container(our_port: int, expression: str, value: object) -> None:
    assert to_json_data(received(our_port, expression)) == value


def test_guids_are_written_as_usual(our_port: int) -> None:
    guids = received(our_port, "(guid 2)")
    assert to_json_data(guids) == draw(guids)[1:-1].split(" ")
    assert to_json_data(guids[0]) == to_json_data(guids)[0]


def test_infinities_are_strings_in_json() -> None:
    assert to_json_data(INFINITE) == ["Infinity", "-Infinity", 1.0]


@pytest.mark.parametrize(("expression", "value"), CONTAINERS)
def test_what_is_written_as_json_can_be_read_back(our_port: int, expression: str, value: object) -> None:
    written = "".join(as_json(received(our_port, expression)))
    assert json.loads(written) == value
    assert written.endswith("\n")


def test_the_rows_of_a_table_stand_on_a_line_each(our_port: int) -> None:
    written = as_json(received(our_port, "(table [a b] (list [1 2] [x y]))"))
    assert "".join(written) == '[\n{"a": 1, "b": "x"},\n{"a": 2, "b": "y"}\n]\n'


@pytest.mark.parametrize(
    ("expression", "written"),
    [
        (
            '(table [s d f b] (list ["a,\\"b\\"" ""] [2024.01.01 0Nd] [1.5 0Nf] [true false]))',
            's,d,f,b\n"a,""b""",2024-01-01,1.5,true\n,,,false\n',
        ),
        ("(take (table [a] (list [1 2])) 0)", "a\n"),
        ('(table [a l] (list [1 2] (list (til 2) (list 1 "x"))))', 'a,l\n1,"[0, 1]"\n2,"[1, ""x""]"\n'),
        ("(dict [a b] [1 2])", "key,value\na,1\nb,2\n"),
        ("[1 0N 3]", 'value\n1\n""\n3\n'),
        ('(list 1 "x" (dict [a] [1]))', 'value\n1\nx\n"{""a"": 1}"\n'),
        ("(til 0)", "value\n"),
        ("2024.01.01", "value\n2024-01-01\n"),
        ("null", 'value\n""\n'),
    ],
)
def test_csv_has_a_header_and_a_line_for_each_row(our_port: int, expression: str, written: str) -> None:
    assert "".join(as_csv(received(our_port, expression))) == written


def test_text_is_what_the_engine_draws_and_long_values_are_abbreviated(our_port: int) -> None:
    written = "".join(as_text(received(our_port, "(til 1000)")))
    assert written.startswith("[0 1 2 3 ")
    assert written.endswith(" ..]\n")
    assert len(written) < 100
    assert "".join(as_text(received(our_port, '(list 1 "a" null (til 2))'))) == '(1 "a" null [0 1])\n'


def test_text_that_the_engine_cuts_in_the_middle_of_a_character_is_drawn_all_the_same() -> None:
    drawn = draw(Table({"a": Vector(["a" + "é" * 200, "b"], ray_type=Symbol)}))
    assert "éééé" in drawn
    assert "\n│ b " in drawn


def test_text_that_is_not_utf_8_is_written_with_a_replacement(our_port: int) -> None:
    half_a_character = received(our_port, '(first "é")')
    assert to_json_data(half_a_character) == "\ufffd"
    assert draw(half_a_character) == '"\ufffd"'


def test_what_is_no_value_of_rayforce_cannot_be_drawn() -> None:
    with pytest.raises(errors.RayforceConversionError):
        draw(object())
