"""What Tab completes."""

import anyio
import pytest
from support.serve_native import Served
from support.watched import Queries

from rayforce_trio import WSClient, WSClientConnection
from rayforce_trio._cli import _names
from rayforce_trio._cli._expressions import SQL_KEYWORDS
from rayforce_trio._cli._names import Names, Request, completion_request


@pytest.mark.parametrize(
    ("before", "sql", "request_"),
    [
        ("(select {from: pri", False, Request("pri")),
        ("(+ 1 .sys.t", False, Request(".sys.t")),
        ("(+ 1 ", False, None),
        ("1\n\\ta", False, Request("\\ta", _names.COMMAND_NAMES)),
        ("\\schema ", False, Request("", kind="table")),
        ("\\schema pr", False, Request("pr", kind="table")),
        ("\\format c", False, Request("c", ("text", "json", "csv"))),
        ("\\load ~/da", False, Request("~/da", is_file=True)),
        ("\\tables x", False, Request("x", ())),
        ("\\nothing x", False, None),
        ("SELECT sy", True, Request("sy", SQL_KEYWORDS, sql=True)),
        ("\\sql SELECT a,sy", False, Request("sy", SQL_KEYWORDS, sql=True)),
    ],
)
def test_what_is_asked_for(before: str, sql: bool, request_: Request | None) -> None:
    assert completion_request(before, sql=sql) == request_


async def completed(names: Names, request: Request) -> list[tuple[str, str]]:
    return [(found.text, found.kind) for found in await names.complete(request)]


def test_tables_columns_functions_and_variables_of_the_server(served: Served, name: str) -> None:
    async def main() -> None:
        async with WSClient("127.0.0.1", served.port).connect() as connection:
            names = Names(lambda: connection)
            await connection.execute(f"(set {name}_table (table [{name}_column] (list [1])))")
            await connection.execute(f"(do (set {name}_variable 1) (set {name}_function (fn [x] x)))")
            assert await completed(names, Request(name)) == [
                (f"{name}_table", "table"),
                (f"{name}_column", "column"),
                (f"{name}_function", "function"),
                (f"{name}_variable", "variable"),
            ]
            assert await completed(names, Request(name, kind="table")) == [(f"{name}_table", "table")]
            assert await completed(names, Request(name, ("SELECT",), sql=True)) == [
                (f"{name}_table", "table"),
                (f"{name}_column", "column"),
            ]
            assert await completed(names, Request("sele", ("SELECT",), sql=True)) == [("SELECT", "")]
            assert ("printl", "") not in await completed(names, Request("print"))
            assert ("println", "function") in await completed(names, Request("print"))

            await connection.execute(f"(set {name}_later 1)")
            assert len(await completed(names, Request(name))) == 4  # the server is asked once
            names.forget()
            assert len(await completed(names, Request(name))) == 5

    anyio.run(main)


def test_a_busy_server_completes_from_its_last_answer(
    served: Served, queries: Queries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_names, "COMPLETION_TIMEOUT", 0.2)
    query = queries()

    async def main() -> None:
        async with (
            WSClient("127.0.0.1", served.port).connect() as connection,
            WSClient("127.0.0.1", served.port).connect() as other,
            anyio.create_task_group() as tasks,
        ):
            names = Names(lambda: connection)
            before = await completed(names, Request("print"))
            names.forget()
            tasks.start_soon(other.execute, query.text)
            await query.begun()
            assert await completed(names, Request("print")) == before != []
            query.release()

    anyio.run(main)


def test_without_a_connection_nothing_is_completed() -> None:
    def closed() -> WSClientConnection | None:
        return None

    assert anyio.run(completed, Names(closed), Request("print")) == []
