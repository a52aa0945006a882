"""Everything the project checks about itself: `nox -s tests`, and `nox -l` for the rest."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.sessions = ["tests", "lint", "types", "docs"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
SUPPORTED = nox.project.python_versions(PYPROJECT)
INSTALLED = [version for version in SUPPORTED if shutil.which(f"python{version}")] or [sys.executable]

WORKERS = ["-n", str(min((os.cpu_count() or 1) + 1, 8)), "--dist", "worksteal"]
"""Tests often wait, so one process more than there are cores. An idle process takes tests from the others."""

NOT_TIMING = ["-m", "not timing and not withstand"]
"""All tests except those that measure time; slow tests are included."""

ALL_EXTRAS = ".[arrow,cli,otel,prometheus,sql]"

WS = "ws@8.23.0"
"""The package of npm that the session `interop` runs against."""


def lowest(requirements: list[str]) -> list[str]:
    """Return each requirement pinned to the lower bound it has."""
    pins = []
    for requirement in map(Requirement, requirements):
        bound = next(specifier for specifier in requirement.specifier if specifier.operator == ">=")
        pins.append(f"{requirement.name}=={bound.version}")
    return pins


def pytest(session: nox.Session, *arguments: str) -> None:
    session.run("python", "-m", "pytest", *arguments, *session.posargs)


@nox.session(python=INSTALLED)
def tests(session: nox.Session) -> None:
    """The test suite, on every supported Python that is installed: slow tests on the newest, coverage on the oldest.

    Coverage is measured on Linux only, because the code for other systems does not run there.

    The session `timing` follows, unless only some of the tests were asked for.
    """
    session.install(ALL_EXTRAS, *nox.project.dependency_groups(PYPROJECT, "test"))
    slow = NOT_TIMING if session.python == INSTALLED[-1] else []
    if session.python != INSTALLED[0] or session.posargs or sys.platform != "linux":
        pytest(session, *WORKERS, *slow)
    else:
        session.env["COVERAGE_FILE"] = str(Path(session.create_tmp(), "coverage").absolute())
        session.run("coverage", "erase")
        session.run("coverage", "run", "-m", "pytest", *WORKERS, *slow)
        session.run("coverage", "combine", "--quiet")
        session.run("coverage", "report")
    if not session.posargs:
        session.notify("timing")


@nox.session
def timing(session: nox.Session) -> None:
    """Run the tests that measure time, one after another. Nothing else should run on the machine at the same time."""
    session.install(ALL_EXTRAS, *nox.project.dependency_groups(PYPROJECT, "test"))
    pytest(session, "-m", "timing")


@nox.session
def withstand(session: nox.Session) -> None:
    """Measure clients without and beside attacks by other peers. Nothing else should run at the same time.

    nginx and slowhttptest have to be on the PATH.
    """
    missing = [program for program in ("nginx", "slowhttptest") if not shutil.which(program)]
    if missing:
        session.error(f"not on the PATH: {', '.join(missing)}")
    session.install(ALL_EXTRAS, *nox.project.dependency_groups(PYPROJECT, "test"))
    pytest(session, "-m", "withstand")


@nox.session
def tests_min(session: nox.Session) -> None:
    """The test suite with the oldest dependencies that are supported, without the slow tests."""
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    pins = lowest(project["dependencies"] + [requirement for extra in extras.values() for requirement in extra])
    session.install(ALL_EXTRAS, *pins, *nox.project.dependency_groups(PYPROJECT, "test"))
    pytest(session, *WORKERS)


@nox.session
def interop(session: nox.Session) -> None:
    """Against npm's `ws`, the JavaScript client, headless Chromium, nginx and HAProxy.

    node, npm, nginx, haproxy, and chromium or google-chrome have to be on the PATH.
    """
    wanted = {name: [name] for name in ("node", "npm", "nginx", "haproxy")}
    wanted["chromium or google-chrome"] = ["chromium", "google-chrome"]
    missing = [name for name, programs in wanted.items() if not any(map(shutil.which, programs))]
    if missing:
        session.error(f"not on the PATH: {', '.join(missing)}")
    session.install(".[prometheus]", *nox.project.dependency_groups(PYPROJECT, "test"))
    packages = Path(session.virtualenv.location, "npm")
    session.run("npm", "install", "--prefix", str(packages), "--no-audit", "--no-fund", WS, external=True)
    session.env["NODE_PATH"] = str(packages / "node_modules")
    pytest(session, "tests/interop/foreign")


@nox.session
def autobahn(session: nox.Session) -> None:
    """The Autobahn test suite against our WebSocket, on both sides; it needs a Python 2.7: `-- --python COMMAND`."""
    session.install(".", *nox.project.dependency_groups(PYPROJECT, "test"))
    directory = str(Path(session.create_tmp()).absolute())
    session.run("python", "-m", "autobahn", "--directory", directory, *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
def fuzz(session: nox.Session) -> None:
    """A million made-up inputs for everything that reads what strangers send: `-- receiving --inputs 10000`."""
    session.install(".", *nox.project.dependency_groups(PYPROJECT, "test"))
    session.run("python", "-m", "fuzzing", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
def fuzz_guided(session: nox.Session) -> None:
    """The same by atheris, which looks for what reaches new code: `-- receiving -runs=1000000`."""
    session.install(".", "atheris>=3.0", *nox.project.dependency_groups(PYPROJECT, "test"))
    session.run("python", "-m", "fuzzing.guided", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
def soak(session: nox.Session) -> None:
    """Half an hour of a hundred clients for each engine, then a minute beside slow ones: `-- --minutes 5`."""
    session.install(".", *nox.project.dependency_groups(PYPROJECT, "test"))
    session.run("python", "-m", "soak", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session(python=INSTALLED)
def bench(session: nox.Session) -> None:
    """The benchmark on every supported Python that is installed, to docs/explanation; `-- --quick` only prints."""
    session.install(".", *nox.project.dependency_groups(PYPROJECT, "bench"))
    session.run("python", "-m", "bench", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
def lint(session: nox.Session) -> None:
    """ruff: rules and format."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strictly, on package and tests."""
    groups = nox.project.dependency_groups(PYPROJECT, "types", "test")
    session.install(ALL_EXTRAS, "nox", *groups)
    session.run("mypy")


@nox.session
def package(session: nox.Session) -> None:
    """Build the sdist and the wheel in dist, check their metadata, and install the wheel without extras."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "package"))
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build")
    built = sorted(map(str, Path("dist").iterdir()))
    session.run("twine", "check", "--strict", *built)
    session.install(*(name for name in built if name.endswith(".whl")))
    session.run("rayforce-trio", "--version")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation in docs/_build/html; warnings are errors. `tests` runs its examples."""
    session.install(ALL_EXTRAS, *nox.project.dependency_groups(PYPROJECT, "docs"))
    session.run("sphinx-build", "-W", "--keep-going", "-E", "-b", "html", "docs", str(Path("docs", "_build", "html")))
