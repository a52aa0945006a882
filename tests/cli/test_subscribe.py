"""`subscribe` and `publish`."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from types import SimpleNamespace
from typing import IO, Any, cast

import anyio
import pytest
from rayforce import F64, I64, String, Symbol, Table, Vector
from support.commands import BOUND, COMMAND, command, environment, started, wrong_usage
from support.connected import connected_to
from support.processes import server_process

from rayforce_trio import Position, WSClientConnection
from rayforce_trio._cli._console import CommandFailed, OutputClosed
from rayforce_trio._cli._live_output import LiveOutput
from rayforce_trio._cli._publish import _Lines
from rayforce_trio._cli._subscribe import _Writer
from rayforce_trio.errors import ConnectionLost, RayforceDomainError, SlowSubscriber


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a server in a process of its own, whose engine publishes."""
    with server_process("child") as port:
        yield port


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    return str(request.node.originalname)


def publish(port: int, topic: str, expression: str) -> None:
    """Publish a value to a topic that has subscribers."""

    async def evaluate_and_publish() -> None:
        with anyio.fail_after(BOUND):
            async with connected_to(port) as connection:
                assert await connection.publish(topic, await connection.execute(expression)) > 0

    anyio.run(evaluate_and_publish)


@contextmanager
def subscribed(port: int, topic: str, *options: str) -> "Iterator[subprocess.Popen[str]]":
    """Run `subscribe`, and wait until it is active: until it has written its snapshot."""
    with started("subscribe", f":{port}", topic, "--snapshot", "'active", *options) as process:
        try:
            assert process.stdout is not None
            while "active" not in process.stdout.readline():
                assert process.poll() is None
            yield process
        finally:
            process.kill()


def rows(**columns: list[Any]) -> Table:
    return Table({name: Vector(items, ray_type=_TYPES[type(items[0])]) for name, items in columns.items()})


_TYPES: dict[type, Any] = {str: Symbol, float: F64}


def texts(format_: str, *values: Any) -> list[str]:
    """Return what is written for each update."""
    writer = _Writer(partial(anyio.sleep, 0), format_)
    return [writer._text(value, topic="t", sequence=number) for number, value in enumerate(values, 1)]


def test_json_is_one_line_for_each_update() -> None:
    first, second = texts("json", rows(sym=["a", "b"], price=[1.5, 2.5]), [1, 2])
    assert first.count("\n") == second.count("\n") == 1
    assert json.loads(first) == {
        "topic": "t",
        "sequence": 1,
        "rows": [{"sym": "a", "price": 1.5}, {"sym": "b", "price": 2.5}],
    }


def test_csv_has_one_header() -> None:
    assert texts("csv", rows(sym=["a", "b"], price=[1.5, 2.5]), rows(sym=["c,d"], price=[float("nan")])) == [
        "sym,price\na,1.5\nb,2.5\n",
        '"c,d",\n',
    ]


def test_csv_has_one_line_for_each_value_that_is_not_a_table() -> None:
    values = texts("csv", 5, None, Vector(["a", "b"], ray_type=Symbol))
    assert values == ["value\n5\n", '""\n', '"[""a"", ""b""]"\n']


def test_csv_ends_if_the_columns_change() -> None:
    with pytest.raises(CommandFailed, match="the columns have changed from sym to value; --format json can write both"):
        texts("csv", rows(sym=["a"]), 5)


class Updates:
    """Stands for a subscription: some updates that are there already, and then an error."""

    topic = "t"
    snapshot = Symbol("snapshot")
    position = Position("epoch", 7)

    def __init__(self, *updates: tuple[int, int], error: Exception | None = None) -> None:
        self._updates = [
            SimpleNamespace(topic="t", sequence=sequence, lost=lost, value=I64(sequence)) for sequence, lost in updates
        ]
        self._error = error

    def __aiter__(self) -> "Updates":
        return self

    async def __anext__(self) -> Any:
        if self._updates:
            return self._updates.pop(0)
        raise self._error or StopAsyncIteration


async def written(updates: Any, format_: str, *, has_snapshot: bool = False, limit: int | None = None) -> list[str]:
    texts: list[str] = []

    async def write(text: str) -> None:
        texts.append(text)

    await _Writer(write, format_).write_all(updates, has_snapshot=has_snapshot, limit=limit)
    return texts


