"""`hash-password`, run as people run it."""

from pathlib import Path

import pytest
from support.commands import BOUND, command, serving, wrong_usage
from support.secret_files import secret_file
from support.terminal import CTRL_C, CTRL_D, ENTER, terminal

SECRET = "correct horse é"


def test_what_it_prints_is_what_a_server_knows_the_user_by(tmp_path: Path) -> None:
    hashed = command("hash-password", given=f"{SECRET}\n")
    assert (hashed.returncode, hashed.stderr) == (0, "")
    assert hashed.stdout.startswith("$scrypt$")
    assert hashed.stdout.count("\n") == 1
    with serving("--engine", "in-process", "--users-file", secret_file(tmp_path, f"ann:{hashed.stdout}")) as server:
        done = command("query", f"ann@127.0.0.1:{server.port}", "(+ 1 2)", RAYFORCE_PASSWORD=SECRET)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


def test_on_a_terminal_it_asks_twice_and_shows_nothing_of_it() -> None:
    with terminal("hash-password") as shown:
        shown.until("Password: ")
        shown.type(SECRET + ENTER)
        assert shown.until("Repeat the password: ") == "\n"
        shown.type(SECRET + ENTER)
        assert shown.rest().startswith("\n$scrypt$")
        assert shown.process.wait(BOUND) == 0


def test_two_that_differ_are_refused() -> None:
    with terminal("hash-password") as shown:
        shown.until("Password: ")
        shown.type(SECRET + ENTER)
        shown.until("Repeat the password: ")
        shown.type("another" + ENTER)
        assert shown.rest() == "\nerror: the passwords do not match\n"
        assert shown.process.wait(BOUND) == 2


@pytest.mark.parametrize(("key", "code"), [(CTRL_C, 130), (CTRL_D, 2)], ids=["ctrl-c", "ctrl-d"])
def test_one_can_think_better_of_it(key: str, code: int) -> None:
    with terminal("hash-password") as shown:
        shown.until("Password: ")
        shown.type(key)
        assert "Traceback" not in shown.rest()
        assert shown.process.wait(BOUND) == code


@pytest.mark.parametrize(
    ("given", "says"), [("", "the first line of standard input is empty; "), ("a\x07b\n", "Invalid password. ")]
)
def test_what_is_no_password_is_one_line_and_exit_code_2(given: str, says: str) -> None:
    done = command("hash-password", given=given)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {says}")
    assert done.stderr.count("\n") == 1


def test_a_password_is_no_argument() -> None:
    said = wrong_usage("hash-password", SECRET)
    assert "a secret cannot be an argument" in said
    assert SECRET not in said
