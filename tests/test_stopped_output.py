"""What a query had printed before it was stopped."""

import anyio
import pytest
from support.serve_native import Served
from support.watched import Queries

from rayforce_trio import WSClient, WSClientConnection


async def cancelled(connection: WSClientConnection, queries: Queries, *, verbose: bool) -> None:
    """Cancel a query that has printed a text, and wait until the server has stopped it."""
    query = queries()
    text = f'(do (println "half way") {query.text})'
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.execute_verbose if verbose else connection.execute, text)
        await query.begun()
        tasks.cancel_scope.cancel()
    await connection.execute("null")  # answered after the cancelled call


@pytest.mark.anyio
@pytest.mark.parametrize("reconnect", [False, True])
async def test_it_is_kept_until_the_next_query_is_stopped(served: Served, queries: Queries, reconnect: bool) -> None:
    async with WSClient("127.0.0.1", served.port).connect(reconnect=reconnect) as connection:
        assert connection.stopped_output == ""
        await cancelled(connection, queries, verbose=True)
        assert (connection.stopped_queries, connection.stopped_output) == (1, "half way\n")
        await cancelled(connection, queries, verbose=False)
        assert (connection.stopped_queries, connection.stopped_output) == (2, "")