@pytest.mark.trio
@pytest.mark.parametrize("format_", ["text", "csv"])
async def test_lost_updates_are_a_warning(format_: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "".join(await written(Updates((1, 0), (4, 2), (6, 1)), format_)).endswith("1\n4\n6\n")
    assert (
        capsys.readouterr().err == "warning: lost 2 updates before update 4\nwarning: lost 1 update before update 6\n"
    )


@pytest.mark.trio
async def test_lost_updates_are_in_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    lines = await written(Updates((8, 0), (10, 1)), "json", has_snapshot=True)
    assert list(map(json.loads, lines)) == [
        {"topic": "t", "sequence": 7, "snapshot": True, "value": "snapshot"},
        {"topic": "t", "sequence": 8, "lost": 0, "value": 8},
        {"topic": "t", "sequence": 10, "lost": 1, "value": 10},
    ]
    assert capsys.readouterr().err == ""


@pytest.mark.trio
async def test_the_limit_counts_updates_and_not_the_snapshot() -> None:
    updates = Updates((8, 0), (9, 0), error=SlowSubscriber("not reached"))
    assert await written(updates, "text", has_snapshot=True, limit=2) == ["snapshot\n", "8\n", "9\n"]
    with pytest.raises(SlowSubscriber):
        await written(updates, "text")


def test_updates_are_written_as_they_arrive(port: int, topic: str) -> None:
    with subscribed(port, topic, "--format", "json", "--count", "2") as process:
        assert process.stdout is not None
        publish(port, topic, "(+ 1 2)")
        assert json.loads(process.stdout.readline()) == {"topic": topic, "sequence": 1, "lost": 0, "value": 3}
        publish(port, topic, "(table [a] (list [5 6]))")
        out, err = process.communicate(timeout=BOUND)
    assert json.loads(out) == {"topic": topic, "sequence": 2, "lost": 0, "rows": [{"a": 5}, {"a": 6}]}
    assert (process.returncode, err) == (0, "")


def test_the_snapshot_is_written_first(port: int, topic: str) -> None:
    snapshot = "(table [a] (list [1 2]))"
    with started("subscribe", f":{port}", topic, "--snapshot", snapshot, "--format", "csv", "--count", "1") as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(3)] == ["a\n", "1\n", "2\n"]
        publish(port, topic, "(table [a] (list [3]))")
        assert process.communicate(timeout=BOUND) == ("3\n", "")


def test_ctrl_c_is_the_normal_end(port: int, topic: str) -> None:
    with subscribed(port, topic) as process:
        assert process.stdout is not None
        publish(port, topic, "(+ 1 2)")
        assert process.stdout.readline() == "3\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=BOUND) == ("", "")
        assert process.returncode == 0


def test_a_reader_that_leaves_ends_the_command_before_the_next_update(port: int, topic: str) -> None:
    with subscribed(port, topic) as process:
        assert process.stdout is not None
        publish(port, topic, "(+ 1 2)")
        assert process.stdout.readline() == "3\n"
        process.stdout.close()
        assert process.wait(BOUND) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_an_error_of_the_snapshot_is_one_line_and_exit_code_1(port: int, topic: str) -> None:
    done = command("subscribe", f":{port}", topic, "--snapshot", "(+ 1 'one)")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("error: type: ")


def test_a_server_without_subscriptions_is_one_line_and_exit_code_1(their_port: int) -> None:
    for arguments in ("subscribe", f":{their_port}", "t"), ("publish", f":{their_port}", "t", "1"):
        done = command(*arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert done.stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["subscribe", ":8765", ""], "argument TOPIC: '' must not be empty"),
        (["publish", ":8765", "t" * 2000, "1"], "argument TOPIC: 'ttt"),
        (["publish", ":8765", "t", " "], "the expression is empty"),
        (["publish", ":8765", "t", "--token-file", "/dev/stdin"], "standard input is the input of this command; "),
        (["subscribe", ":8765", "t", "--snapshot", ""], "the expression is empty"),
        (["subscribe", ":8765", "t", "--count", "0"], "argument --count: '0' is not a whole number above 0"),
        (["subscribe", ":8765", "t", "--format", "arrow"], "argument --format: invalid choice: 'arrow'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: list[str], says: str) -> None:
    assert wrong_usage(*arguments).startswith(says)


def test_publish_writes_the_number_of_the_update(port: int, topic: str) -> None:
    assert command("publish", f":{port}", topic, "(+ 1 2)").stdout == "0\n"
    with subscribed(port, topic, "--count", "2") as process:
        publish(port, topic, "0")
        done = command("publish", f":{port}", topic, '(do (println "adding") (+ 1 2))')
        assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "adding\n")
        assert process.communicate(timeout=BOUND) == ("0\n3\n", "")


@pytest.mark.parametrize(
    ("expression", "says"),
    [("null", "error: null cannot be published\n"), ("(+ 1 'one)", "error: type: ")],
)
def test_what_cannot_be_published_is_exit_code_1(port: int, topic: str, expression: str, says: str) -> None:
    done = command("publish", f":{port}", topic, expression)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(says)


