"""The guides: their commands write what the pages show, and their configuration works. tests/test_docs.py has the rest.

nginx and HAProxy run with theirs in tests/interop/foreign.
"""

import json
import re
import shlex
import shutil
import signal
import subprocess
from configparser import RawConfigParser
from pathlib import Path
from urllib.request import urlopen

import pytest
from support.commands import FAREWELL, command, serving
from support.native import native_server
from support.notebooks import kernel
from support.page_commands import ROOT, cells_of, check_commands, commands_of, files_of, page_of

from rayforce_trio._codec import native_server as native_program

PAGES = sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs" / "how-to").glob("*.md"))
WITH_COMMANDS = [page for page in PAGES if commands_of(page_of(page))]
UNITS = [
    pytest.param(page, name, id=f"{Path(page).stem}-{Path(name).name}")
    for page in PAGES
    for name in files_of(page_of(page))
    if name.endswith(".service")
]
CONTAINER = files_of(page_of("how-to/container.md"))
CLOSING = 5  # seconds that a server needs beyond its grace

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not on the PATH")
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not on the PATH")


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=needs_openssl if page.endswith("/tls.md") else ()) for page in WITH_COMMANDS]
)
def test_the_commands_of_a_guide_write_what_it_shows(page: str, tmp_path: Path) -> None:
    check_commands(page_of(page), tmp_path)


def test_every_guide_is_in_the_table_of_contents() -> None:
    listed = re.findall(r"^how-to/.*$", page_of("index.md"), re.MULTILINE)
    assert sorted(f"{name}.md" for name in listed) == PAGES


# systemd


def unit_of(text: str) -> RawConfigParser:
    unit = RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(text)
    return unit


@needs_systemd
@pytest.mark.parametrize(("page", "name"), UNITS)
def test_systemd_accepts_a_unit(page: str, name: str, tmp_path: Path) -> None:
    files = files_of(page_of(page))
    for other, text in files.items():
        if other.endswith(".socket"):
            (tmp_path / Path(other).name).write_text(text, encoding="utf-8")
    path, text = tmp_path / "documented.service", files[name]
    program = shlex.split(unit_of(text)["Service"]["ExecStart"])[0]
    path.write_text(text.replace(program, "/bin/true"), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, encoding="utf-8", check=False)
    assert [line for line in (done.stdout + done.stderr).splitlines() if "documented" in line] == []


def test_the_unit_runs_a_server_that_systemd_leaves_time_to_stop(tmp_path: Path) -> None:
    files = files_of(page_of("how-to/systemd.md"))
    (tmp_path / "prices.csv").write_text("symbol,date,price\nAAPL,2010-03-01,223.02\n")
    (tmp_path / "prices.rfl").write_text(files["/opt/prices/prices.rfl"].replace("/opt/prices", str(tmp_path)))
    service = unit_of(files["/etc/systemd/system/prices.service"])["Service"]

    program, serve, *options = shlex.split(service["ExecStart"])
    assert (program, serve) == ("/opt/prices/venv/bin/rayforce-trio", "serve")
    options[options.index("prices.rfl")] = str(tmp_path / "prices.rfl")
    with serving(*options) as server:
        assert server.end(signal.SIGTERM)[0] == FAREWELL
        assert server.process.returncode == 0  # so `Restart=on-failure` leaves it stopped
    assert int(service["TimeoutStopSec"]) > 10 + CLOSING


