"""The JavaScript client as it is shipped, without running it; tests/interop/foreign runs it."""

import gzip
import json
from hashlib import sha256
from importlib import metadata
from importlib.resources import files
from pathlib import Path

import pytest
from support.value_vectors import FILE, MADE, QUERIES, SENT, neutral, vectors

import rayforce_trio
from rayforce_trio._codec._errors import WORDS

SOURCES = Path(__file__).parents[2] / "rayforce_trio" / "javascript"
SHIPPED = files(rayforce_trio) / "javascript"
LIMIT = 8000  # bytes
VECTORS = json.loads(FILE.read_text(encoding="utf-8"))


def test_the_client_is_small() -> None:
    assert len(gzip.compress((SHIPPED / "rayforce.js").read_bytes(), 9)) < LIMIT


def test_the_client_and_the_console_were_built_from_their_sources() -> None:
    sources = [path for folder in ("console", "src") for path in sorted((SOURCES / folder).iterdir())]
    found = [f"{sha256(path.read_bytes()).hexdigest()}  {path.parent.name}/{path.name}" for path in sources]
    assert (SOURCES / "sources.sha256").read_text().splitlines() == found, "run npm run build"


def test_the_console_explains_the_codes_of_the_engine() -> None:
    assert json.loads((SOURCES / "console" / "meanings.json").read_text(encoding="utf-8")) == WORDS


def test_the_package_of_npm_has_the_version_of_this_one_and_no_dependencies() -> None:
    package = json.loads((SHIPPED / "package.json").read_text())
    assert package["version"] == rayforce_trio.__version__.replace(".dev", "-dev.")
    assert "dependencies" not in package
    assert all((SHIPPED / name).is_file() for name in package["files"])


def test_a_wheel_has_what_npm_packs() -> None:
    recorded = {str(path) for path in metadata.files("rayforce-trio") or ()}
    if "rayforce_trio/__init__.py" not in recorded:
        pytest.skip("the installation is editable; nox makes one that is not")
    found = {path.rpartition("/")[2] for path in recorded if path.startswith("rayforce_trio/javascript/")}
    assert found == {"package.json", *json.loads((SHIPPED / "package.json").read_text())["files"]}


def test_the_vectors_are_those_of_the_engine() -> None:
    assert vectors() == VECTORS, "run python -m support.value_vectors in tests"


@pytest.mark.parametrize(
    "vector", [vector for vector in VECTORS if "name" in vector], ids=lambda vector: str(vector["name"])
)
def test_the_python_decoder_reads_the_vectors_that_test_the_other_one(vector: dict[str, str]) -> None:
    assert neutral(bytes.fromhex(vector["payload"])) == vector["value"]


def test_every_vector_is_in_the_file() -> None:
    assert len(VECTORS) == len({*QUERIES}) + len(MADE) + len(SENT)
