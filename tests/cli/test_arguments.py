"""The help without a command, and the URL that may be left out."""

import argparse

import pytest
from support.commands import command
from support.native import free_port
from support.serve_native import Served

from rayforce_trio._cli import _load, _query, _repl, _save, _subscribe, _target
from rayforce_trio._cli._main import _Parser
from rayforce_trio._cli._target import server_url

COMMANDS = (_query, _load, _save, _subscribe, _repl)


def parsed(arguments: str) -> argparse.Namespace:
    parser = _Parser(prog="rayforce-trio")
    commands = parser.add_subparsers()
    for module in COMMANDS:
        module.add_parser(commands)
    return parser.parse_args(arguments.split())


def test_without_a_command_the_help_is_written_and_the_exit_code_is_0() -> None:
    done = command()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == command("--help").stdout
    assert done.stdout.startswith("usage: rayforce-trio ")


@pytest.mark.parametrize(
    ("arguments", "url", "others"),
    [
        ("query prices", "", {"expression": "prices"}),
        ("query :9 prices", ":9", {"expression": "prices"}),
        ("query :9 --format csv prices", ":9", {"expression": "prices", "format": "csv"}),
        ("query --format csv :9 prices --sql", ":9", {"expression": "prices", "format": "csv", "sql": True}),
        ("query --sql prices --format csv", "", {"expression": "prices", "format": "csv", "sql": True}),
        ("query -p a=1 :9 -p b=2 a", ":9", {"expression": "a", "parameter": [("a", 1), ("b", 2)]}),
        ("query -5", "", {"expression": "-5"}),
        ("query :9 -", ":9", {"expression": "-"}),
        ("query -- -a", "", {"expression": "-a"}),
        ("save prices prices.csv", "", {"expression": "prices", "file": "prices.csv"}),
        ("save :9 prices --replace prices.csv", ":9", {"expression": "prices", "file": "prices.csv", "replace": True}),
        ("load prices prices.csv", "", {"table": "prices", "file": "prices.csv"}),
        ("load :9 prices --append -", ":9", {"table": "prices", "file": "-", "append": True}),
        ("subscribe ticks", "", {"topic": "ticks"}),
        ("subscribe :9 --count 1 ticks", ":9", {"topic": "ticks", "count": 1}),
        ("repl", "", {"no_history": False}),
        ("repl :9 --no-history", ":9", {"no_history": True}),
        ("repl --no-history :9", ":9", {"no_history": True}),
    ],
)
def test_the_url_may_be_left_out_wherever_the_options_are(arguments: str, url: str, others: dict[str, object]) -> None:
    options = parsed(arguments)
    assert options.url == url
    assert {name: getattr(options, name) for name in others} == others


def test_without_a_url_a_command_means_the_server_that_serve_starts_by_default() -> None:
    url = server_url("")
    assert (url.host, url.port, url.is_secure) == ("127.0.0.1", 8765, False)


def test_if_no_local_server_is_reached_one_is_told_how_to_start_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_target, "DEFAULT_PORT", free_port())
    done = command("query", "(+ 1 2)")
    assert (done.returncode, done.stdout) == (3, "")
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: Failed to connect to ws://127.0.0.1:")
    assert hint == "Start a server with rayforce-trio serve, or give the URL of another one."


def test_a_url_between_options_is_connected_to(served: Served) -> None:
    done = command("query", f":{served.port}", "--format", "csv", "(+ 1 2)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "value\n3\n", "")
