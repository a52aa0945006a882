import inspect
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest

import rayforce_trio
from rayforce_trio import auth, errors, prometheus, statistics


def public_members() -> Iterator[tuple[str, Any]]:
    """Yield the public classes and functions of the package, and the public methods and properties of the classes."""
    for module in (rayforce_trio, auth, errors, prometheus, statistics):
        for name in module.__all__:
            value = getattr(module, name)
            if not callable(value) or not value.__module__.startswith(rayforce_trio.__name__):
                continue
            yield name, value
            for attribute, member in inspect.getmembers(value) if inspect.isclass(value) else ():
                ours = inspect.isfunction(member) or isinstance(member, property)
                if ours and not attribute.startswith("_"):
                    yield f"{name}.{attribute}", member


MEMBERS = dict(public_members())


def test_the_public_names() -> None:
    engines = {"Engine", "InProcessEngine", "NativeEngine", "NativeProcess", "RoundRobinEngine"}
    ends = {"VerboseResult", "WSClient", "WSClientConnection", "WSServer", "WSServerConnection"}
    types = {
        "ArrowStream",
        "Batches",
        "ClientConnectionState",
        "ClientOptions",
        "Nursery",
        "Parameters",
        "PendingConnection",
        "Position",
        "Progress",
        "Query",
        "StateChanges",
        "Subscription",
        "TabularData",
        "Update",
        "Value",
    }
    public = (
        engines
        | ends
        | types
        | {"SQL", "Columns", "auth", "columns_of", "draw", "errors", "sql", "statistics", "systemd_sockets"}
    )
    assert {name for name in vars(rayforce_trio) if not name.startswith("_")} == public | {"prometheus"}
    assert set(rayforce_trio.__all__) == public | {"__version__"}


def test_every_exception_is_a_public_name_of_errors() -> None:
    exceptions = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert exceptions == set(errors.__all__)


@pytest.mark.parametrize(
    "module", [rayforce_trio, auth, errors, prometheus, statistics], ids=lambda module: module.__name__
)
def test_every_name_listed_is_there_and_listed_once(module: Any) -> None:
    assert len(set(module.__all__)) == len(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


def test_the_package_says_that_it_is_typed() -> None:
    assert files(rayforce_trio).joinpath("py.typed").is_file()


@pytest.mark.parametrize("name", MEMBERS)
def test_what_is_public_has_a_docstring(name: str) -> None:
    doc = inspect.getdoc(MEMBERS[name])
    assert doc
    assert doc.splitlines()[0].endswith((".", ":"))


@pytest.mark.parametrize("name", [name for name, member in MEMBERS.items() if inspect.iscoroutinefunction(member)])
def test_the_docstring_of_what_is_awaited_says_that_it_is_a_checkpoint(name: str) -> None:
    assert "checkpoint" in (inspect.getdoc(MEMBERS[name]) or "").lower()


def test_the_options_of_from_url_are_those_of_the_client() -> None:
    """All but those that are in the URL."""
    parameters = inspect.signature(rayforce_trio.WSClient).parameters.keys() - {"host", "port", "path"}
    assert rayforce_trio.ClientOptions.__annotations__.keys() == parameters
