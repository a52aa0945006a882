"""A connection whose calls make spans. A connection without spans has none of this."""

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

from .._tasks import enable_ki_protection
from .._traces import TracedSpan, kind_of
from .._values._columns import Columns
from ._batches import Batches
from ._connection import WSClientConnection
from ._reconnecting import AnyExchange
from ._subscription import Subscription
from ._traces import ClientTraces

P = ParamSpec("P")
R = TypeVar("R")

_ROWS = "db.response.returned_rows"


def _traces_of(exchange: AnyExchange) -> ClientTraces:
    assert exchange.traces is not None
    return exchange.traces


def _in_span(
    method: Callable[Concatenate[WSClientConnection, P], Coroutine[Any, Any, R]], query: str = ""
) -> Callable[Concatenate[WSClientConnection, P], Coroutine[Any, Any, R]]:
    """Return a method that makes a span for each call of another one.

    Args:
        method: the method of `WSClientConnection`.
        query: the name of its first parameter if that is the query.
    """

    @wraps(method)
    @enable_ki_protection
    async def call(self: WSClientConnection, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the method in a span. Otherwise like it, also if cancelled."""
        text = (args[0] if args else kwargs.get(query)) if query else None
        with _traces_of(self._exchange).call(method.__name__, text) as span:
            result = await method(self, *args, **kwargs)
            if isinstance(result, Columns):
                span.set(_ROWS, len(result))
            return result

    return call


class TracedBatches(Batches):
    """Batches with one span, from the beginning of the block to its end."""

    _span: TracedSpan | None = None
    _error: tuple[str | None, str] = (None, "")  # of the last attempt to receive a batch

    @enable_ki_protection
    async def __aenter__(self) -> Batches:
        if self._span is not None:
            return await super().__aenter__()  # raises an error
        self._span = _traces_of(self._connection).start("stream", self._query)
        try:
            with self._inside():
                return await super().__aenter__()
        except BaseException as error:
            self._error = kind_of(error), f"{error}"
            self._end_span()
            raise

    @enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._inside():
            await super().__aexit__(exc_type, exc, traceback)
        self._end_span()

    @enable_ki_protection
    async def __anext__(self) -> Columns:
        try:
            with self._inside():
                columns = await super().__anext__()
        except StopAsyncIteration:
            raise
        except BaseException as error:
            self._error = kind_of(error), f"{error}"
            raise
        self._error = None, ""
        return columns

    @contextmanager
    def _inside(self) -> Iterator[None]:
        if self._span is None:
            yield
        else:
            with _traces_of(self._connection).inside(self._span):
                yield

    def _end_span(self) -> None:
        if self._span is not None:
            self._span.set(_ROWS, self._returned_rows)
            self._span.end(*self._error)


class TracedSubscription(Subscription):
    """A subscription with a span that ends when it is active and the snapshot has arrived."""

    @enable_ki_protection
    async def __aenter__(self) -> Subscription:
        query = None if self._query is None else self._query[0]
        with _traces_of(self._connection).call("subscribe", query):
            return await super().__aenter__()


class TracedConnection(WSClientConnection):
    """A connection that makes a span for each call."""

    _batches = TracedBatches
    _subscription = TracedSubscription

    execute = _in_span(WSClientConnection.execute, "query")
    execute_verbose = _in_span(WSClientConnection.execute_verbose, "query")
    fetch = _in_span(WSClientConnection.fetch, "query")
    post = _in_span(WSClientConnection.post, "query")
    call = _in_span(WSClientConnection.call, "function")
    publish = _in_span(WSClientConnection.publish)
    tables = _in_span(WSClientConnection.tables)
    schema = _in_span(WSClientConnection.schema)
    insert = _in_span(WSClientConnection.insert)
    upsert = _in_span(WSClientConnection.upsert)
    create_table = _in_span(WSClientConnection.create_table)
