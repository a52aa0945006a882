"""rayforce-py's own tests of its WebSocket client and server, with our client in the place of theirs."""

import os
import re
import subprocess
import sys
from importlib.metadata import files
from pathlib import Path

TESTS = "tests/network/websocket"


def test_rayforce_pys_own_tests_pass_with_our_client() -> None:
    """They run in a process of their own: their package is called `tests`, like the folder of ours."""
    conftest = next(file for file in files("rayforce-py") or () if file.as_posix() == f"{TESTS}/conftest.py")
    directory = Path(str(conftest.locate())).parent
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", str(directory), "-q", "--rootdir", str(directory.parents[1])),
            *("--config-file", "/dev/null", "-p", "support.their_suite", "-o", "anyio_mode=auto"),
            *("-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:trio"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stdout
    assert (passed := re.search(r"(\d+) passed", done.stdout)) is not None
    assert int(passed[1]) >= 29
    assert "skipped" not in done.stdout