def test_the_unit_of_an_engine_is_read_only_and_lets_in_its_gateways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = files_of(page_of("how-to/replicas.md"))
    (tmp_path / "prices.csv").write_text("symbol,date,price\nAAPL,2010-03-01,223.02\n")
    script, password = tmp_path / "prices.rfl", tmp_path / "password"
    script.write_text(files["/opt/prices/prices.rfl"].replace("/opt/prices", str(tmp_path)))
    password.write_text("public\n")
    password.chmod(0o600)

    service = unit_of(files["/etc/systemd/system/rayforce.service"])["Service"]
    program, _p, _port, *options = shlex.split(service["ExecStart"])
    packages = "/opt/prices/venv/lib/python3.11/site-packages"
    assert Path(program).relative_to(packages).parts == Path(native_program()).parts[-3:]
    assert options[-1] == "/opt/prices/prices.rfl"

    monkeypatch.setenv("ENGINE_USER", "a-name-that-nobody-can-guess")
    with native_server(*options[:-1], str(script)) as engine:
        gateway = ["--engine", f"127.0.0.1:{engine.port}", "--engine-password-file", str(password)]
        with serving(*gateway, "--engine-user", "a-name-that-nobody-can-guess") as server:
            assert command("query", server.url, "(count prices)").stdout == "1\n"
            assert command("query", server.url, "(set prices 0)").returncode == 1
            assert command("query", server.url, "(let inside 1)").stdout == "1\n"
            assert command("query", server.url, "inside").returncode == 1
        with serving(*gateway, "--engine-user", "a-guess") as server:
            assert command("query", server.url, "(count prices)").returncode == 3


# Containers


def value_of(key: str, text: str) -> str:
    """Return the value of the only line with a key, in YAML."""
    [value] = re.findall(rf"^ *{key}: (.*)$", text, re.MULTILINE)
    return str(value)


def test_the_command_of_the_container_serves_those_with_the_token(tmp_path: Path) -> None:
    [words] = re.findall(r"^CMD (.*)$", CONTAINER["Dockerfile"], re.MULTILINE)
    program, serve, *options = json.loads(words)
    assert (program, serve) == ("rayforce-trio", "serve")
    of_kubernetes = json.loads(value_of("args", page_of("how-to/container.md")))
    assert of_kubernetes == [program, serve, *options, "--drain-delay", "5"]

    token, script = tmp_path / "token", tmp_path / "prices.rfl"
    token.write_text("a-token-that-nobody-can-guess\n")
    script.write_text(CONTAINER["prices.rfl"])
    here = {"0.0.0.0": "127.0.0.1", "/run/secrets/token": str(token), "prices.rfl": str(script)}
    with serving(*(here.get(option, option) for option in options)) as server:
        assert command("query", server.url, "(count prices)", "--token-file", str(token)).stdout == "3\n"
        with urlopen(f"http://127.0.0.1:{server.port}/healthz") as answer:
            assert answer.status == 200
        assert server.end(signal.SIGTERM)[0] == FAREWELL


def test_compose_checks_the_health_and_leaves_time_to_stop() -> None:
    assert int(value_of("stop_grace_period", CONTAINER["compose.yaml"]).removesuffix("s")) > 10 + CLOSING
    kind, *test = json.loads(value_of("test", CONTAINER["compose.yaml"]))
    assert kind == "CMD"
    with serving() as server:
        probe = [part.replace(":8765", server.url) for part in test]
        assert subprocess.run(probe, check=False).returncode == 0
        server.end()
        assert subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode == 1


# Notebooks


def test_the_cells_of_the_notebook_write_what_the_page_shows() -> None:
    cells = cells_of(page_of("how-to/jupyter.md"))
    with serving("--script", str(ROOT / "docs" / "examples" / "prices.rfl")) as server, kernel() as run:
        for code, shown in cells:
            assert run(code.replace("8765", str(server.port))) == shown, code


def test_interrupting_the_kernel_stops_the_query_and_leaves_the_connection_usable() -> None:
    [connect, *_] = cells_of(page_of("how-to/jupyter.md"))
    with serving("--log-queries") as server, kernel() as run:
        assert run(connect[0].replace("8765", str(server.port))) == connect[1]
        log = server.process.stderr
        assert log is not None
        query = "await connection.execute('(while true 1)')"
        assert run(query, until=lambda: next(line for line in log if "(while" in line)) == "CancelledError\n"
        assert run("print(await connection.execute('(+ 1 2)'))\nawait connection.close()") == "3\n"
