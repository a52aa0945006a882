"""`WSClientConnection`: the calls that a connection offers."""

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Literal

from .._codec import (
    Parameters,
    Query,
    TabularData,
    Value,
    check_topic,
    decode,
    decode_verbose,
    encode,
    encode_call,
    encode_update,
    engine_error,
    reply_payload,
)
from .._protocol import PUBLISH, SUBSCRIPTIONS, Failure, MessageType, Position
from .._tasks import call_soon, enable_ki_protection
from .._transports import closed_by_us
from .._values._columns import Columns
from .._values._payloads import string
from ..errors import ProtocolError, RayforceError, RayforceWSError
from ._batches import Batches, open_stream
from ._bulk import Progress, RowCount, create, insert, upsert
from ._fetching import read_columns
from ._reconnecting import AnyExchange
from ._server_call import server_call
from ._states import ClientConnectionState, StateChanges
from ._subscription import DEFAULT_MAX_BUFFER, Subscription, make_subscription
from ._tables import table_names, table_schema

# On Python 3.11, looking up a member in its enum takes ten times as long as looking up a global name.
_SYNC, _ASYNC = MessageType.SYNC, MessageType.ASYNC


@dataclass(frozen=True, slots=True)
class VerboseResult:
    """The result of `execute_verbose`.

    Attributes:
        output: the text that the query printed.
        value (Value): the value of the query, as `execute` returns it; `None` if the evaluation failed.
        error (RayforceError | None): the error of the evaluation, as `execute` raises it; `None` if there was none.
    """

    output: str
    value: Value
    error: RayforceError | None


