"""`abort`, and the count of cancelled queries that the server stopped."""

import anyio
import pytest
from support.proxy import proxy
from support.serve_native import Served
from support.watched import Queries

from rayforce_trio import WSClient, errors

LOCAL = "127.0.0.1"


@pytest.mark.anyio
async def test_abort_waits_for_nothing_and_ends_the_calls_that_wait(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    async with proxy(served.port) as between, anyio.create_task_group() as tasks:

        async def ask() -> None:
            with pytest.raises(errors.ConnectionClosed, match=r"(?i)closed"):
                await connection.execute("(+ 1 2)")

        with anyio.fail_after(30):
            async with WSClient(LOCAL, between.port).connect() as connection:
                between.to_server.freeze()
                tasks.start_soon(ask)
                await anyio.wait_all_tasks_blocked()
                connection.abort()
                connection.abort()
                assert isinstance(connection.closed, errors.ConnectionClosed)
    assert caplog.records == []


@pytest.mark.anyio
async def test_a_query_that_the_server_stopped_is_counted(served: Served, queries: Queries) -> None:
    with anyio.fail_after(30):
        async with WSClient(LOCAL, served.port).connect() as connection:
            for count, call in enumerate((connection.execute, connection.execute_verbose), 1):
                query = queries()
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(call, query.text)
                        await query.begun()
                        scope.cancel()
                await connection.execute("null")
                assert connection.stopped_queries == count
                assert not query.has_ended
