"""Every code block of README and docs does what the page says."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.certificates import AUTHORITY, SERVER, local_certificates
from support.pages import DOCS, PAGES, README, ROOT, Block, blocks

TUTORIAL = DOCS / "tutorial.md"  # test_tutorial.py runs its programs, in their order
EXAMPLES = Path("docs", "examples")
QUICKSTART = EXAMPLES / "quickstart.py"

NOT_RUN = {"console", "text", "json", "toml", "ini", "yaml", "nginx", "dockerfile", "javascript"}
NOT_RUN |= {"py"}  # cells of a notebook: tests/test_how_to.py runs them
NOT_RUN |= {"{toctree}", "{eval-rst}", "{index}"}
BOUND = 60  # seconds
PORT = "8765"  # what the pages write

ENVIRONMENT = {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "ENGINE_USER": "somebody"}


ALL = [block for page in PAGES for block in blocks(page)]
PYTHON = [block for block in ALL if block.language == "python" and block.page != TUTORIAL]
PROGRAMS = [block for block in PYTHON if block.serves_until_signalled]
BLOCKING = [block for block in PYTHON if block.serves_until_interrupted]
ENDING = [block for block in PYTHON if block not in PROGRAMS + BLOCKING]
DATA = (".save(", str(EXAMPLES / "prices.rfl"))  # how a server gets the data that the clients of its page need
SERVER_OF = {block.page: block for block in PROGRAMS if any(data in block.code for data in DATA)}


def certificates() -> dict[str, str]:
    """Return what the examples of TLS need, which is made when it is asked for."""
    directory = local_certificates()
    return {"CERTIFICATE": str(directory / SERVER), "AUTHORITY": str(directory / AUTHORITY)}


def start(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-W", "error", *arguments],
        cwd=ROOT,
        env=os.environ | ENVIRONMENT | certificates(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def start_block(block: Block, port: int) -> "subprocess.Popen[str]":
    """Run a block so that tracebacks show the lines of its page."""
    return start("-c", "\n" * (block.line - 1) + block.code.replace(PORT, str(port)))


def output_of(child: "subprocess.Popen[str]") -> str:
    """Return what a child printed; it must end well, in time, and with nothing worse in its log than information."""
    with child:
        try:
            out, err = child.communicate(timeout=BOUND)
        finally:
            child.kill()
    assert child.returncode == 0, err
    assert [line for line in err.splitlines() if not line.startswith("INFO:rayforce_trio.")] == []
    return out


@pytest.mark.parametrize("block", ALL, ids=str)
def test_block_is_python_or_of_a_language_that_is_not_run(block: Block) -> None:
    assert block.language == "python" or block.language.partition(" ")[0] in NOT_RUN


def port_told_by(child: "subprocess.Popen[str]", text: str) -> int:
    """Return the port in the first line a child prints; there is nothing but `text` before its URL."""
    assert child.stdout is not None
    told = re.fullmatch(re.escape(text) + r"ws://127\.0\.0\.1:(\d+)\n", child.stdout.readline())
    assert told is not None
    return int(told[1])


@contextmanager
def served_by(block: Block) -> Iterator[int]:
    """Run a block that serves, and yield its port; then interrupt it, and it must end well."""
    child = start_block(block, port=0)
    try:
        yield port_told_by(child, "Rayforce WebSocket served on ")
        child.send_signal(signal.SIGINT)
    except BaseException:
        child.kill()
        child.communicate()
        raise
    assert output_of(child).endswith("\nRayforce WebSocket Server stopped.\n")


@pytest.fixture(scope="session")
def any_port() -> Iterator[int]:
    """The port of a server that evaluates in its own process, for the pages that have none."""
    with served_by(SERVER_OF[README]) as of_readme:
        yield of_readme


@pytest.fixture
def port(block: Block, request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of the server that a block needs: its page's, if that has one with data, else any."""
    if PORT not in block.code:
        yield 0
    elif block.page in SERVER_OF:
        with served_by(SERVER_OF[block.page]) as of_page:
            yield of_page
    else:
        yield request.getfixturevalue("any_port")


@pytest.mark.parametrize("block", ENDING, ids=str)
def test_block_runs_and_prints_what_the_page_says(block: Block, port: int) -> None:
    printed = output_of(start_block(block, port))
    if block.output is not None:
        assert printed == block.output


