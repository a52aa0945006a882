"""The same with atheris, which makes its inputs by what they reach in the code: `python -m fuzzing.guided TARGET`.

Further arguments are libFuzzer's, `-runs=1000000` among them; it ends at the first find, and writes it to a file.
"""

import importlib
import sys
import tempfile
from pathlib import Path
from random import Random

_BEGINNINGS = 500  # inputs to begin with


def main() -> None:
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(
        include=["rayforce_trio._protocol", "rayforce_trio._websocket", "rayforce_trio._values"]
    ):
        from fuzzing.targets import TARGETS

    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m fuzzing.guided {{{','.join(TARGETS)}}} [-runs=NUMBER ...]")
    program, name, *arguments = sys.argv
    target = TARGETS[name]
    with tempfile.TemporaryDirectory() as corpus:
        random = Random(name)
        for number in range(_BEGINNINGS):
            Path(corpus, str(number)).write_bytes(target.make(random))
        atheris.Setup([program, *arguments, corpus], target.check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