class WSClientConnection:
    """A connection to a Rayforce WebSocket server, opened by `WSClient.connect`.

    Any number of tasks may use it at a time. Requests are pipelined, and each call returns its own reply. A call in
    another event loop than the one in which the connection was opened raises `RayforceWSError`.
    """

    _is_unclosed = False
    """Whether the caller has to close the connection, and has not done so yet. A nursery closes its connections."""

    _batches = Batches
    _subscription = Subscription

    def __init__(self, exchange: AnyExchange) -> None:
        self._exchange = exchange
        self._last_stream = 0

    @property
    def closed(self) -> Literal[False] | RayforceWSError:
        """`False` while the connection can be used; then the error that says why it no longer can."""
        return self._exchange.reason or False

    @property
    def state(self) -> ClientConnectionState:
        """The state of the connection."""
        return self._exchange.states.current

    def state_changes(self) -> StateChanges:
        """Return the changes of `state` from now on, for `async for`. The iteration ends when the connection is closed.

        Raises:
            RayforceWSError: the connection was opened in another event loop.
        """
        self._exchange.check_closable()
        return self._exchange.states.changes()

    @property
    def stopped_queries(self) -> int:
        """The number of cancelled calls whose queries the server stopped, or that were never sent.

        A cancelled query that nevertheless ran to its end does not count. The number grows when the server confirms the
        stop: after the cancelled call has ended, but before the reply to any later call.
        """
        return self._exchange.stopped

    @property
    def stopped_output(self) -> str:
        """The text that the last of the `stopped_queries` had printed before it was stopped.

        It is empty unless the call was `execute_verbose`, and after a connection was lost and made again.
        """
        return self._exchange.stopped_output

    @enable_ki_protection
    async def execute(self, query: Query, params: Parameters | None = None, *, idempotent: bool = False) -> Value:
        """Evaluate a query on the server and return its value.

        A checkpoint. If cancelled, the call ends immediately and the connection stays usable. A query that was not sent
        is never sent. A query that was sent is cancelled on the server: if it has not started, it never starts; if it
        is running, a native engine stops it, whereas an in-process engine runs it to its end. The reply is discarded.
        Changes that the query made before it stopped remain.

        Args:
            query: Rayfall text as a `str` or `String`, SQL as `sql(...)`, or a query object of rayforce-py: a `List`,
                an `Expression`, an `SQLQuery`, or a select, update, insert, upsert or join query.
            params: values by the names that the query uses for them. They are data and never evaluated.
            idempotent: whether the query can be carried out twice without harm, for example because it only reads. With
                `reconnect=True`, it is then sent again, at most three times, if the connection is lost before its reply
                arrives. Otherwise, this has no effect.

        Returns:
            A Rayforce object (`I64`, `Table`, `Vector` and so on), or `None` for null. A server that speaks only the
            baseline protocol, such as that of rayforce-py, reports errors as a `String`.

        Raises:
            UnsupportedQuery: `query` has another type. Nothing was sent.
            RayforceValueError: `params` is not a mapping, or a key cannot be used as a name. Nothing was sent.
            RayforceConversionError: a value cannot be sent, and nothing was sent; or rayforce-py cannot represent the
                result.
            RayforceError: the evaluation failed; the class is that of rayforce-py for the engine's error code. Or
                rayforce-py cannot compile the query, and nothing was sent.
            QueryTimeout: the query ran longer than the server allows, and was stopped.
            ResultTooLarge: the query was carried out, but its result is longer than the server sends.
            ServerBusy: the connection has too many unanswered requests. The query was not started.
            ServerClosing: the server is shutting down. The query was not started.
            RayforceThreadError: Rayforce was first imported in another thread.
            ConnectionClosed: the connection is closed, or was closed before the reply arrived.
            ConnectionLost: the connection broke. The query may have been carried out.
            HandshakeError: the server did not answer the greeting as a Rayforce server does.
            RayforceWSError: the connection was opened in another event loop. Nothing was sent.
            MessageTooLarge: the query or its result is longer than one side allows. The connection is closed.
            ProtocolError: the server violated the protocol. The connection is closed.
        """
        exchange = self._exchange
        exchange.check_usable()
        return decode(await exchange.request(encode(query, _SYNC, params=params), idempotent=idempotent), query)

    @enable_ki_protection
    async def fetch(self, query: Query, params: Parameters | None = None, *, idempotent: bool = False) -> Columns:
        """Evaluate a query on the server and return its result as columns, without creating Rayforce objects.

        A checkpoint. While a large result is read, other tasks run every few milliseconds. Cancellation has the same
        effect as for `execute`.

        Args:
            query: as for `execute`. Its result must be a table, a vector, which becomes the column `value`, or a dict
                of vectors of equal length.
            params: as for `execute`.
            idempotent: as for `execute`.

        Raises:
            RayforceTypeError: the result has no columns; it is a single number, for example. Use `execute`.
            RayforceConversionError: the result has a type that only `execute` can read, or is damaged.
            RayforceError: other errors are those of `execute`.
        """
        reply = await self._exchange.request(self._encode(query, _SYNC, params), idempotent=idempotent)
        return await read_columns(reply_payload(reply, query), self._exchange)

    def stream(self, query: Query, params: Parameters | None = None, *, batch_size: int = 100_000) -> Batches:
        """Return the result of a query in batches, for results that are too large to receive at once.

        Use it like this::

            async with connection.stream("trades") as batches:
                async for columns in batches:
                    ...

        The server evaluates the query once, when the block is entered, so later changes of its tables do not show.
        Other clients wait for one batch and not for the whole result. The server releases the result when the block is
        left. This call itself sends nothing and is no checkpoint.

        Args:
            query: as for `fetch`.
            params: as for `execute`.
            batch_size: the number of rows in each batch.

        Raises:
            RayforceValueError: the batch size is not a number of rows.
            RayforceError: the query or a parameter cannot be sent, as for `execute`; or the connection is closed.
        """
        frame = self._encode(query, _SYNC, params)
        batches = open_stream(self._batches, self._exchange, self._last_stream + 1, query, frame, batch_size)
        self._last_stream += 1
        return batches

    def subscribe(
        self,
        topic: str,
        snapshot: Query | None = None,
        params: Parameters | None = None,
        *,
        max_buffer: int = DEFAULT_MAX_BUFFER,
        overflow: Literal["error", "drop_oldest", "latest"] = "error",
        resume: Position | None = None,
    ) -> Subscription:
        """Return the updates of a topic: the values that are published to it from now on.

        Use it like this::

            async with connection.subscribe("trades", snapshot="trades") as updates:
                print(updates.snapshot)
                async for update in updates:
                    print(update.value)

        The subscription is active when the block has been entered, and ends with the block. A connection can have any
        number of subscriptions, several to one topic included. Updates are never lost silently: a missing update raises
        an error, or the next update counts it. This call itself sends nothing and is no checkpoint.

        Args:
            topic: the name of the topic.
            snapshot: a query whose value becomes `updates.snapshot`. No update is missing between the snapshot and the
                first update, and the snapshot contains none of the updates. If the connection is lost and made again
                while the block is entered, the query is evaluated again.
            params: the parameters of that query.
            max_buffer: the size of the updates that are kept until they are taken, in bytes. The server has a buffer of
                its own. Default: 8 MiB.
            overflow: the action when the buffer is full. `"error"`: the iteration ends with `SlowSubscriber`.
                `"drop_oldest"`: the oldest updates are dropped, and the next update that is taken counts them.
                `"latest"`: only the latest update is ever kept, for programs that need only the present value.
            resume: the `position` of an earlier subscription to the topic, behind which this one continues. If the
                server no longer has the updates since then, entering the block raises `SubscriptionGap`.

        Raises:
            RayforceValueError: an argument is invalid.
            RayforceError: the query of the snapshot or a parameter cannot be sent, as for `execute`; or the connection
                is closed.
        """
        self._exchange.check_usable()
        return make_subscription(
            self._subscription, self._exchange, topic, snapshot, params, max_buffer, overflow, resume
        )

    @enable_ki_protection
    async def publish(self, topic: str, value: Any) -> int:
        """Publish a value to the subscribers of a topic, in the engine of this connection.

        A checkpoint. If cancelled, the value may or may not be published.

        Args:
            topic: the name of the topic.
            value: a value that a parameter can have, such as a table, but not null. It is data and never evaluated.

        Returns:
            The number of the update, or 0 if the topic has no subscribers.

        Raises:
            RayforceValueError: the topic is invalid, or the value is null. Nothing was sent.
            RayforceConversionError: the value cannot be sent. Nothing was sent.
            UnsupportedByServer: the server has no subscriptions.
            RayforceError: other errors are those of `execute`. A read-only engine refuses with the code `access`.
        """
        self._exchange.check_usable()
        check_topic(topic)
        payload = encode_update(value)
        frame = server_call(_SYNC, PUBLISH, string(topic), payload)
        reply = await self._exchange.request_in_session(SUBSCRIPTIONS, lambda exchange: exchange.request(frame))
        number = getattr(decode(reply, f"(publish {topic!r})"), "value", None)
        if type(number) is not int:
            raise ProtocolError("the server's reply to publish() is not the number of an update")
        return number

    @enable_ki_protection
    async def call(self, function: str, *arguments: Any, idempotent: bool = False) -> Value:
        """Call a function of the server and return its value.

        A checkpoint. Cancellation has the same effect as for `execute`.

        Args:
            function: the name of the function, or the text of a lambda such as `"(fn [x y] (+ x y))"`.
            arguments: at most 64 values that parameters can have. They are data and never evaluated.
            idempotent: as for `execute`.

        Raises:
            RayforceValueError: `function` is neither a name nor a lambda, or there are too many arguments. Nothing was
                sent.
            RayforceConversionError: an argument cannot be sent, and nothing was sent; or rayforce-py cannot
                represent the result.
            RayforceError: other errors are those of `execute`.
        """
        self._exchange.check_usable()
        query = encode_call(function, arguments)
        return decode(await self._exchange.request(encode(query, _SYNC), idempotent=idempotent), query)

    @enable_ki_protection
    async def execute_verbose(
        self, query: Query, params: Parameters | None = None, *, idempotent: bool = False
    ) -> VerboseResult:
        """Evaluate a query like `execute`, and return its value, its error and the text that it printed.

        A checkpoint. Cancellation has the same effect as for `execute`.

        Args:
            query: as for `execute`.
            params: as for `execute`.
            idempotent: as for `execute`.

        Raises:
            RayforceWSError: the server speaks only the baseline protocol, which does not send printed text. Nothing was
                sent.
            RayforceError: other errors are those of `execute`, except errors of the evaluation, which are in the
                result.
        """
        if not self._exchange.extended:
            raise RayforceWSError(
                "this server speaks only the baseline protocol, which cannot send printed text; use execute() instead"
            )
        frame = self._encode(query, _SYNC, params, verbose=True)
        output, reply = decode_verbose(await self._exchange.request(frame, idempotent=idempotent))
        if isinstance(reply, Failure):
            return VerboseResult(output, None, engine_error(reply, query))
        return VerboseResult(output, decode(reply, query), None)

    @enable_ki_protection
    async def post(self, query: Query, params: Parameters | None = None) -> None:
        """Send a query without waiting for its result. An error of the query appears only in the server's log.

        This returns when the query has been handed to the network. Before that, it waits while the server has many
        posts to carry out.

        A checkpoint. If cancelled, the query is not sent, unless a part of it was already sent; then the rest is sent,
        too. If the connection is lost soon afterwards, the query may not be carried out, and no error tells. Use
        `execute` if that matters.

        Args:
            query: as for `execute`.
            params: as for `execute`.

        Raises:
            RayforceError: the errors are those of `execute`, except errors of the evaluation.
        """
        await self._exchange.post(self._encode(query, _ASYNC, params))

    @enable_ki_protection
    async def tables(self) -> list[str]:
        """Return the names of the server's tables, sorted. Tables inside of a dict, such as `a.b`, are left out.

        A checkpoint. Cancellation has the same effect as for `execute`.

        Raises:
            RayforceError: the errors are those of `execute`.
        """
        return await table_names(self._exchange)

    @enable_ki_protection
    async def schema(self, table: str) -> dict[str, str]:
        """Return the engine's type of each column of a table, by column name: `{"sym": "SYMBOL", "px": "F64"}`.

        A checkpoint. Cancellation has the same effect as for `execute`.

        Args:
            table: the name of a table of the server.

        Raises:
            RayforceValueError: the server has no table of this name, or `table` cannot be a name.
            RayforceError: other errors are those of `execute`.
        """
        return await table_schema(self._exchange, table)

    @enable_ki_protection
    async def insert(self, table: str, data: TabularData, *, progress: Progress | None = None) -> int:
        """Append rows to a table of the server and return their number.

        Columns are matched by name and cast to the table's types if the cast changes no value. Long data is sent in
        several messages of up to 8 MiB, or of the server's limit if that is lower. The server inserts each message as a
        whole or not at all.

        A checkpoint. Other tasks also run while data is converted, but not while another library produces its Arrow
        data, as DuckDB does for a relation that is not computed yet. An error or a cancellation has the attribute
        `rows_inserted`: the number of rows that the server has confirmed, always the first ones. If this call is
        cancelled or the connection breaks, the rows of the current message may also have been inserted, or may still
        be.

        Args:
            table: the name of a table of the server.
            data: an object with `__arrow_c_stream__`, such as a polars or pandas DataFrame, a pyarrow Table or a DuckDB
                relation; a mapping of column names to lists or arrays; `Columns`; or a Rayforce `Table` that holds its
                data.
            progress: called with the number of rows inserted so far, after each message.

        Raises:
            RayforceValueError: the server has no table of this name, or the data does not have the table's columns.
                Nothing was inserted.
            RayforceConversionError: a value does not fit the type of its column; the error says where the value is.
                Nothing was inserted.
            RayforceError: other errors are those of `execute`. A read-only engine refuses with the code `access`.
        """
        with RowCount(progress) as inserted:
            await insert(self._exchange, table, data, inserted)
        return inserted.rows

    @enable_ki_protection
    async def upsert(
        self, table: str, data: TabularData, keys: Sequence[str], *, progress: Progress | None = None
    ) -> int:
        """Insert rows into a table, replace those that have the same keys, and return the number of rows in the data.

        Otherwise, this is like `insert`; `rows_inserted` also counts replaced rows.

        A checkpoint. Cancellation has the same effect as for `insert`.

        Args:
            table: as for `insert`.
            data: as for `insert`.
            keys: the names of the columns that identify a row. They must be the first columns of the table, in its
                order; this is a rule of the engine.
            progress: as for `insert`.

        Raises:
            RayforceValueError: the keys are not the table's first columns, which the error names; or the table has a
                column of type F32, with which the engine cannot upsert. Nothing was inserted.
            RayforceError: other errors are those of `insert`.
        """
        with RowCount(progress) as inserted:
            await upsert(self._exchange, table, data, keys, inserted)
        return inserted.rows

    @enable_ki_protection
    async def create_table(
        self, name: str, data: TabularData, *, replace: bool = False, progress: Progress | None = None
    ) -> int:
        """Create a table on the server with the columns and rows of the data, and return the number of rows.

        The table appears with the rows of the first message. The rows of further messages are inserted as by `insert`,
        and `rows_inserted` counts all of them. If it is 0, the table was not created or replaced, unless the call was
        cancelled or the connection broke.

        A checkpoint. Cancellation has the same effect as for `insert`.

        Args:
            name: the name of the new table. It consists of letters, digits, `_` and `-`, and begins with a letter or
                `_`.
            data: as for `insert`. It may have no rows.
            replace: whether to replace a table of this name, with all of its columns. Values of other kinds are never
                replaced.
            progress: as for `insert`.

        Raises:
            RayforceValueError: the name cannot be used, or is in use.
            RayforceConversionError: a value cannot be sent; the error says where the value is.
            RayforceError: other errors are those of `insert`.
        """
        with RowCount(progress) as inserted:
            await create(self._exchange, name, data, inserted, replace=replace)
        return inserted.rows

    @enable_ki_protection
    async def close(self) -> None:
        """Close the connection within 10 seconds. Calls that still wait raise `ConnectionClosed`. Idempotent.

        A checkpoint. If cancelled, the connection is nevertheless closed within that time.

        Raises:
            RayforceWSError: the connection is open, and was opened in another event loop.
        """
        self._exchange.check_closable()
        self._is_unclosed = False
        await self._exchange.close()

    @enable_ki_protection
    def abort(self) -> None:
        """Close the connection immediately, without waiting for the server. Idempotent. No checkpoint.

        Calls that still wait raise `ConnectionClosed`. The server stops their queries when it notices the loss.

        Raises:
            RayforceWSError: the connection is open, and was opened in another event loop.
        """
        self._exchange.check_closable()
        self._is_unclosed = False
        if not self._exchange.closed:
            self._exchange.abort()

    @enable_ki_protection
    async def __aenter__(self) -> "WSClientConnection":
        """Return the connection, which the end of the block closes. No checkpoint, so this cannot be cancelled.

        Raises:
            RayforceWSError: the connection is open, and was opened in another event loop.
        """
        self._exchange.check_closable()
        return self

    @enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection as `close` does. A checkpoint; cancellation has the same effect as for `close`."""
        await self.close()

    def __repr__(self) -> str:
        return f"WSClientConnection({'closed' if self.closed else 'open'})"

    def __del__(self) -> None:
        if not self._is_unclosed or sys.is_finalizing():
            return
        exchange = self._exchange
        if exchange.reason is None:
            if call_soon(exchange.loop, partial(exchange.close_with, closed_by_us())):
                outcome = "nothing refers to it anymore, so it is closed now"
            else:
                outcome = "its event loop had already been closed"
        elif exchange.closed_here:
            outcome = "it was closed when its event loop ended"
        else:
            return  # the server closed it, or it was lost
        warnings.warn(
            f"unclosed connection to {exchange.peer}: {outcome}; use 'async with', or call close()",
            ResourceWarning,
            source=self,
            stacklevel=2,
        )

    def _encode(
        self, query: Query, message_type: MessageType, params: Parameters | None, *, verbose: bool = False
    ) -> bytes:
        self._exchange.check_usable()
        return encode(query, message_type, params=params, verbose=verbose)