@pytest.mark.parametrize("block", PROGRAMS, ids=str)
def test_block_that_serves_ends_well_when_interrupted(block: Block) -> None:
    with served_by(block):
        pass


@pytest.mark.parametrize("block", BLOCKING, ids=str)
def test_block_that_sleeps_serves_until_a_keyboard_interrupt(block: Block) -> None:
    with start_block(block, port=0) as child:
        try:
            port_told_by(child, "")
            child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=BOUND)
        finally:
            child.kill()
    assert child.returncode == -signal.SIGINT
    assert out == ""
    assert err.endswith("\nKeyboardInterrupt\n")


def test_quickstart_prints_what_it_asked_and_got() -> None:
    printed = output_of(start(str(QUICKSTART)))
    assert "\n> (count stocks)\n560\n" in printed
    assert "\ncancelled\n\n> (+ 1 2)\n3\n" in printed
    assert printed.endswith('\n> (+ 1 "one")\nRayforceTypeError: type: cannot add i64 and str\n')


def test_quickstart_with_an_engine_process_outlives_what_is_done_to_it() -> None:
    printed = output_of(start(str(EXAMPLES / "quickstart_native.py")))
    assert "\n> (count stocks)\n560\n" in printed
    assert "\ncancelled\n\n> (+ 1 2)\n3\n" in printed
    assert "\n> (while true 1)\nstopped\n561\n" in printed
    assert "the peer closed the connection with code 1011: the engine process disconnected\n" in printed
    ended = r"\nrayforce_trio.engine: the engine process \d+ ended with exit code 0; restarting it"
    assert re.search(ended, printed)
    assert printed.endswith("\n3\n")


@pytest.mark.timing
def test_stall_shows_that_an_engine_process_leaves_the_loop_free() -> None:
    header, *rows = output_of(start(str(EXAMPLES / "stall.py"))).splitlines()
    assert header == "engine             query   loop stood still   ping answered after"
    measured = {}
    for row in rows:
        found = re.fullmatch(r"(\w+)\(\) +([\d.]+) s +([\d.]+) ms +([\d.]+) ms", row)
        assert found is not None
        measured[found[1]] = float(found[2]) * 1000, float(found[3]), float(found[4])
    for name, stalls in ("InProcessEngine", True), ("NativeProcess", False):
        query, *stood_still = measured.pop(name)
        assert [time > query / 2 for time in stood_still] == [stalls, stalls]
    assert not measured


def readme_commands() -> list[list[list[str]]]:
    """Return README's console blocks: each is one line of commands joined by `&&`, each command its words."""
    return [
        [shlex.split(command) for command in block.code.split("&&")]
        for block in ALL
        if block.page == README and block.language == "console"
    ]


MAKE_VENV = ["python3", "-m", "venv", ".venv"]


def test_readme_has_two_commands_each_on_one_line() -> None:
    consoles = [block.code for block in ALL if block.page == README and block.language == "console"]
    assert [code.count("\n") for code in consoles] == [1, 1]


def test_readme_command_runs_the_quickstart_with_all_it_imports() -> None:
    venv, install, run = readme_commands()[0]
    assert venv == MAKE_VENV
    assert install == [".venv/bin/pip", "install", ".", "vega_datasets"]
    assert run == [".venv/bin/python", QUICKSTART.as_posix()]
    imported = re.findall(r"^(?:import|from) (\w+)", (ROOT / QUICKSTART).read_text(encoding="utf-8"), re.MULTILINE)
    installed = {"rayforce_trio", "rayforce", "trio", "vega_datasets"}
    assert set(imported) - set(sys.stdlib_module_names) == installed


def test_readme_command_runs_a_session_of_the_noxfile() -> None:
    venv, install, run = readme_commands()[1]
    assert venv == MAKE_VENV
    assert install == [".venv/bin/pip", "install", "nox"]
    *command, session = run
    assert command == [".venv/bin/nox", "-s"]
    assert re.search(rf"^@nox\.session.*\ndef {session}\(", (ROOT / "noxfile.py").read_text(), re.MULTILINE)


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", README.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not link.startswith("https://") and not (ROOT / link).exists()] == []
