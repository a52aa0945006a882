"""Who a server lets in, and how a client says who it is: run as people run it. No secret is ever shown."""

import re
import socket
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from support.commands import BOUND, FAREWELL, Serving, command, serving, wrong_usage
from support.native import free_port
from support.raw import upgrade
from support.secret_files import secret_file
from support.terminal import CTRL_C, CTRL_D, ENTER, PROMPTED, terminal

from rayforce_trio import auth
from rayforce_trio._cli._options import limit

SECRET = "correct-horse-battery"
WRONG = "a-wrong-guess-of-it"
IN_PROCESS = ("--engine", "in-process")
PASSWORD = {"RAYFORCE_PASSWORD": SECRET}
TOKEN = {"RAYFORCE_TOKEN": SECRET}


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PASSWORD, *TOKEN):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def by_password() -> Iterator[Serving]:
    with serving(*IN_PROCESS, **PASSWORD) as server:
        yield server


@pytest.fixture(scope="module")
def by_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    file = secret_file(tmp_path_factory.mktemp("users"), f"# who\n\nann:{auth.hash_password(SECRET)}\n")
    with serving(*IN_PROCESS, "--users-file", file) as server:
        yield server


def ask(url: str, *arguments: str, **more: str) -> tuple[int, str]:
    """Return the exit code of a query, and all that it wrote."""
    done = command("query", url, "(+ 1 2)", *arguments, **more)
    assert SECRET not in done.stdout + done.stderr
    assert WRONG not in done.stdout + done.stderr
    return done.returncode, done.stdout + done.stderr


def assert_is_refused(answer: tuple[int, str]) -> None:
    code, said = answer
    assert code == 3
    assert re.match(r"error: ws://127\.0\.0\.1:\d+: the server refused the connection with HTTP status 401: ", said)
    assert said.count("\n") == 1


# The server


@pytest.mark.parametrize(
    ("kind", "by_file"), [("password", True), ("password", False), ("token", True), ("token", False)]
)
def test_who_knows_the_secret_is_let_in_and_nothing_shows_it(kind: str, by_file: bool, tmp_path: Path) -> None:
    variable = f"RAYFORCE_{kind.upper()}"
    arguments = [f"--{kind}-file", secret_file(tmp_path, f"{SECRET}\nanother line\n")] if by_file else []
    environment = {} if by_file else {variable: SECRET}
    with serving(*IN_PROCESS, "--log-level", "debug", *arguments, **environment) as server:
        assert ask(server.url, **{variable: SECRET}) == (0, "3\n")
        assert_is_refused(ask(server.url, **{variable: WRONG}))
        assert_is_refused(ask(server.url))
        out, err = server.end()
    assert out == FAREWELL
    assert f"({kind} at 127.0.0.1:" in err
    assert SECRET not in err
    assert WRONG not in err


def test_users_are_let_in_with_their_own_password(by_users: Serving, tmp_path: Path) -> None:
    at_host = f"127.0.0.1:{by_users.port}"
    assert ask(f"ws://ann@{at_host}", **PASSWORD) == (0, "3\n")
    assert ask(f"ann@{at_host}", "--password-file", secret_file(tmp_path, SECRET)) == (0, "3\n")
    assert ask(at_host, "--user", "ann", **PASSWORD) == (0, "3\n")
    assert_is_refused(ask(f"bob@{at_host}", **PASSWORD))
    assert_is_refused(ask(f"ann@{at_host}", RAYFORCE_PASSWORD=WRONG))


def test_a_token_is_made_and_shown_once_with_the_url() -> None:
    with serving(*IN_PROCESS, "--log-level", "warning", "--generate-token", **PASSWORD) as server:
        assert server.process.stderr is not None
        assert server.process.stderr.readline() == (
            f"Clients of ws://127.0.0.1:{server.port} need this token, which is not shown again:\n"
        )
        token = server.process.stderr.readline().removesuffix("\n")
        assert re.fullmatch("[A-Za-z0-9_-]{43}", token)
        assert ask(server.url, RAYFORCE_TOKEN=token) == (0, "3\n")
        assert_is_refused(ask(server.url, **TOKEN))
        assert_is_refused(ask(server.url, **PASSWORD))
        out, err = server.end()
    assert out == FAREWELL
    assert token not in err


