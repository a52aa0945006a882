"""The help of each command."""

import re

import pytest
from support.commands import command

from rayforce_trio._cli import _main

COMMANDS = ("serve", "query", "load", "save", "subscribe", "publish", "repl", "hash-password")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_ends_with_examples_that_it_accepts(name: str) -> None:
    done = command(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    _, examples = done.stdout.split("\nexamples:\n")
    for line in examples.splitlines():
        arguments = re.sub(r" < \S+$", "", line.removeprefix("  rayforce-trio ")).strip()
        words = [quoted or word for quoted, word in re.findall(r"'([^']*)'|(\S+)", arguments)]
        assert words[0] == name
        assert _main._parser().parse_args(words).run is not None


def test_the_help_lists_the_commands() -> None:
    listed = command("--help").stdout
    assert re.findall(r"^    (\S+)", listed, re.MULTILINE) == list(COMMANDS)
