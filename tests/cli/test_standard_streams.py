"""Standard output and standard error that nobody reads, that are full, or that are closed."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import pytest
from support.commands import BOUND, COMMAND, command, environment, serving
from support.serve_native import Served

from rayforce_trio import auth


@contextmanager
def unwritable(kind: str) -> Iterator[int]:
    """Yield a descriptor for which every write fails."""
    if kind == "full":
        descriptor = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, descriptor = os.pipe()
        os.close(reading)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def run(*arguments: str, stdout: int | None = None, stderr: int | None = None) -> tuple[int, str, str]:
    """Run a command; returns its exit code, and the text on the streams that are not given."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        env=environment(),
        input="secret\n",
        stdout=subprocess.PIPE if stdout is None else stdout,
        stderr=subprocess.PIPE if stderr is None else stderr,
        encoding="utf-8",
        timeout=BOUND,
        check=False,
    )
    return done.returncode, done.stdout or "", done.stderr or ""


def stop(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Stop a server with SIGTERM; returns its exit code, and the text on standard error."""
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=BOUND)
    return process.returncode, err or ""


def close(stream: IO[str] | None) -> None:
    assert stream is not None
    stream.close()


@pytest.mark.parametrize("level", ["warning", "debug"])
def test_a_server_whose_output_is_no_longer_read_stops_as_usual(level: str) -> None:
    with serving("--log-level", level) as server:
        close(server.process.stdout)
        server.process.stdout = None
        code, err = stop(server.process)
    assert code == 0
    assert "rror" not in err


def test_a_server_whose_log_is_no_longer_read_stops_as_usual() -> None:
    with serving("--log-level", "debug") as server:
        close(server.process.stderr)
        server.process.stderr = None
        assert command("query", server.url, "(+ 1 2)").stdout == "3\n"
        assert stop(server.process) == (0, "")


@pytest.mark.parametrize("kind", ["not read", "full"])
def test_a_server_whose_output_cannot_be_written_serves_and_stops_as_usual(kind: str) -> None:
    with unwritable(kind) as stdout:
        process = subprocess.Popen(
            [*COMMAND, "serve", "--port", "0", "--engine", "in-process", "--generate-token"],
            env=environment(),
            stdout=stdout,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
    with process:
        try:
            assert process.stderr is not None
            url = process.stderr.readline().split()[2]  # shown as soon as the server listens
            token = process.stderr.readline().removesuffix("\n")
            assert command("query", url, "(+ 1 2)", RAYFORCE_TOKEN=token).stdout == "3\n"
            code, err = stop(process)
        finally:
            process.kill()
    assert code == 0
    assert "rror" not in err


@pytest.mark.parametrize(
    "arguments", [["--help"], ["serve", "--help"], ["--version"], ["hash-password"]], ids=lambda words: " ".join(words)
)
def test_text_that_is_no_longer_read_is_no_error(arguments: list[str]) -> None:
    with unwritable("not read") as stdout:
        assert run(*arguments, stdout=stdout) == (0, "", "")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["hash-password"]], ids=lambda words: " ".join(words))
def test_text_that_cannot_be_written_is_an_error(arguments: list[str]) -> None:
    with unwritable("full") as stdout:
        said = "error: the output cannot be written: No space left on device\n"
        assert run(*arguments, stdout=stdout) == (1, "", said)


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        (["query", ":{port}", "(+ 1 'one)"], 1, "not read"),
        (["query", ":{port}", "(+ 1 'one)"], 1, "full"),
        (["query"], 2, "not read"),
        (["query", ":{port}", ""], 2, "full"),
        (["repl", ":1"], 3, "not read"),
        (["serve", "--host", "192.0.2.1", "--allow-unauthenticated", "--engine", "in-process"], 1, "not read"),
    ],
)
def test_errors_that_cannot_be_written_leave_the_exit_code_as_it_is(
    served: Served, arguments: list[str], code: int, kind: str
) -> None:
    words = [word.format(port=served.port) for word in arguments]
    with unwritable(kind) as stderr:
        assert run(*words, stderr=stderr) == (code, "", "")


def test_the_hash_is_written_while_nobody_reads_errors() -> None:
    with unwritable("not read") as stderr:
        code, out, _ = run("hash-password", stderr=stderr)
    assert code == 0
    auth.users({"ann": out.removesuffix("\n")})  # raises an error for anything but a hash


def test_a_token_that_cannot_be_shown_does_not_end_the_server() -> None:
    with unwritable("not read") as stderr:
        process = subprocess.Popen(
            [*COMMAND, "serve", "--port", "0", "--engine", "in-process", "--generate-token"],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=stderr,
            encoding="utf-8",
        )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Rayforce WebSocket served on ")
        assert stop(process) == (0, "")
