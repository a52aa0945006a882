"""`serve` on a Unix socket, and on sockets that systemd passes."""

import fcntl
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.activation import activated
from support.commands import BOUND, COMMAND, FAREWELL, command, environment, serving, started, wrong_usage

IN_PROCESS = ["--engine", "in-process", "--log-level", "warning"]


@contextmanager
def listening(host: str = "127.0.0.1") -> Iterator[socket.socket]:
    """Listen on TCP, with a file descriptor that the command does not use."""
    with (
        socket.create_server((host, 0)) as listener,
        socket.socket(fileno=fcntl.fcntl(listener, fcntl.F_DUPFD_CLOEXEC, 100)) as moved,
    ):
        yield moved


def check_answers(url: str) -> None:
    done = command("query", url, "(+ 1 2)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


@pytest.mark.parametrize(("arguments", "mode"), [([], 0o600), (["--unix-mode", "660"], 0o660)])
def test_it_serves_on_a_unix_socket(arguments: list[str], mode: int, short_path: Path) -> None:
    path = short_path / "s"
    with started("serve", *IN_PROCESS, "--host", f"unix:{path}", *arguments) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"Rayforce WebSocket served on unix:{path}\n"
            assert stat.S_IMODE(path.stat().st_mode) == mode
            check_answers(f"unix:{path}")
            process.terminate()
            assert process.communicate(timeout=BOUND) == (FAREWELL, "")
        finally:
            process.kill()
    assert not path.exists()


def test_a_generated_token_is_shown_with_the_path(short_path: Path) -> None:
    with started("serve", *IN_PROCESS, "--host", f"unix:{short_path}/s", "--generate-token") as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline().startswith(f"Clients of unix:{short_path}/s need this token")
        finally:
            process.terminate()
            process.communicate(timeout=BOUND)


def test_it_serves_on_the_sockets_of_systemd() -> None:
    with listening() as one, listening() as other:
        urls = [f"ws://127.0.0.1:{each.getsockname()[1]}" for each in (one, other)]
        with activated([one, other], *COMMAND, "serve", *IN_PROCESS, "--socket-activation") as process:
            assert process.stdout is not None
            assert process.stdout.readline() == f"Rayforce WebSocket served on {', '.join(urls)}\n"
            for url in urls:
                check_answers(url)
            process.terminate()
            assert process.communicate(timeout=BOUND) == (FAREWELL, "")
        assert process.returncode == 0
        with socket.create_connection(one.getsockname()):  # systemd still listens
            pass


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="needs systemd")
def test_it_serves_on_the_socket_of_the_real_systemd(short_path: Path) -> None:
    """systemd starts it when the first client connects."""
    path = short_path / "s"
    activate = ["systemd-socket-activate", "--listen", str(path), "--setenv=PYTHONPATH"]
    with subprocess.Popen(
        [*activate, *COMMAND, "serve", *IN_PROCESS, "--socket-activation"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        try:
            assert process.stderr is not None
            assert process.stdout is not None
            assert process.stderr.readline().startswith(f"Listening on {path} ")
            with socket.socket(socket.AF_UNIX) as first:
                first.connect(str(path))
                assert process.stdout.readline() == f"Rayforce WebSocket served on unix:{path}\n"
            check_answers(f"unix:{path}")
            process.terminate()
            assert process.communicate(timeout=BOUND)[0] == FAREWELL
        finally:
            process.kill()


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_systemd_is_told_when_it_serves_and_when_it_stops(kind: str, short_path: Path) -> None:
    path = str(short_path / "notify")
    address = path if kind == "path" else f"@{path}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.settimeout(BOUND)
        systemd.bind(address.replace("@", "\0"))
        with serving(*IN_PROCESS, NOTIFY_SOCKET=address) as server:
            assert systemd.recv(100) == b"READY=1"
            server.process.terminate()
            assert systemd.recv(100) == b"STOPPING=1"
            assert server.process.communicate(timeout=BOUND) == (FAREWELL, "")


def test_a_systemd_that_does_not_listen_is_no_error(short_path: Path) -> None:
    with serving(*IN_PROCESS, NOTIFY_SOCKET=str(short_path / "notify")) as server:
        assert server.end() == (FAREWELL, "")


def test_a_socket_that_others_can_reach_needs_authentication() -> None:
    with (
        listening("0.0.0.0") as one,
        activated([one], *COMMAND, "serve", *IN_PROCESS, "--socket-activation") as process,
    ):
        out, err = process.communicate(timeout=BOUND)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("error: the socket at 0.0.0.0 lets other machines connect, and clients can run any code ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--socket-activation"], "systemd has passed no sockets to this process: "),
        (["--socket-activation", "--port", "0"], "--socket-activation contradicts --host and --port: "),
        (["--socket-activation", "--host", "::1"], "--socket-activation contradicts --host and --port: "),
        (["--host", "unix:/run/x", "--port", "1"], "Invalid port: 1. A Unix socket has no port; leave it out"),
        (["--host", "unix:"], "Invalid path of a Unix socket: 'unix:'"),
        (["--unix-mode", "660"], "unix_mode needs host='unix:/path'"),
        (["--unix-mode", "0o660"], "argument --unix-mode: '0o660' is not the permissions of a file; write 660, for "),
        (["--unix-mode", "-w-"], "argument --unix-mode: expected one argument"),
    ],
)
def test_options_that_contradict_each_other_are_wrong_usage(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    assert wrong_usage("serve", *IN_PROCESS, *arguments).startswith(says)


def test_a_unix_socket_of_a_client_command_has_no_tls() -> None:
    said = wrong_usage("query", "unix:/run/x", "1", "--tls-authority", "/dev/null")
    assert said == "--tls-authority needs a URL that begins with wss://"


def test_a_client_command_says_why_a_unix_socket_cannot_be_reached(short_path: Path) -> None:
    done = command("query", f"unix:{short_path}/s", "1")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"error: Failed to connect to unix:{short_path}/s: no such file or directory\n"
