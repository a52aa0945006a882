"""Without the `websockets` library, the extra `asyncio`: all is well on trio, and on asyncio the error says what to do.

In processes where it cannot be imported, whether it is installed or not.
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

ON_TRIO = """
import trio
from rayforce_trio import WSClient, WSServer

async def main():
    async with WSServer(0, host="127.0.0.1") as server:
        async with WSClient("127.0.0.1", server.port).connect() as connection:
            print(await connection.execute("(+ 1 2)"))

"""

ON_ASYNCIO = """
import asyncio
from rayforce_trio import WSClient, errors

async def main():
    for form in ("awaited", "entered"):
        pending = WSClient("127.0.0.1", 8765).connect()
        try:
            if form == "awaited":
                await pending
            else:
                async with pending:
                    pass
        except errors.RayforceWSError as error:
            print(f"{type(error).__name__}: {error}")

"""

ADVICE = (
    "RayforceWSError: on asyncio the client needs the websockets library; "
    "install it with: pip install 'rayforce-trio[asyncio]'\n"
)


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        pytest.param(ON_TRIO + "trio.run(main)", "3\n", id="trio.run"),
        pytest.param(ON_TRIO + 'import anyio; anyio.run(main, backend="trio")', "3\n", id="anyio.run on trio"),
        pytest.param(ON_ASYNCIO + "asyncio.run(main())", 2 * ADVICE, id="asyncio.run"),
        pytest.param(ON_ASYNCIO + "import anyio; anyio.run(main)", 2 * ADVICE, id="anyio.run on asyncio"),
    ],
)
def test_trio_works_and_asyncio_says_what_to_install(program: str, expected: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")
