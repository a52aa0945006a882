"""The tables of options in docs/reference list every option of the client, the server and the engines."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayforce_trio import NativeEngine, NativeProcess, RoundRobinEngine, WSClient, WSClientConnection, WSServer

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"

UNITS = {"": 1, " MiB": 1024**2, " GiB": 1024**3}

TABLES: list[tuple[str, str, Callable[..., Any]]] = [
    ("client.md", "option", WSClient),
    ("client.md", "option of `connect`", WSClient.connect),
    ("client.md", "option of `subscribe`", WSClientConnection.subscribe),
    ("server.md", "option", WSServer),
    ("server.md", "option of `NativeProcess`", NativeProcess),
    ("server.md", "option of `NativeEngine`", NativeEngine),
    ("server.md", "option of `RoundRobinEngine`", RoundRobinEngine),
]
"""The page, the heading of the first column of one table or several, and what takes the options."""


def documented_defaults(page: str, first_column: str) -> dict[str, str]:
    """Return the default of each option by its name, as the tables show it."""
    defaults: dict[str, str] = {}
    for found in re.finditer(r"(?:^\|.*\n)+", (REFERENCE / page).read_text(encoding="utf-8"), re.MULTILINE):
        header, _, *rows = [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in found[0].splitlines()]
        if header == [first_column, "type", "default", "effect"]:
            defaults |= {name.strip("`"): default for name, _, default, _ in rows}
    return defaults


def shown(default: Any) -> re.Pattern[str]:
    """Return what a table may show for a default."""
    if default is inspect.Parameter.empty:
        return re.compile("required")
    if isinstance(default, str):
        return re.compile(re.escape(f'`"{default}"`'))
    if type(default) in (int, float):
        amounts = [f"{default / factor:,.0f}{unit}" for unit, factor in UNITS.items() if default % factor == 0]
        permissions = [f"`{default:#o}`"] if isinstance(default, int) else []
        return re.compile("|".join(map(re.escape, amounts + permissions)))
    return re.compile(re.escape(f"`{default!r}`"))


@pytest.mark.parametrize(
    ("page", "first_column", "callable_"), TABLES, ids=[callable_.__name__ for *_, callable_ in TABLES]
)
def test_the_tables_list_every_option_with_its_default(
    page: str, first_column: str, callable_: Callable[..., Any]
) -> None:
    defaults = documented_defaults(page, first_column)
    parameters = inspect.signature(callable_).parameters
    assert defaults.keys() == parameters.keys() - {"self"}
    for name, default in defaults.items():
        assert shown(parameters[name].default).fullmatch(default), (name, default)
