"""Tables as people see them."""

import pytest
from rayforce import Table, eval_str

from rayforce_trio import Columns, columns_of
from rayforce_trio._cli._drawing import Space, draw_columns, draw_rows
from rayforce_trio._cli._formats import as_text, drawn


def columns(expression: str) -> Columns:
    table = eval_str(expression)
    assert isinstance(table, Table)
    return columns_of(table)


def test_a_table_has_names_types_and_the_number_of_rows() -> None:
    text = draw_columns(columns("(table [symbol price] (list [AAPL IBM] [223.02 0Nf]))"), Space())
    assert text.splitlines() == [
        "┌────────┬────────┐",
        "│ symbol │  price │",
        "│ SYMBOL │    F64 │",
        "├────────┼────────┤",
        "│ AAPL   │ 223.02 │",
        "│ IBM    │    0Nf │",
        "└────────┴────────┘",
        "2 rows",
    ]


@pytest.mark.parametrize(
    ("rows", "says"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1234, "1,234 rows (40 shown)")]
)
def test_rows_are_counted(rows: int, says: str) -> None:
    assert draw_columns(columns(f"(table [a] (list (til {rows})))"), Space()).splitlines()[-1] == says


def test_of_a_long_table_the_first_and_last_rows_are_drawn() -> None:
    lines = draw_columns(columns("(table [a] (list (til 100)))"), Space(rows=5)).splitlines()
    assert [line.strip("│ ") for line in lines[4:-2]] == ["0", "1", "2", "…", "98", "99"]
    assert lines[-1] == "100 rows (5 shown)"


def test_of_a_wide_table_the_columns_that_fit_are_drawn() -> None:
    table = columns("(table [aaaa bbbb cccc] (list [1] [2] [3]))")
    for width in range(1, 30):
        lines = draw_columns(table, Space(width)).splitlines()
        shown = max(1, min(3, (width - 1) // 7))
        assert len(lines[0]) == 1 + 7 * shown or width < 8
        assert lines[-1] == ("1 row" if shown == 3 else f"1 row, 3 columns ({shown} shown)")


def test_a_long_cell_is_cut() -> None:
    lines = draw_columns(columns(f'(table [a] (list (list "{"x" * 100}")))'), Space(20)).splitlines()
    assert lines[4] == f"│ {'x' * 15}… │"
    assert {len(line) for line in lines[:-1]} == {20}


def test_controls_cannot_break_the_table_and_wide_characters_have_two_cells() -> None:
    lines = draw_columns(columns('(table [a] (list (list "x\ny" "日本")))'), Space()).splitlines()
    assert lines[4:6] == ["│ x\\ny   │", "│ 日本   │"]


@pytest.mark.parametrize(
    ("vector", "cells"),
    [
        ("[0.1 1e20 100 123456789012345.0]", ["0.1", "1e+20", "100.0", "123456789012345.0"]),
        ("(list (+ 0.1 0.2))", ["0.3"]),
        ("[2024.02.29 0Nd]", ["2024.02.29", "0Nd"]),
        ("[09:30:00.123 0Nt]", ["09:30:00.123", "0Nt"]),
        ("[2024.01.01D10:00:00.5 0Np]", ["2024.01.01D10:00:00.500000000", "0Np"]),
        ("[true false]", ["true", "false"]),
        ('(list [1 2] "x" 3)', ["[1, 2]", "x", "3"]),
    ],
)
def test_values_are_written_as_the_engine_writes_them(vector: str, cells: list[str]) -> None:
    lines = draw_columns(columns(f"(table [a] (list {vector}))"), Space()).splitlines()
    assert [line.strip("│ ") for line in lines[4:-2]] == cells


def test_a_terminal_without_unicode_gets_ascii() -> None:
    text = draw_columns(columns("(table [a] (list (til 9)))"), Space(rows=2, ascii=True))
    assert text.isascii()
    assert text.startswith("+-----+\n|   a |")


def test_rows_of_texts_have_no_types() -> None:
    text = draw_rows(["a", "b"], [["1", "x"]], Space())
    assert text == "┌───┬───┐\n│ a │ b │\n├───┼───┤\n│ 1 │ x │\n└───┴───┘\n"


def test_what_is_no_table_is_drawn_by_the_engine() -> None:
    assert "".join(as_text(eval_str("(til 3)"))) == "[0 1 2]\n"
    assert "".join(as_text(None)) == ""


def test_a_table_that_columns_cannot_represent_is_drawn_by_the_engine() -> None:
    table = eval_str("(table [a a] (list [1] [2]))")
    assert "1 rows (1 shown)" in drawn(table, Space())
