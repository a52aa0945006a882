"""The command `publish`."""

import argparse
import sys
from contextlib import aclosing
from functools import partial
from typing import Any

from anyio.abc import TaskGroup
from rayforce import String

from .. import WSClientConnection
from ..errors import RayforceError
from ._console import OK, CommandFailed, Interrupted, UsageError, show, write
from ._interrupts import Interruptible, run
from ._lines import LineReader
from ._options import add_timeout, add_topic
from ._query import checked_expression, show_output
from ._secrets import keep_secrets_out_of_standard_input
from ._session import Session, evaluate
from ._target import add_target, target_of

DESCRIPTION = """Publish the value of an expression to the subscribers of a topic, and write the number of the update, 0
if there are no subscribers. Without an expression, publish each line of standard input as a string."""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("publish", help="publish values to a topic", description=DESCRIPTION)
    add_target(parser)
    add_topic(parser)
    parser.add_argument(
        "expression", metavar="EXPR", nargs="?", default="-", help="Rayfall code, which the server evaluates"
    )
    add_timeout(parser)
    parser.set_defaults(run=publish)


def publish(options: argparse.Namespace) -> int:
    """Run the command, and return its exit code."""
    reads_lines = options.expression == "-"
    if reads_lines:
        keep_secrets_out_of_standard_input(options)
    client = target_of(options).client()
    expression = "" if reads_lines else checked_expression(options.expression)

    async def publish_all(interruptible: Interruptible, tasks: TaskGroup) -> None:
        """Publish the value or the lines. A checkpoint; if cancelled, the last value may or may not be published."""
        async with aclosing(await Session.connect(client, interruptible, tasks, time_limit=options.timeout)) as session:
            if reads_lines:
                await _Lines(options.topic).run(session)
            else:
                number = await session.call(partial(_publish_value, session.connection, options.topic, expression))
                write([f"{number}\n"])

    run(publish_all, backend="trio")
    return OK


async def _publish_value(connection: WSClientConnection, topic: str, expression: str) -> int:
    """Evaluate an expression on the server, publish its value, and return the number of the update.

    A checkpoint. If cancelled, the query is cancelled, or the value may or may not be published.

    Raises:
        RayforceError: as `WSClientConnection.execute` and `publish`.
    """
    result = await evaluate(connection, expression)
    show_output(result.output)
    if result.error is not None:
        raise result.error
    return await connection.publish(topic, result.value)


class _Lines:
    """Publishes the lines of standard input."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._count = 0
        self._unheard = 0  # published while there were no subscribers

    async def run(self, session: Session) -> None:
        """Publish all lines, and report their number.

        A checkpoint. If cancelled, the last line may or may not be published.

        Raises:
            Interrupted: the user pressed Ctrl-C; the text says how many lines were published.
            CommandFailed, UsageError, RayforceError: as `_publish`, or the time limit has passed.
        """
        show_progress = not sys.stdin.isatty()
        try:
            await session.call(
                partial(self._publish, session.connection), show_progress=show_progress, status=self._status
            )
        except Interrupted:
            raise Interrupted(f"interrupted: {self._published}") from None
        except (CommandFailed, UsageError, RayforceError):
            show(self._published)
            raise
        show(self._published)

    async def _publish(self, connection: WSClientConnection) -> None:
        """Publish all lines. A checkpoint; if cancelled, the last line may or may not be published.

        Raises:
            UsageError: a line is not UTF-8.
            RayforceError: as `WSClientConnection.publish`.
        """
        lines = LineReader(sys.stdin.fileno())
        while (line := await lines.read()) is not None:
            text = line.removesuffix("\n").removesuffix("\r")
            number = await connection.publish(self._topic, String(text))
            self._count += 1
            self._unheard += number == 0

    def _status(self) -> str:
        return f"{self._count:,} lines"

    @property
    def _published(self) -> str:
        unheard = f", {self._unheard} of them without subscribers" if self._unheard else ""
        return f"{self._count} line{'s' if self._count != 1 else ''} published to {self._topic}{unheard}"
