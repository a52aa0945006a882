"""The package needs only its required dependencies, on trio and on asyncio.

Each program runs in a process of its own, in which `websockets`, which the tests install, cannot be imported.
"""

import subprocess
import sys

import pytest

BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "websockets":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""

CLIENT = """
from rayforce_trio import WSClient

async def main():
    async with WSClient("127.0.0.1", int(sys.argv[1])).connect() as connection:
        print(await connection.execute("(+ 1 2)"))

"""


@pytest.mark.parametrize(
    "run",
    [
        pytest.param("import trio; trio.run(main)", id="trio.run"),
        pytest.param("import asyncio; asyncio.run(main())", id="asyncio.run"),
        pytest.param("import anyio; anyio.run(main)", id="anyio.run on asyncio"),
        pytest.param("import uvloop; uvloop.run(main())", id="uvloop.run"),
    ],
)
def test_a_client_needs_no_other_websocket_library(run: str, in_process_port: int) -> None:
    program = BLOCK + CLIENT + run
    done = subprocess.run(
        [sys.executable, "-c", program, str(in_process_port)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


def test_the_planted_block_works() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + "import websockets"], capture_output=True, text=True, timeout=60, check=False
    )
    assert "ModuleNotFoundError: No module named 'websockets'" in done.stderr
