"""Ctrl-C in a program that does not use `WSServer.run`, where trio raises KeyboardInterrupt."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.interrupts import ON_ASYNCIO, SCENARIOS

import rayforce_trio

PACKAGE = Path(rayforce_trio.__file__).parent

_TESTS = Path(__file__).parents[1]

HARMLESS = {
    "NativeProcess.__init__",
    "WSClient.__init__",
    "WSClient.connect",
    "WSServer.__init__",
    "WSServer.port",
    "call_async_unprotected",
    "call_unprotected",
    "_run_process.<locals>.killer",  # of trio; it only calls a function of ours
}
"""Functions that may be interrupted at any instruction: they hold nothing that has to be released."""


def interrupts(scenario: str, port: int, *command: str) -> Any:
    program = [sys.executable, "-m", "support.interrupts", scenario, str(port), *command]
    done = subprocess.run(program, cwd=_TESTS, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("scenario", [one for one in SCENARIOS if one not in ON_ASYNCIO])
def test_trio_raises_interrupts_in_no_function_that_holds_something(scenario: str, in_process_port: int) -> None:
    assert set(interrupts(scenario, in_process_port, "unprotected")) <= HARMLESS


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_interrupts_leave_nothing_behind(scenario: str, in_process_port: int) -> None:
    """One run for each of many points, from the beginning to the end of a program."""
    outcome = interrupts(scenario, in_process_port, "sweep", "67")
    assert outcome["complaints"] == []
    assert outcome["points"] > 500


def started_functions(tree: ast.Module) -> Iterator[str]:
    """Return the names of the functions that a module starts tasks with."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(ast.Attribute(attr="start_soon" | "start" | "spawn_system_task"), [function, *_]):
                if isinstance(function, ast.Call):  # of `partial`
                    function = function.args[0]
                yield function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def unprotected_functions(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef):
            decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
            if not decorators & {"enable_ki_protection", "abstractmethod"}:
                yield node.name


def test_every_function_that_a_task_begins_with_is_protected() -> None:
    """A task does not inherit trio's protection. The command line serves with `WSServer.run`, which needs none."""
    files = [file for folder in ("_engines", "_server") for file in (PACKAGE / folder).rglob("*.py")]
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in files}
    started = {name for tree in trees.values() for name in started_functions(tree)}
    assert {"_work", "accept_connections", "handle", "serve"} & started, started
    found = [f"{file.name}: {name}" for file in files for name in unprotected_functions(trees[file]) if name in started]
    assert found == [], "decorate these with enable_ki_protection of _tasks"
