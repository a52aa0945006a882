"""Every async function of the package documents what a cancellation leaves behind."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import rayforce_trio

PACKAGE = Path(rayforce_trio.__file__).parent
MODULES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
CLASSES = {node.name: node for tree in MODULES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
SHORT = 3  # lines; the purpose of a nested function of this length is documented by the function around it

Function = ast.FunctionDef | ast.AsyncFunctionDef


def async_functions(
    node: ast.AST, class_: ast.ClassDef | None = None, *, nested: bool = False
) -> Iterator[tuple[ast.AsyncFunctionDef, ast.ClassDef | None]]:
    """Yield the async functions in a module with the classes that they belong to, without short nested ones."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.AsyncFunctionDef) and not (nested and _lines(child) <= SHORT):
            yield child, class_
        if isinstance(child, ast.ClassDef):
            yield from async_functions(child, child, nested=nested)
        else:
            yield from async_functions(child, class_, nested=nested or isinstance(child, Function))


def is_documented(function: Function, class_: ast.ClassDef | None) -> bool:
    """Return whether the docstring of a function, or of a method that it overrides, mentions cancellation."""
    return "cancel" in (ast.get_docstring(function) or "").lower() or any(
        is_documented(method, None)
        for base in _bases(class_)
        for method in base.body
        if isinstance(method, Function) and method.name == function.name
    )


def _bases(class_: ast.ClassDef | None) -> Iterator[ast.ClassDef]:
    """Yield the base classes of a class within the package, and theirs."""
    for expression in class_.bases if class_ is not None else ():
        base = CLASSES.get(ast.unparse(expression).rpartition(".")[2])
        if base is not None and base is not class_:
            yield base
            yield from _bases(base)


def _lines(function: ast.AsyncFunctionDef) -> int:
    return (function.body[-1].end_lineno or 0) - function.body[0].lineno + 1


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_async_function_says_what_a_cancellation_leaves_behind(path: Path) -> None:
    undocumented = [
        f"line {function.lineno}: {function.name}"
        for function, class_ in async_functions(MODULES[path])
        if not is_documented(function, class_)
    ]
    assert undocumented == []
