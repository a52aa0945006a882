"""TLS on the command line: run as people run it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.certificates import AUTHORITY, CLIENT, SERVER, certificates, local_certificates
from support.commands import BOUND, Serving, command, serving, wrong_usage
from support.secret_files import secret_file
from support.terminal import CTRL_D, PROMPTED, terminal

IN_PROCESS = ("--engine", "in-process")


def file(name: str) -> str:
    return str(local_certificates() / name)


@pytest.fixture(scope="module")
def served() -> Iterator[Serving]:
    with serving(*IN_PROCESS, "--tls-certificate", file(SERVER)) as server:
        yield server


def ask(url: str, *arguments: str, **more: str) -> tuple[int, str, str]:
    done = command("query", url, "(+ 1 2)", *arguments, **more)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_client_that_trusts_the_authority_is_served(served: Serving, host: str) -> None:
    assert ask(f"wss://{host}:{served.port}", "--tls-authority", file(AUTHORITY)) == (0, "3\n", "")


def test_a_client_that_does_not_is_told_why_it_cannot_be(served: Serving) -> None:
    others = str(certificates("elsewhere.example") / AUTHORITY)
    for arguments in [], ["--tls-authority", others]:
        code, out, err = ask(f"wss://localhost:{served.port}", *arguments)
        assert (code, out) == (3, "")
        assert "its certificate cannot be trusted: " in err
        assert err.count("\n") == 1


def test_a_client_that_speaks_plainly_is_told_so(served: Serving) -> None:
    code, out, err = ask(served.url)
    assert (code, out) == (3, "")
    assert err.startswith(f"error: ws://127.0.0.1{served.url}: the server refused the connection with HTTP ")


def test_a_shell_speaks_tls_too(served: Serving, tmp_path: Path) -> None:
    url = f"wss://localhost:{served.port}"
    arguments = ("repl", url, "--tls-authority", file(AUTHORITY))
    done = command(*arguments, given="(+ 1 2)\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")
    with terminal(*arguments, XDG_STATE_HOME=str(tmp_path)) as shown:
        shown.until(f"Connected to {url}.")
        shown.until(PROMPTED)
        shown.type(CTRL_D)
        shown.rest()
        assert shown.process.wait(BOUND) == 0


def test_the_key_can_be_in_a_file_of_its_own(tmp_path: Path) -> None:
    key, certificate = _apart(SERVER, tmp_path)
    with serving(*IN_PROCESS, "--tls-certificate", certificate, "--tls-key", key, "--log-level", "warning") as server:
        assert ask(f"wss://localhost:{server.port}", "--tls-authority", file(AUTHORITY)) == (0, "3\n", "")
        assert server.end()[1] == ""


def test_a_token_is_shown_with_the_url_that_it_is_for() -> None:
    arguments = (*IN_PROCESS, "--tls-certificate", file(SERVER), "--log-level", "warning")
    with serving(*arguments, "--host", "0.0.0.0", "--generate-token") as server:
        _, err = server.end()
    lines = err.splitlines()
    assert lines[0] == f"Clients of wss://0.0.0.0:{server.port} need this token, which is not shown again:"
    assert len(lines) == 2  # with TLS there is nothing to warn of


def test_only_clients_with_a_certificate_are_let_in_if_so_asked_and_it_says_who_they_are(tmp_path: Path) -> None:
    arguments = ("--tls-certificate", file(SERVER), "--tls-client-authority", file(AUTHORITY))
    key, certificate = _apart(CLIENT, tmp_path)
    with serving(*IN_PROCESS, "--host", "0.0.0.0", *arguments) as server:
        url, trusting = f"wss://localhost:{server.port}", ("--tls-authority", file(AUTHORITY))
        assert ask(url, *trusting, "--tls-certificate", file(CLIENT)) == (0, "3\n", "")
        assert ask(url, *trusting, "--tls-certificate", certificate, "--tls-key", key) == (0, "3\n", "")
        foreign = str(certificates("elsewhere.example") / CLIENT)
        for shown in [], ["--tls-certificate", foreign]:
            code, out, err = ask(url, *trusting, *shown)
            assert (code, out) == (3, "")
            assert err.startswith("error: ")
            assert err.count("\n") == 1
        _, err = server.end()
    assert err.count(" (client@example.org at 127.0.0.1:") >= 2
    assert "warning: " not in err


def test_a_certificate_and_a_password_may_both_be_asked_for() -> None:
    arguments = ("--tls-certificate", file(SERVER), "--tls-client-authority", file(AUTHORITY))
    with serving(*IN_PROCESS, *arguments, RAYFORCE_PASSWORD="one of two") as server:
        known = ("--tls-authority", file(AUTHORITY), "--tls-certificate", file(CLIENT))
        url = f"wss://localhost:{server.port}"
        assert ask(url, *known, RAYFORCE_PASSWORD="one of two") == (0, "3\n", "")
        code, _, err = ask(url, *known)
        assert code == 3
        assert err.startswith(f"error: {url}: the server refused the connection with HTTP status 401: ")


def test_a_key_that_every_user_can_read_is_warned_of(tmp_path: Path) -> None:
    open_ = secret_file(tmp_path, Path(file(SERVER)).read_text(), mode=0o644)
    with serving(*IN_PROCESS, "--tls-certificate", open_, "--log-level", "warning") as server:
        _, err = server.end()
    assert err == f"warning: every user of this machine can read {open_}; use chmod o-r to prevent that\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--tls-key", "a"], "--tls-key needs --tls-certificate"),
        (["--tls-client-authority", "a"], "--tls-client-authority needs --tls-certificate"),
        (["--tls-certificate", "/none"], "--tls-certificate: /none cannot be read: No such file or directory"),
        (["--tls-certificate", "SERVER", "--tls-key", "/none"], "--tls-key: /none cannot be read: No such file "),
        (["--tls-certificate", "AUTHORITY"], "--tls-certificate: AUTHORITY does not contain a PEM certificate, or "),
        (["--tls-certificate", "SERVER", "--tls-key", "CLIENT"], "--tls-certificate: the key does not belong to "),
        (
            ["--tls-certificate", "SERVER", "--tls-client-authority", "/dev/null"],
            "--tls-client-authority: /dev/null does not contain a PEM certificate",
        ),
        (
            ["--tls-certificate", "SERVER", "--tls-client-authority", "AUTHORITY", "--allow-unauthenticated"],
            "--tls-client-authority asks clients for certificates, which contradicts --allow-unauthenticated; ",
        ),
    ],
)
def test_wrong_usage_of_serve_is_one_line(arguments: list[str], says: str) -> None:
    said = wrong_usage("serve", *IN_PROCESS, *map(_real, arguments))
    assert said.startswith(_real(says))


@pytest.mark.parametrize(
    ("url", "arguments", "says"),
    [
        (":8765", ["--tls-authority", "AUTHORITY"], "--tls-authority needs a URL that begins with wss://"),
        ("ws://host", ["--tls-certificate", "CLIENT"], "--tls-certificate needs a URL that begins with wss://"),
        ("wss://host", ["--tls-key", "CLIENT"], "--tls-key needs --tls-certificate"),
        ("wss://host", ["--tls-authority", "/none"], "--tls-authority: /none cannot be read: No such file "),
        ("wss://host", ["--tls-certificate", "AUTHORITY"], "--tls-certificate: AUTHORITY does not contain "),
    ],
)
def test_wrong_usage_of_clients_is_one_line(url: str, arguments: list[str], says: str) -> None:
    for command_ in ["query", url, "1"], ["repl", url]:
        said = wrong_usage(*command_, *map(_real, arguments))
        assert said.startswith(_real(says))


def test_an_encrypted_key_is_refused_without_a_question(tmp_path: Path) -> None:
    lines = Path(file(SERVER)).read_text().splitlines(keepends=True)
    begin = next(line for line in lines if "PRIVATE KEY" in line)
    at = lines.index(begin) + 1
    encrypted = ["Proc-Type: 4,ENCRYPTED\n", f"DEK-Info: AES-128-CBC,{'0' * 32}\n", "\n"]
    path = secret_file(tmp_path, "".join([*lines[:at], *encrypted, *lines[at:]]))
    said = wrong_usage("serve", *IN_PROCESS, "--tls-certificate", path)
    assert said.startswith("--tls-certificate: the key is encrypted, and pass phrases are not supported; ")


def _real(text: str) -> str:
    for word, name in ("AUTHORITY", AUTHORITY), ("SERVER", SERVER), ("CLIENT", CLIENT):
        text = text.replace(word, file(name))
    return text


def _apart(name: str, directory: Path) -> tuple[str, str]:
    """Return two files: with the key of a certificate, and with the certificate."""
    text = Path(file(name)).read_text()
    key, begin, certificate = text.partition("-----BEGIN CERTIFICATE-----")
    return (
        secret_file(directory, key, name=f"key of {name}"),
        secret_file(directory, begin + certificate, name=name, mode=0o644),
    )