def test_lines_of_standard_input_are_published_as_strings(port: int, topic: str) -> None:
    done = command("publish", f":{port}", topic, given="nobody\n")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"1 line published to {topic}, which has no subscribers\n"
    with subscribed(port, topic, "--format", "csv", "--count", "4") as process:
        publish(port, topic, "0")
        done = subprocess.run(
            [*COMMAND, "publish", f":{port}", topic],
            env=environment(),
            input="(+ 1 2)\n\r\ncaf\u00e9",
            capture_output=True,
            encoding="utf-8",
            timeout=BOUND,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", f"3 lines published to {topic}\n")
        assert process.communicate(timeout=BOUND) == ('0\n(+ 1 2)\n""\ncaf\u00e9\n', "")


def test_many_lines_keep_their_order(port: int, topic: str) -> None:
    lines = "".join(f"{number}\n" for number in range(2000))
    with subscribed(port, topic, "--format", "csv", "--count", "2001") as process:
        publish(port, topic, "0")
        done = command("publish", f":{port}", topic, given=lines)
        assert (done.returncode, done.stderr) == (0, f"2,000 lines published to {topic}\n")
        assert process.communicate(timeout=BOUND) == (f"0\n{lines}", "")


def test_the_first_line_that_fails_is_named(topic: str) -> None:
    with server_process("read-only") as port:
        done = command("publish", f":{port}", topic, given="a\nb\n")
    assert (done.returncode, done.stdout) == (1, "")
    first, error = done.stderr.splitlines()
    assert first == f"0 lines published to {topic}; line 1 was not published:"
    assert error.startswith("error: access")


class _Refusing:
    """A connection on which the third line and all behind it are refused, in whatever order the calls begin."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.refused = anyio.Event()

    async def publish(self, topic: str, value: String) -> int:
        assert topic == "t"
        line = str(value.value)
        self.begun.append(line)
        if len(self.begun) == 1:
            return 1
        if line == "3":
            await self.refused.wait()
            raise ConnectionLost("gone")
        if line == "5":
            self.refused.set()
            raise RayforceDomainError("too much")
        return 1


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_lines_behind_the_one_that_fails_may_have_been_published(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as given, os.fdopen(writing, "w") as giving:
        monkeypatch.setattr(sys, "stdin", given)
        giving.write("1\n2\n3\n4\n5\n")
        giving.flush()  # and the pipe stays open
        lines, connection = _Lines("t"), _Refusing()
        with anyio.fail_after(BOUND):
            await lines._publish(cast("WSClientConnection", connection))
    assert connection.begun == ["1", "2", "3", "4", "5"]
    assert (lines._published, lines._failed_line) == ("3 lines published to t, and perhaps 1 more", 3)
    assert isinstance(lines._error, ConnectionLost)


def test_a_line_that_is_not_utf8_is_named(port: int, topic: str) -> None:
    done = subprocess.run(
        [*COMMAND, "publish", f":{port}", topic],
        env=environment(),
        input=b"a\n\xff\n",
        capture_output=True,
        timeout=BOUND,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.decode().splitlines() == [
        f"1 line published to {topic}, which has no subscribers; line 2 was not published:",
        "error: standard input is not UTF-8",
    ]


def test_ctrl_c_tells_how_many_lines_were_published(port: int, topic: str) -> None:
    with (
        subscribed(port, topic, "--count", "2") as reader,
        subprocess.Popen(
            [*COMMAND, "publish", f":{port}", topic],
            env=environment(),
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        ) as process,
    ):
        publish(port, topic, "0")
        assert process.stdin is not None
        process.stdin.write("a\n")
        process.stdin.flush()
        assert reader.communicate(timeout=BOUND) == ('0\n"a"\n', "")
        process.send_signal(signal.SIGINT)
        process.wait(BOUND)  # with its input still open
        assert process.stderr is not None
        err = process.stderr.read()
    assert (process.returncode, err) == (130, f"interrupted: 1 line published to {topic}\n")


@contextmanager
def pipe_as_output() -> Iterator[tuple[IO[bytes], LiveOutput]]:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as reader, os.fdopen(writing, "w", encoding="utf-8") as writer:
        with redirect_stdout(writer):
            yield reader, LiveOutput()
        sys.stdout.flush()


@pytest.mark.trio
async def test_a_slow_reader_does_not_block_the_event_loop() -> None:
    with pipe_as_output() as (reader, output):
        received = b""
        with anyio.fail_after(BOUND):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(output.write, "x" * 300_000)
                while len(received) < 300_000:
                    await anyio.wait_readable(reader)
                    received += reader.read(1000)


@pytest.mark.trio
async def test_a_write_to_a_full_pipe_can_be_cancelled() -> None:
    with pipe_as_output() as (_, output), anyio.move_on_after(0.1) as scope:
        await output.write("x" * 300_000)
    assert scope.cancelled_caught


@pytest.mark.trio
async def test_a_write_without_a_reader_is_told() -> None:
    with pipe_as_output() as (reader, output):
        reader.close()
        with anyio.fail_after(BOUND):
            await output.wait_closed()
            with pytest.raises(OutputClosed):
                await output.write("x")
