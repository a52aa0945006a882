"""The command `subscribe`."""

import argparse
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, suppress
from functools import partial
from typing import Any, Literal

import anyio
from anyio.abc import TaskGroup

from .. import Subscription, Value
from ._console import OK, CommandFailed, Interrupted, OutputClosed, counted, set_output_encoding, show_warning
from ._formats import FORMATS, as_text, csv_of_update, json_of_update
from ._interrupts import Interruptible, run
from ._live_output import LiveOutput
from ._options import add_topic, count, examples
from ._query import checked_expression
from ._session import Session
from ._target import add_target, check_not_url, target_of

DESCRIPTION = "Write the values that are published to a topic to standard output, until Ctrl-C."
_EXAMPLES = examples(
    "subscribe ticks",
    "subscribe :8765 ticks --snapshot prices --format csv",
    "subscribe ticks --format json --count 100",
)

_OVERFLOW: dict[str, Literal["error", "drop_oldest", "latest"]] = {
    "error": "error",
    "drop-oldest": "drop_oldest",
    "latest": "latest",
}


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "subscribe", help="write the values that are published to a topic", description=DESCRIPTION, epilog=_EXAMPLES
    )
    add_target(parser)
    add_topic(parser)
    parser.add_argument(
        "--snapshot", metavar="QUERY", help="write the value of this expression first, such as the name of a table"
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="text",
        help="output format; json writes one object per line; default: %(default)s",
    )
    parser.add_argument(
        "--overflow",
        choices=_OVERFLOW,
        default="error",
        help="what to do if updates arrive faster than they can be written: end with an error, drop the oldest, or "
        "keep only the latest; default: %(default)s",
    )
    parser.add_argument("--count", metavar="N", type=count, help="end after N updates; default: no limit")
    parser.set_defaults(run=subscribe)


def subscribe(options: argparse.Namespace) -> int:
    """Run the command, and return its exit code."""
    check_not_url(options.topic, "TOPIC")
    client = target_of(options).client()
    snapshot = None if options.snapshot is None else checked_expression(options.snapshot)
    set_output_encoding(*((None, "backslashreplace") if options.format == "text" else ("utf-8", "strict")))
    output = LiveOutput()
    writer = _Writer(output.write, options.format)

    async def write_updates(interruptible: Interruptible, tasks: TaskGroup) -> None:
        """Write the updates until Ctrl-C. A checkpoint; if cancelled, an update may be written in part."""
        async with (
            aclosing(await Session.connect(client, interruptible, tasks)) as session,
            AsyncExitStack() as stack,
        ):
            subscription = session.connection.subscribe(options.topic, snapshot, overflow=_OVERFLOW[options.overflow])
            updates = await session.call(partial(stack.enter_async_context, subscription))
            with anyio.CancelScope() as scope:
                tasks.start_soon(_cancel_when_closed, output, scope)
                write_all = partial(writer.write_all, updates, has_snapshot=snapshot is not None, limit=options.count)
                with suppress(Interrupted):
                    await interruptible.call(write_all, show_progress=False)
            if scope.cancelled_caught:
                raise OutputClosed

    run(write_updates, backend="trio")
    return OK


async def _cancel_when_closed(output: LiveOutput, scope: anyio.CancelScope) -> None:
    """Cancel a scope when the reader closes the pipe. A checkpoint; if cancelled, the scope is left alone."""
    await output.wait_closed()
    scope.cancel()


class _Writer:
    """Writes updates in a format.

    Args:
        write: writes a text and flushes it.
        format_: the name of the format.
    """

    def __init__(self, write: Callable[[str], Awaitable[None]], format_: str) -> None:
        self._write = write
        self._format = format_
        self._header: str | None = None  # of CSV, once it is written

    async def write_all(self, updates: Subscription, *, has_snapshot: bool, limit: int | None) -> None:
        """Write the snapshot, if there is one, and the updates, at most `limit`.

        A checkpoint. If cancelled, an update may be written in part.

        Raises:
            RayforceError: as iterating over the subscription.
            OutputClosed, CommandFailed: as `write`; or the columns of a table have changed.
        """
        if has_snapshot:
            sequence = updates.position.sequence
            await self._write(self._text(updates.snapshot, topic=updates.topic, sequence=sequence, snapshot=True))
        written = 0
        async for update in updates:
            if update.lost and self._format != "json":
                show_warning(f"lost {counted(update.lost, 'update')} before update {update.sequence}")
            await self._write(self._text(update.value, topic=update.topic, sequence=update.sequence, lost=update.lost))
            written += 1
            if written == limit:
                return

    def _text(self, value: Value, **about: Any) -> str:
        if self._format == "json":
            return json_of_update(value, **about)
        if self._format == "text":
            return "".join(as_text(value))
        lines = csv_of_update(value)
        header = next(lines)
        if self._header is None:
            self._header = header
            return "".join([header, *lines])
        if header != self._header:
            change = f"from {self._header.rstrip()} to {header.rstrip()}"
            raise CommandFailed(f"the columns have changed {change}; --format json can write both")
        return "".join(lines)
