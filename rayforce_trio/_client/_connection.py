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
    """The printed text and the value of a query.

    Attributes:
        output: the text that the query printed.
        value: its value, as `execute` returns it; `None` if it failed.
        error: the error of the evaluation, as `execute` raises it; `None` if there was none.
    """

    output: str
    value: Value
    error: RayforceError | None


class WSClientConnection:
    """A connection to a Rayforce WebSocket server, made by `WSClient.connect`.

    Any number of tasks may use it at once: requests are pipelined, and each one gets its own reply. In another event
    loop than the one in which it was opened, every call of an open connection raises `RayforceWSError`.
    """

    _is_unclosed = False
    """Whether the caller has to close the connection, and has not done so yet. A nursery closes its connections."""

    def __init__(self, exchange: AnyExchange) -> None:
        self._exchange = exchange
        self._last_stream = 0

    @property
    def closed(self) -> Literal[False] | RayforceWSError:
        """`False` while the connection can be used, afterwards the error that says why it cannot."""
        return self._exchange.reason or False

    @property
    def state(self) -> ClientConnectionState:
        """The state of the connection."""
        return self._exchange.states.current

    def state_changes(self) -> StateChanges:
        """Return the changes of `state` from now on, for `async for`. It ends when the connection is closed.

        Raises:
            RayforceWSError: the connection was opened in another event loop.
        """
        self._exchange.check_closable()
        return self._exchange.states.changes()

    @property
    def stopped_queries(self) -> int:
        """The number of cancelled calls whose queries were stopped by the server, or never sent.

        The server answers a cancelled call later than the call ends, and before it answers any later call. A query that
        still ran to its end does not count.
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

        A checkpoint. If cancelled, the call ends at once, and the connection stays usable. A query that was not sent
        yet is never sent. A query that was sent is cancelled on the server, and its reply is discarded: if it has not
        started, it never starts; if it is running, a native engine stops it, while an in-process engine runs it to its
        end. Changes that it has made before it stops remain.

        Args:
            query: Rayfall text as a str or String; SQL as `sql(...)`; a List, Expression, SQLQuery, or a select,
                update, insert, upsert or join query of rayforce-py.
            params: values by the names that the query uses in their place. They are data, and never evaluated.
            idempotent: whether the query can be carried out twice without harm, as a query that only reads. On a
                connection that comes back, it is then sent again, up to three times, if the connection is lost before
                its reply arrives. On another connection, this has no effect.

        Returns:
            A Rayforce object (`I64`, `Table`, `Vector`, ...), or `None` for null. A server that speaks the baseline
            protocol only, such as rayforce-py's, reports errors as a `String`.

        Raises:
            UnsupportedQuery: `query` has another type. Nothing was sent.
            RayforceValueError: `params` is not a mapping, or a key cannot be used as a name. Nothing was sent.
            RayforceConversionError: a value cannot be sent, and nothing was sent; or rayforce-py cannot represent the
                result.
            RayforceError: the evaluation failed; rayforce-py's class for the engine's error code. Or rayforce-py cannot
                compile the query.
            RayforceThreadError: Rayforce was first imported in another thread.
            ConnectionClosed: the connection is closed, or was closed before the reply arrived.
            HandshakeError: the server did not answer the greeting as a Rayforce server does.
            ConnectionLost: the connection broke; on one that comes back, after the query was sent.
            RayforceWSError: the connection was opened in another event loop. Nothing was sent.
            MessageTooLarge: the query or its result is longer than one side allows.
            ProtocolError: the server broke the protocol.
        """
        exchange = self._exchange
        exchange.check_usable()
        return decode(await exchange.request(encode(query, _SYNC, params=params), idempotent=idempotent), query)

    @enable_ki_protection
    async def fetch(self, query: Query, params: Parameters | None = None, *, idempotent: bool = False) -> Columns:
        """Evaluate a query on the server and return its result as columns, without making Rayforce objects.

        A checkpoint; while a large result is read, other tasks run every few milliseconds. If cancelled, as `execute`.

        Args:
            query: as for `execute`. Its result is a table, a vector, which becomes the column `value`, or a dict of
                vectors of equal length.
            params: as for `execute`.
            idempotent: as for `execute`.

        Raises:
            RayforceTypeError: the result has no columns: it is a single number, for example. Use `execute`.
            RayforceConversionError: the result has a type that only `execute` can read, or is damaged.
            RayforceError: otherwise as `execute`.
        """
        reply = await self._exchange.request(self._encode(query, _SYNC, params), idempotent=idempotent)
        return await read_columns(reply_payload(reply, query), self._exchange)

    def stream(self, query: Query, params: Parameters | None = None, *, batch_size: int = 100_000) -> Batches:
        """Return the result of a query in batches, for results that are too large to be received at once.

        Use it like this::

            async with connection.stream("trades") as batches:
                async for columns in batches:
                    ...

        The server evaluates the query once, when the block is entered, so changes of its tables during the block do not
        show. Other clients wait for one batch, not for the whole result. The server releases the result when the block
        is left.

        Args:
            query: as for `fetch`.
            params: as for `fetch`.
            batch_size: the number of rows in each batch.

        Raises:
            RayforceValueError: the batch size is not a number of rows.
            RayforceError: otherwise as `encode` does for `execute`: the query or a parameter cannot be sent.
        """
        frame = self._encode(query, _SYNC, params)
        batches = open_stream(self._exchange, self._last_stream + 1, query, frame, batch_size)
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
        """Return the updates of a topic: the values that are published there from now on.

        Use it like this::

            async with connection.subscribe("trades", snapshot="trades") as updates:
                print(updates.snapshot)
                async for update in updates:
                    print(update.value)

        The subscription is active when the block has been entered, and ends with it. There can be any number of
        subscriptions on a connection, also several to one topic. Nothing is lost silently: a missing update raises an
        error, or the next update counts it.

        Args:
            topic: the topic.
            snapshot: a query whose value is `updates.snapshot`. No update is missing between it and the first update,
                and it contains none of them. If the connection is lost and comes back meanwhile, it is evaluated again.
            params: the parameters of that query.
            max_buffer: how many bytes of updates are kept until they are taken. The server has a buffer of its own.
            overflow: what happens beyond that. `"error"`: the iteration ends with `SlowSubscriber`. `"drop_oldest"`:
                the oldest updates are dropped, and the next update that is taken counts them. `"latest"`: only the
                latest update is ever kept, for those who need nothing but the present value.
            resume: the `position` of an earlier subscription to the topic, from which this one continues. It raises
                `SubscriptionGap` when the block is entered if the server does not have the updates behind it any more.

        Raises:
            RayforceValueError: an argument is invalid.
            RayforceError: otherwise as `execute` if the query of the snapshot or a parameter cannot be sent.
        """
        self._exchange.check_usable()
        return make_subscription(self._exchange, topic, snapshot, params, max_buffer, overflow, resume)

    @enable_ki_protection
    async def publish(self, topic: str, value: Any) -> int:
        """Publish a value to the subscribers of a topic, on the engine of this connection.

        A checkpoint. If cancelled, the value may or may not be published.

        Args:
            topic: the topic.
            value: a value like those of parameters, or a table. It is data, and never evaluated. Null cannot be
                published.

        Returns:
            The number of the update, or 0 if the topic has no subscribers.

        Raises:
            RayforceValueError: this cannot be a topic, or the value is null. Nothing was sent.
            RayforceConversionError: the value cannot be sent, and nothing was sent.
            RayforceWSError: the server has no subscriptions.
            RayforceError: otherwise as `execute`. A read-only engine refuses with the code `access`.
        """
        self._exchange.check_usable()
        check_topic(topic)
        payload = encode_update(value)
        frame = server_call(_SYNC, PUBLISH, string(topic), payload)
        reply = await self._exchange.request_in_session(SUBSCRIPTIONS, lambda exchange: exchange.request(frame))
        number = getattr(decode(reply, f"(publish {topic!r})"), "value", None)
        if type(number) is not int:
            raise ProtocolError("the server did not answer a publish with the number of the update")
        return number

    @enable_ki_protection
    async def call(self, function: str, *arguments: Any, idempotent: bool = False) -> Value:
        """Call a function of the server and return its value.

        A checkpoint; if cancelled, as `execute`.

        Args:
            function: its name, or the text of a lambda: `"(fn [x y] (+ x y))"`.
            arguments: values like those of parameters; at most 64. They are data, and never evaluated.
            idempotent: as for `execute`.

        Raises:
            RayforceValueError: `function` is neither a name nor a lambda, or there are too many arguments. Nothing was
                sent.
            RayforceConversionError: an argument cannot be sent, and nothing was sent; or rayforce-py cannot
                represent the result.
            RayforceError: otherwise as `execute`.
        """
        self._exchange.check_usable()
        query = encode_call(function, arguments)
        return decode(await self._exchange.request(encode(query, _SYNC), idempotent=idempotent), query)

    @enable_ki_protection
    async def execute_verbose(
        self, query: Query, params: Parameters | None = None, *, idempotent: bool = False
    ) -> VerboseResult:
        """Evaluate a query like `execute`, and also return the text that it printed, as a remote shell needs it.

        A checkpoint; if cancelled, as `execute`.

        Args:
            query: as for `execute`.
            params: as for `execute`.
            idempotent: as for `execute`.

        Raises:
            RayforceWSError: the server speaks only the baseline protocol, which does not send printed text. Nothing was
                sent.
            RayforceError: as for `execute`; the error of an evaluation is in the result, not raised.
        """
        if not self._exchange.extended:
            raise RayforceWSError("this server speaks only the baseline protocol, which does not send printed text")
        frame = self._encode(query, _SYNC, params, verbose=True)
        output, reply = decode_verbose(await self._exchange.request(frame, idempotent=idempotent))
        if isinstance(reply, Failure):
            return VerboseResult(output, None, engine_error(reply, query))
        return VerboseResult(output, decode(reply, query), None)

    @enable_ki_protection
    async def post(self, query: Query, params: Parameters | None = None) -> None:
        """Send a query without waiting for a result. An error of the query appears only in the server's log.

        Returns when the query was handed to the network, and waits before that while the server has many posts to carry
        out. A checkpoint; if cancelled before that, the query is not sent, unless it was partly sent already. If the
        connection is lost soon afterwards, nobody learns whether the query was carried out; `execute` tells.

        Args:
            query: as for `execute`.
            params: as for `execute`.

        Raises:
            RayforceError: as for `execute`, except for errors of the evaluation.
        """
        await self._exchange.post(self._encode(query, _ASYNC, params))

    @enable_ki_protection
    async def tables(self) -> list[str]:
        """Return the names of the server's tables, sorted. Tables in a dict, such as `a.b`, are left out.

        A checkpoint; if cancelled, as `execute`.

        Raises:
            RayforceError: as for `execute`.
        """
        return await table_names(self._exchange)

    @enable_ki_protection
    async def schema(self, table: str) -> dict[str, str]:
        """Return the engine's type of each column of a table, by the column's name: `{"sym": "SYMBOL", "px": "F64"}`.

        A checkpoint; if cancelled, as `execute`.

        Args:
            table: the name of a table of the server.

        Raises:
            RayforceValueError: the server has no table with this name, or `table` cannot be a name.
            RayforceError: otherwise as for `execute`.
        """
        return await table_schema(self._exchange, table)

    @enable_ki_protection
    async def insert(self, table: str, data: TabularData, *, progress: Progress | None = None) -> int:
        """Append rows to a table of the server, and return their number.

        Columns are matched by name and cast to the table's types if the cast changes no value. Long data is sent in
        several messages of up to 8 MiB, or of the server's limit. Each message is inserted as a whole or not at all.

        A checkpoint; other tasks also run while data is converted, but not while another library makes its Arrow data,
        as DuckDB does for a relation that is not computed yet. An error or a cancellation that is raised has the
        attribute `rows_inserted`: how many rows the server has confirmed, always the first ones. If cancelled, or if
        the connection breaks, the rows of the current message may also have been inserted, or may still be.

        Args:
            table: the name of a table of the server.
            data: an object with `__arrow_c_stream__`, such as a polars or pandas DataFrame, a pyarrow Table or a DuckDB
                relation; a mapping of column names to lists or arrays; `Columns`; or a Rayforce `Table` with its data.
            progress: called with the number of rows inserted so far after each message.

        Raises:
            RayforceValueError: the server has no table with this name, or the data does not have the table's
                columns. Nothing was inserted.
            RayforceConversionError: a value does not fit the column's type; the error says where it is. Nothing was
                inserted.
            RayforceError: otherwise as for `execute`. A read-only server refuses with the code `access`.
        """
        with RowCount(progress) as inserted:
            await insert(self._exchange, table, data, inserted)
        return inserted.rows

    @enable_ki_protection
    async def upsert(
        self, table: str, data: TabularData, keys: Sequence[str], *, progress: Progress | None = None
    ) -> int:
        """Replace the rows of a table whose keys occur in the data, append the others, and return their number.

        Otherwise like `insert`, whose `rows_inserted` here counts replaced rows, too.

        A checkpoint; if cancelled, as `insert`.

        Args:
            table: as for `insert`.
            data: as for `insert`.
            keys: the names of the columns that identify a row. The engine requires that they are the first columns of
                the table, in its order.
            progress: as for `insert`.

        Raises:
            RayforceValueError: the keys are not the table's first columns, the error names those; or the table has a
                column of type F32, with which the engine cannot upsert. Nothing was inserted.
            RayforceError: otherwise as for `insert`.
        """
        with RowCount(progress) as inserted:
            await upsert(self._exchange, table, data, keys, inserted)
        return inserted.rows

    @enable_ki_protection
    async def create_table(
        self, name: str, data: TabularData, *, replace: bool = False, progress: Progress | None = None
    ) -> int:
        """Create a table on the server with the columns and rows of the data, and return the number of rows.

        The table appears with the rows of the first message; those of further messages are inserted like those of
        `insert`, and `rows_inserted` counts all of them. If it is 0, the table was not created or replaced.

        A checkpoint; if cancelled, as `insert`, and the table may have been created or replaced.

        Args:
            name: the name of the new table: letters, digits, `_` and `-`; it begins with a letter or `_`.
            data: as for `insert`; there may be no rows.
            replace: replace the table of this name if there is one, at once and with all of its columns. Values of
                other kinds are never replaced.
            progress: as for `insert`.

        Raises:
            RayforceValueError: the name cannot be used, or the server has it already.
            RayforceConversionError: a value cannot be sent; the error says where it is.
            RayforceError: otherwise as for `insert`.
        """
        with RowCount(progress) as inserted:
            await create(self._exchange, name, data, inserted, replace=replace)
        return inserted.rows

    @enable_ki_protection
    async def close(self) -> None:
        """Close the connection within 10 seconds. Idempotent. Calls that still wait raise `ConnectionClosed`.

        A checkpoint. If cancelled, the connection is still closed within that time.

        Raises:
            RayforceWSError: the connection is open, and was opened in another event loop.
        """
        self._exchange.check_closable()
        self._is_unclosed = False
        await self._exchange.close()

    @enable_ki_protection
    def abort(self) -> None:
        """Close the connection at once, without waiting for the server. Idempotent, and no checkpoint.

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
        """Return the connection, which is closed at the end of the block. No checkpoint, so this cannot be cancelled.

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
        """Close the connection as `close` does. A checkpoint; if cancelled, as `close`."""
        await self.close()

    def __repr__(self) -> str:
        return f"WSClientConnection({'closed' if self.closed else 'open'})"

    def __del__(self) -> None:
        if not self._is_unclosed or sys.is_finalizing():
            return
        exchange = self._exchange
        if exchange.reason is None:
            if call_soon(exchange.loop, partial(exchange.close_with, closed_by_us())):
                outcome = "it is closed now, because nothing refers to it any more"
            else:
                outcome = "its event loop was closed first"
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