def test_each_token_that_is_made_is_another() -> None:
    tokens = []
    for _ in range(2):
        with serving(*IN_PROCESS, "--log-level", "warning", "--generate-token") as server:
            _, err = server.end()
            tokens.append(err.splitlines()[1])
    assert tokens[0] != tokens[1]


@pytest.mark.parametrize("variable", ["RAYFORCE_PASSWORD", "RAYFORCE_TOKEN"])
@pytest.mark.parametrize("engine", [(), IN_PROCESS], ids=["native", "in-process"])
def test_clients_do_not_find_the_secret_in_the_environment_of_the_engine(
    variable: str, engine: tuple[str, ...]
) -> None:
    environment = {variable: SECRET, "SOMETHING_ELSE": "there"}
    with serving(*engine, **environment) as server:
        for name, found in (variable, '""\n'), ("SOMETHING_ELSE", '"there"\n'):
            done = command("query", server.url, f'(.os.getenv "{name}")', **{variable: SECRET})
            assert (done.returncode, done.stdout, done.stderr) == (0, found, "")


def test_with_authentication_an_address_that_others_can_reach_is_served_with_a_warning() -> None:
    with serving(*IN_PROCESS, "--host", "0.0.0.0", "--log-level", "warning", **PASSWORD) as server:
        assert ask(f"127.0.0.1:{server.port}", **PASSWORD) == (0, "3\n")
        _, err = server.end()
    assert err == (
        "warning: --host 0.0.0.0 lets other machines connect; without --tls-certificate, secrets are not encrypted\n"
    )


def test_without_authentication_a_warning_says_that_the_clients_of_a_proxy_are_refused() -> None:
    for options, warns in (([], True), (["--allow-unauthenticated"], False)):
        with serving(*IN_PROCESS, "--trusted-proxy", "127.0.0.1", "--log-level", "error", *options) as server:
            _, err = server.end()
        assert err.startswith("warning: the clients of --trusted-proxy are refused") is warns


def test_on_this_machine_alone_there_is_nothing_to_warn_of() -> None:
    with serving(*IN_PROCESS, "--log-level", "warning", **PASSWORD) as server:
        assert server.end() == (FAREWELL, "")


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (["--password-file", "a", "--token-file", "b"], {}, "argument --token-file: not allowed with argument --passw"),
        (["--generate-token", "--users-file", "a"], {}, "argument --users-file: not allowed with argument --generate"),
        (["--generate-token", "--allow-unauthenticated"], {}, "argument --allow-unauthenticated: not allowed with arg"),
        (["--allow-unauthenticated"], PASSWORD, "RAYFORCE_PASSWORD is set, which contradicts --allow-unauth"),
        (["--allow-unauthenticated"], TOKEN, "RAYFORCE_TOKEN is set, which contradicts --allow-unauthenticated"),
        ([], {**PASSWORD, **TOKEN}, "RAYFORCE_PASSWORD and RAYFORCE_TOKEN are both set; unset one of them"),
        ([], {"RAYFORCE_PASSWORD": ""}, "RAYFORCE_PASSWORD is set, but empty"),
        ([], {"RAYFORCE_TOKEN": f"{SECRET} é"}, "Invalid token. "),
        ([], {"RAYFORCE_PASSWORD": f"{SECRET}\x07"}, "Invalid password. "),
        (["--password", SECRET], {}, "argument --password: a secret cannot be an argument: other users could read "),
        (["--token", SECRET], {}, "argument --token: a secret cannot be an argument: "),
        (["--max-connections", "-1"], {}, "argument --max-connections: '-1' is not a limit; write a number, or 0 "),
        (["--allowed-host", "a/b"], {}, "Invalid host: 'a/b'. "),
    ],
)
def test_wrong_usage_of_serve_is_one_line_and_shows_no_secret(
    arguments: list[str], environment: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    said = wrong_usage("serve", *IN_PROCESS, *arguments)
    assert said.startswith(says)
    assert SECRET not in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"ann:{SECRET}\n", ": Invalid entry of user 'ann'. Must be a hash from hash_password"),
        (f"\n{SECRET}\n", ", line 2 is not of the form NAME:HASH"),
        ("ann:one\nann:two\n", ", line 2: the user 'ann' appears twice"),
        ("# nobody\n", ": Invalid users. "),
    ],
)
def test_a_users_file_that_is_none_is_one_line_and_shows_no_secret(text: str, says: str, tmp_path: Path) -> None:
    file = secret_file(tmp_path, text)
    said = wrong_usage("serve", *IN_PROCESS, "--users-file", file)
    assert said.startswith(file + says)
    assert SECRET not in said


