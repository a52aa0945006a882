"""docs/reference/api documents every public name, and nothing that is private."""

import inspect
import re
from pathlib import Path

import pytest

import rayforce_trio
from rayforce_trio import auth, errors, prometheus, statistics

API = Path(__file__).parents[1] / "docs" / "reference" / "api"

MODULES = (rayforce_trio, auth, errors, prometheus, statistics)
OWN_PAGES = {"__version__", "auth", "errors", "statistics"}
DIRECTIVE = re.compile(
    r"^\.\. (?:currentmodule:: (?P<module>\S+)"
    r"|(?:auto|py:)(?P<kind>\w+):: (?P<name>\S+)(?P<options>(?:\n   :.*)*))",
    re.MULTILINE,
)


def directives() -> dict[str, str]:
    """Return the options of each documented object by its full name."""
    found = {}
    for page in sorted(API.glob("*.md")):
        module = ""
        for directive in DIRECTIVE.finditer(page.read_text(encoding="utf-8")):
            module = directive["module"] or module
            if directive["name"]:
                found[f"{module}.{directive['name']}"] = directive["options"]
    return found


DOCUMENTED = directives()


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_name_is_documented(module: object) -> None:
    """The page of errors lists the classes of rayforce-py in a table."""
    listed = (API / "errors.md").read_text(encoding="utf-8")
    for name in set(module.__all__) - OWN_PAGES:  # type: ignore[attr-defined]
        if inspect.getmodule(getattr(module, name)) is inspect.getmodule(errors.RayforceError):
            assert f"`{name}`" in listed
        else:
            assert f"{module.__name__}.{name}" in DOCUMENTED  # type: ignore[attr-defined]


def test_every_call_of_a_connection_is_documented() -> None:
    public = {name for name in vars(rayforce_trio.WSClientConnection) if not name.startswith("_")}
    prefix = "rayforce_trio.WSClientConnection."
    assert {name.removeprefix(prefix) for name in DOCUMENTED if name.startswith(prefix)} == public


@pytest.mark.parametrize("name", DOCUMENTED)
def test_nothing_private_is_documented(name: str) -> None:
    names = [*name.split("."), *re.findall(r"\w+", DOCUMENTED[name].replace("special-members", "members"))]
    assert [each for each in names if re.match(r"_(?!_\w+__$)", each)] == []
