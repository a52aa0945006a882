"""The fixtures of `rayforce_trio.pytest_plugin`, in test files of a user, which run in a process of their own."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"

CONFTEST = 'pytest_plugins = ["rayforce_trio.pytest_plugin"]\n'


@pytest.fixture(autouse=True)
def user_project(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makeini("[pytest]\nfilterwarnings = error\n")


def passes(pytester: pytest.Pytester, *, tests: int) -> None:
    pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:cacheprovider").assert_outcomes(passed=tests)


def test_the_tests_of_the_examples_pass(pytester: pytest.Pytester) -> None:
    for name in ("conftest.py", "test_prices.py", "prices.rfl"):
        pytester.path.joinpath(name).write_text((EXAMPLES / name).read_text("utf-8"), "utf-8")
    passes(pytester, tests=2)


def test_a_connection_in_tests_of_pytest_trio_has_an_empty_engine_for_each_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        import trio

        @pytest.mark.trio
        @pytest.mark.parametrize("time", [1, 2])
        async def test_query(rayforce_connection, time):
            assert await rayforce_connection.tables() == []
            assert await rayforce_connection.create_table("points", {"x": [1, 2, 3]}) == 3
            with trio.move_on_after(0.1):
                await rayforce_connection.execute("(while true 1)")
            assert (await rayforce_connection.fetch("points")).to_dict() == {"x": [1, 2, 3]}
        """
    )
    passes(pytester, tests=2)


def test_a_connection_in_tests_of_anyio_on_both_event_loops(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(params=["trio", "asyncio"])
        def anyio_backend(request):
            return request.param

        @pytest.mark.anyio
        async def test_query(rayforce_connection):
            assert await rayforce_connection.execute("(+ x 2)", {"x": 1}) == 3
        """
    )
    passes(pytester, tests=2)


def test_a_server_with_a_script_for_tests_that_are_not_async(pytester: pytest.Pytester) -> None:
    script = pytester.makefile(".rfl", "(set points (table [x] (list [1 2])))")
    pytester.makepyfile(
        f"""
        import subprocess
        import sys

        import pytest

        from rayforce_trio import NativeProcess

        @pytest.fixture
        def rayforce_engine():
            return NativeProcess({str(script)!r}, read_only=True)

        def test_command_line(rayforce_server):
            command = [sys.executable, "-m", "rayforce_trio", "query", rayforce_server.url, "(count points)"]
            assert subprocess.check_output(command, text=True) == "2\\n"
            assert rayforce_server.url == f"ws://{{rayforce_server.host}}:{{rayforce_server.port}}"
        """
    )
    passes(pytester, tests=1)


def test_a_script_that_fails_is_an_error_of_the_test(pytester: pytest.Pytester) -> None:
    script = pytester.makefile(".rfl", '(+ 1 "one")')
    pytester.makepyfile(
        f"""
        import pytest

        from rayforce_trio import NativeProcess

        @pytest.fixture
        def rayforce_engine():
            return NativeProcess({str(script)!r})

        def test_never_runs(rayforce_server):
            raise AssertionError
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:cacheprovider")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*EngineError: the engine process * ended with exit code 1 before it was ready*"])