@pytest.mark.parametrize("option", ["--password-file", "--token-file"])
@pytest.mark.parametrize("where", [["serve", *IN_PROCESS], ["query", ":8765", "1"], ["repl", ":8765"]])
def test_a_file_without_a_secret_is_one_line(where: list[str], option: str, tmp_path: Path) -> None:
    assert wrong_usage(*where, option, str(tmp_path)) == f"{tmp_path} cannot be read: Is a directory"
    empty = secret_file(tmp_path, f"\n{SECRET}\n", name="empty")
    assert wrong_usage(*where, option, empty) == f"the first line of {empty} is empty; it must be the secret"
    assert wrong_usage(*where, option, "/dev/zero") == "/dev/zero is too long; the limit is 1048576 bytes"
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    binary.chmod(0o600)
    assert wrong_usage(*where, option, str(binary)) == f"{binary} is not UTF-8"


def test_a_file_that_every_user_can_read_is_warned_of(by_password: Serving, tmp_path: Path) -> None:
    file = secret_file(tmp_path, SECRET, mode=0o644)
    done = command("query", by_password.url, "(+ 1 2)", "--password-file", file)
    assert (done.returncode, done.stdout) == (0, "3\n")
    assert done.stderr == f"warning: every user of this machine can read {file}; use chmod o-r to prevent that\n"


# The clients


@pytest.mark.parametrize("line", [SECRET, f"{SECRET}\n", f"{SECRET}\r\n", f"{SECRET}\nmore\n"])
def test_the_secret_is_the_first_line_whatever_it_ends_with(by_password: Serving, line: str, tmp_path: Path) -> None:
    file = secret_file(tmp_path, "")
    Path(file).write_bytes(line.encode())
    assert ask(by_password.url, "--password-file", file, **TOKEN) == (0, "3\n")


