"""The files that describe the project to GitHub, PyPI and pre-commit agree with each other and with the noxfile."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
SESSIONS = set(re.findall(r"^@nox\.session.*\ndef (\w+)\(", (ROOT / "noxfile.py").read_text(), re.MULTILINE))
KINDS = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]


def names_in(text: str) -> set[str]:
    """Return the items of a list in brackets, without quotes."""
    return {name.strip('" ') for name in text.split(",")}


def test_the_workflow_runs_sessions_of_the_noxfile() -> None:
    [listed] = re.findall(r"session: \[(.*)\]", WORKFLOW)
    named = set(re.findall(r"nox -s (\w+)", WORKFLOW))
    assert named == {"tests", "interop"}
    assert named | names_in(listed) <= SESSIONS


def test_ci_runs_every_check_that_the_workflow_runs_without_other_programs() -> None:
    [listed] = re.findall(r"session: \[(.*)\]", WORKFLOW)
    [ours] = re.findall(r"nox -s ([\w ]+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)[1:]
    assert names_in(listed) == set(ours.split())


def test_the_workflow_tests_every_supported_python_on_every_supported_system() -> None:
    classifiers = PYPROJECT["project"]["classifiers"]
    supported = {name.rpartition(" ")[2] for name in classifiers if re.search(r":: 3\.\d+$", name)}
    [pythons] = re.findall(r"python: \[(.*)\]", WORKFLOW)
    experimental = set(re.findall(r"matrix\.python == '(.*?)'", WORKFLOW))
    assert names_in(pythons) - experimental == supported
    assert min(supported, key=lambda version: int(version[2:])) == PYPROJECT["project"]["requires-python"][2:]
    [systems] = re.findall(r"os: \[(.*)\] #", WORKFLOW)
    assert names_in(systems) == {"ubuntu-latest", "macos-latest"}


def test_pre_commit_installs_the_ruff_of_the_session_lint() -> None:
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    installed = re.findall(r'additional_dependencies: \["(.*)"\]', text)
    assert installed == PYPROJECT["dependency-groups"]["lint"] * 2


@pytest.mark.parametrize("name", ["Homepage", "Documentation", "Changelog", "Issues"])
def test_the_package_names_its_pages(name: str) -> None:
    url = PYPROJECT["project"]["urls"][name]
    assert url.startswith(PYPROJECT["project"]["urls"]["Homepage"])
    inside = url.partition("/blob/main/")[2]
    assert (ROOT / inside).exists()


def test_the_changelog_groups_changes_by_kind() -> None:
    text = (ROOT / "docs" / "changelog.md").read_text(encoding="utf-8")
    versions = re.split(r"^## .*\n", text, flags=re.MULTILINE)[1:]
    assert versions
    for version in versions:
        kinds = re.findall(r"^### (.*)$", version, re.MULTILINE)
        assert kinds
        assert kinds == [kind for kind in KINDS if kind in kinds]


def test_the_commands_for_contributors_name_what_there_is() -> None:
    page = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    assert set(re.findall(r"--group (\w+)", page)) <= PYPROJECT["dependency-groups"].keys()
    extras = re.findall(r'-e "\.\[([\w,]+)\]"', page)
    assert extras
    assert {extra for names in extras for extra in names.split(",")} <= PYPROJECT["project"][
        "optional-dependencies"
    ].keys()
    files = re.findall(r"-m pytest (tests/\S+\.py)(?: -k (\w+))?", page)
    assert files
    for file, word in files:
        assert re.search(rf"def test_\w*{word}", (ROOT / file).read_text(encoding="utf-8"))
    [table] = re.findall(r"^\| session of nox \|.*\n((?:\|.*\n)+)", page, re.MULTILINE)
    first_cells = "".join(row.split("|")[1] for row in table.splitlines()[1:])
    assert set(re.findall(r"`(\w+)`", first_cells)) == SESSIONS
