"""The command `publish`."""

import argparse
import sys
from contextlib import aclosing
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup
from rayforce import String

from .. import WSClientConnection
from ..errors import ConnectionClosed, ConnectionLost, RayforceError
from ._console import OK, CommandFailed, Interrupted, UsageError, counted, show, write
from ._interrupts import Interruptible, run
from ._lines import LineReader
from ._options import add_timeout, add_topic, examples
from ._query import checked_expression, show_output
from ._secrets import keep_secrets_out_of_standard_input
from ._session import Session, evaluate
from ._target import add_target, target_of

DESCRIPTION = """Publish the value of an expression to the subscribers of a topic, and write the number of the update,
or 0 if the topic has no subscribers. Without an expression, publish each line of standard input as a string."""
_EXAMPLES = examples(
    "publish :8765 ticks '(select {from: prices where: (> price 500)})'",
    "publish :8765 news < headlines.txt",
)

MAX_IN_FLIGHT = 64
"""How many lines of standard input may be published and not answered."""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("publish", help="publish values to a topic", description=DESCRIPTION, epilog=_EXAMPLES)
    add_target(parser, needs_url=True)
    add_topic(parser)
    parser.add_argument(
        "expression",
        metavar="EXPR",
        nargs="?",
        default="-",
        help="the Rayfall expression, which the server evaluates; default: -, the lines of standard input",
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
    """Publishes the lines of standard input, in their order, without waiting for the answer to each."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._count = 0
        self._unheard = 0  # published while there were no subscribers
        self._unknown = 0  # published or not
        self._failed_line = 0  # the first one; 0 if there is none
        self._error: RayforceError | UsageError | None = None  # of that line
        self._answered = anyio.Event()  # set when the first line is
        self._room = anyio.Semaphore(MAX_IN_FLIGHT)
        self._reading = anyio.CancelScope()

    async def run(self, session: Session) -> None:
        """Publish all lines, and report their number.

        A checkpoint. If cancelled, the last `MAX_IN_FLIGHT` lines may or may not be published.

        Raises:
            Interrupted: the user pressed Ctrl-C; the text says how many lines were published.
            CommandFailed: the time limit has passed.
            UsageError: a line is not UTF-8.
            RayforceError: as `WSClientConnection.publish`.
        """
        show_progress = not sys.stdin.isatty()
        try:
            await session.call(
                partial(self._publish, session.connection), show_progress=show_progress, status=self._status
            )
        except Interrupted:
            raise Interrupted(f"interrupted: {self._published}") from None
        except CommandFailed:
            show(self._published)
            raise
        if self._error is not None:
            show(f"{self._published}; line {self._failed_line} was not published:")
            raise self._error
        show(self._published)

    async def _publish(self, connection: WSClientConnection) -> None:
        """Publish the lines up to the end or the first one that fails, and wait for all answers.

        A checkpoint; if cancelled, the last `MAX_IN_FLIGHT` lines may or may not be published.
        """
        lines = LineReader(sys.stdin.fileno())
        line_number = 0
        async with anyio.create_task_group() as tasks:
            with self._reading:
                try:
                    while (line := await lines.read()) is not None:
                        line_number += 1
                        value = String(line.removesuffix("\n").removesuffix("\r"))
                        await self._room.acquire()
                        begins = anyio.Event()
                        tasks.start_soon(self._publish_line, connection, line_number, value, begins)
                        await begins.wait()
                        if line_number == 1:  # its call asks what the server offers; the next ones would overtake it
                            await self._answered.wait()
                except UsageError as error:  # the next line is not UTF-8
                    self._fail(line_number + 1, error)

    async def _publish_line(
        self, connection: WSClientConnection, line_number: int, value: String, begins: anyio.Event
    ) -> None:
        """Publish a line. A checkpoint; if cancelled, it may or may not be published.

        Args:
            connection: the connection.
            line_number: the number of the line, from 1.
            value: the line.
            begins: set directly before the call; as the call does not wait before it sends, calls keep their order.
        """
        begins.set()
        self._unknown += 1
        try:
            number = await connection.publish(self._topic, value)
        except RayforceError as error:
            self._unknown -= not isinstance(error, ConnectionClosed | ConnectionLost)
            self._fail(line_number, error)
        else:
            self._unknown -= 1
            self._count += 1
            self._unheard += number == 0
        self._answered.set()
        self._room.release()

    def _fail(self, line_number: int, error: RayforceError | UsageError) -> None:
        """Read no further lines, and keep the error of the first line that has failed."""
        if self._error is None or line_number < self._failed_line:
            self._failed_line, self._error = line_number, error
        self._reading.cancel()

    def _status(self) -> str:
        return counted(self._count, "line")

    @property
    def _published(self) -> str:
        if self._unheard and self._unheard == self._count:
            unheard = ", which has no subscribers"
        else:
            unheard = f", {self._unheard:,} of them without subscribers" if self._unheard else ""
        unknown = f", and perhaps {self._unknown} more" if self._unknown else ""
        return f"{counted(self._count, 'line')} published to {self._topic}{unheard}{unknown}"