@pytest.mark.parametrize("command_", [["query", "{}", "1"], ["repl", "{}"]], ids=lambda command_: str(command_[0]))
@pytest.mark.parametrize(
    ("url", "more", "environment", "says"),
    [
        (f"ws://ann:{SECRET}@host", [], {}, "Invalid URL. Must not contain a password, "),
        (f"ann:{SECRET}@host:1", [], {}, "Invalid URL. Must not contain a password, "),
        (f"ws://ann:{SECRET[:4]}/{SECRET}@host", [], {}, "Invalid port in the URL. "),
        (f"http://host/{SECRET}", [], {}, "Invalid URL. Must look like "),
        (":1", ["--password", SECRET], {}, "argument --password: a secret cannot be an argument: "),
        (":1", ["--password-file", "a", "--token-file", "b"], {}, "argument --token-file: not allowed with "),
        ("ann@host", [], {}, "a user name needs a password; use --password-file or set RAYFORCE_PASSWORD"),
        ("host", ["--user", "ann"], TOKEN, "a user name needs a password, and cannot be used with a token"),
        ("ann@host", ["--user", "ann"], PASSWORD, "the URL already contains a user name; leave out --user"),
        ("host", ["--user", "a:b"], PASSWORD, "Invalid user name. "),
        ("host", [], {"RAYFORCE_TOKEN": f"{SECRET} é"}, "Invalid token. "),
        ("host", [], {**PASSWORD, **TOKEN}, "RAYFORCE_PASSWORD and RAYFORCE_TOKEN are both set; "),
    ],
)
def test_wrong_usage_of_clients_is_one_line_and_shows_no_secret(
    command_: list[str],
    url: str,
    more: list[str],
    environment: dict[str, str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    said = wrong_usage(*[part.format(url) for part in command_], *more)
    assert said.startswith(says)
    assert SECRET not in said


def test_a_shell_asks_for_the_password_and_does_not_show_it(by_users: Serving, tmp_path: Path) -> None:
    with terminal("repl", f"ann@127.0.0.1:{by_users.port}", XDG_STATE_HOME=str(tmp_path)) as shown:
        shown.until("Password for ann: ")
        shown.type(SECRET + ENTER)
        assert SECRET not in shown.until("Connected to ")
        shown.until(PROMPTED)
        shown.type("(+ 40 2)" + ENTER)
        shown.until("42\n")
        shown.until(PROMPTED)
        shown.type(CTRL_D)
        assert SECRET not in shown.rest()
        assert shown.process.wait(BOUND) == 0
    assert SECRET not in (tmp_path / "rayforce-trio" / "history").read_text()


def test_a_shell_that_is_refused_again_ends_with_exit_code_3(by_password: Serving) -> None:
    with terminal("repl", by_password.url) as shown:
        shown.until("Password: ")
        shown.type(WRONG + ENTER)
        said = shown.rest()
        assert f"error: ws://127.0.0.1{by_password.url}: the server refused the connection with HTTP " in said
        assert WRONG not in said
        assert shown.process.wait(BOUND) == 3


@pytest.mark.parametrize(("key", "code"), [(CTRL_C, 130), (CTRL_D, 3)], ids=["ctrl-c", "ctrl-d"])
def test_a_shell_that_gets_no_password_ends(by_password: Serving, key: str, code: int) -> None:
    with terminal("repl", by_password.url) as shown:
        shown.until("Password: ")
        shown.type(key)
        assert "Traceback" not in shown.rest()
        assert shown.process.wait(BOUND) == code


def test_a_shell_that_was_given_a_wrong_secret_does_not_ask(by_password: Serving) -> None:
    with terminal("repl", by_password.url, RAYFORCE_PASSWORD=WRONG) as shown:
        said = shown.rest()
        assert said.startswith(f"error: ws://127.0.0.1{by_password.url}: the server refused the connection with HTTP ")
        assert shown.process.wait(BOUND) == 3


def test_expressions_from_a_pipe_need_the_password_from_elsewhere(by_password: Serving) -> None:
    done = command("repl", by_password.url, given="(+ 1 2)\n")
    assert_is_refused((done.returncode, done.stdout + done.stderr))
    done = command("repl", by_password.url, given="(+ 1 2)\n", **PASSWORD)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


def test_nobody_who_is_not_there_is_asked_for_a_password() -> None:
    with terminal("repl", f"ann@127.0.0.1:{free_port()}") as shown:
        assert shown.rest().startswith("error: Failed to connect to ")
        assert shown.process.wait(BOUND) == 3


# Hosts and limits


def test_an_allowed_host_may_be_asked_for_and_others_not() -> None:
    def status(host: str) -> int:
        with closing(HTTPConnection("127.0.0.1", server.port, timeout=BOUND)) as connection:
            upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
            headers: dict[str, Any] = {"Host": host, "Sec-WebSocket-Key": "A" * 22 + "==", **upgrade}
            connection.request("GET", "/", headers=headers)
            return connection.getresponse().status

    with serving(*IN_PROCESS, "--allowed-host", "prices.example", "--allowed-host", "data.example") as server:
        assert [status("prices.example"), status("data.example"), status("other.example")] == [101, 101, 421]


@pytest.mark.parametrize("option", ["--max-connections", "--max-connections-per-address"])
def test_one_connection_too_many_is_refused(option: str) -> None:
    with (
        serving(*IN_PROCESS, option, "1") as server,
        socket.create_connection(("127.0.0.1", server.port), BOUND) as other,
    ):
        other.sendall(upgrade())
        assert other.recv(4096).startswith(b"HTTP/1.1 101 ")
        code, said = ask(server.url)
        assert code == 3
        assert f"({option.removeprefix('--').replace('-', '_')})" in said


def test_0_is_no_limit() -> None:
    assert limit("0") is None
    assert limit("7") == 7
