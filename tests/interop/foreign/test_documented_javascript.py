"""The programs of docs/how-to/javascript.md do what the page says, on the server of that page."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from support.foreign.javascript import CLIENT, NODE
from support.foreign.with_chromium import Page

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "javascript.md"
TEXT = PAGE.read_text(encoding="utf-8")
(SERVER,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
PROGRAMS = re.findall(r"```javascript\n(.*?)```\n\n```text\n(.*?)```", TEXT, re.DOTALL)
IN_PAGE, *IN_NODE = PROGRAMS


@pytest.fixture(scope="module")
def port(origins: tuple[str, str]) -> Iterator[str]:
    code = SERVER.replace("8765", "0").replace("http://localhost:8000", origins[0])
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().rpartition(":")[2].strip()
        process.terminate()


def test_every_program_has_an_output() -> None:
    assert TEXT.count("```javascript\n") == len(PROGRAMS)


@pytest.mark.parametrize(("program", "output"), IN_NODE)
def test_programs_for_node(program: str, output: str, port: str, tmp_path: Path) -> None:
    packages = tmp_path / "node_modules"
    packages.mkdir()
    (packages / "rayforce-trio").symlink_to(CLIENT.parent)
    script = tmp_path / "program.mjs"
    script.write_text(program.replace("8765", port), encoding="utf-8")
    done = subprocess.run([*NODE, str(script)], check=False, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (output, "")


@pytest.mark.trio
async def test_the_script_of_a_page(port: str, page: Page, origins: tuple[str, str]) -> None:
    program, output = IN_PAGE
    with trio.fail_after(60):
        await page.visit(f"{origins[0]}/peer.html")
        text = json.dumps(program.replace("8765", port))
        await page.evaluate(f"""
            document.body.append(document.createElement("output"));
            const script = document.createElement("script");
            [script.type, script.textContent] = ["module", {text}];
            document.body.append(script);
        """)
        await page.until_shown("output", output.strip())
