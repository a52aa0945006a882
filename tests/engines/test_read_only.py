"""`NativeProcess(read_only=True)`: what its clients cannot do, however they ask."""

from contextlib import suppress
from pathlib import Path

import pytest
import trio
from rayforce import Column, Table
from support.engine_processes import Log, ask_on, connected, serving, write

from rayforce_trio import NativeProcess, errors


@pytest.mark.trio
@pytest.mark.parametrize(
    "query",
    [
        "(set x 5)",
        "((fn [y] (set x y)) 5)",
        '(eval (parse "(set x 5)"))',
        "(map (fn [y] (set x y)) (list 1 2))",
        "(set .ipc.on.auth (fn [user password] true))",
        '(.sys.exec "true")',
        '(read "/etc/passwd")',
        '(write "/tmp/none/such" "")',
        '(load "/etc/passwd")',
        '(.os.getenv "RAYFORCE_TRIO_USER")',
        "(exit 3)",
    ],
)
async def test_what_is_more_than_reading_is_refused(query: str, tmp_path: Path) -> None:
    script = write(tmp_path / "script.rfl", "(set x 17)")
    async with serving(NativeProcess(script, read_only=True)) as server, connected(server) as connection:
        with pytest.raises(errors.RayforceError, match=r"^access"):
            await connection.execute(query)
        assert await ask_on(connection, "(+ 1 x)") == 18


@pytest.mark.trio
@pytest.mark.parametrize(
    "query",
    [
        "(let {name} {value})",
        "(let x 1) (let {name} {value})",
        "(do (let {name} {value}))",
        "(if true (let {name} {value}) 0)",
        "((fn [y] (let {name} y)) {value})",
        "(map (fn [y] (let {name} y)) (list {value}))",
        "(pmap (fn [y] (let {name} y)) (list {value}))",
        "(eval '(let {name} {value}))",
        '(eval (parse "(let {name} {value})"))',
        "(eval (list let (quote {name}) {value}))",
        "(apply let (quote {name}) {value})",
        "(map let (list (quote {name})) (list {value}))",
        "(try (raise 1) (fn [e] (let {name} {value})))",
        "(select {{a: (let {name} {value}) from: (table [a] (list [1 2]))}})",
    ],
)
async def test_nobody_changes_what_others_see(query: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    hook = f'(fn [a] (.sys.exec "touch {trace}"))'
    script = write(tmp_path / "script.rfl", "(set x 17)")
    async with serving(NativeProcess(script, read_only=True)) as server, connected(server) as connection:
        for name, value in ("x", "5"), (".ipc.on.open", hook), (".ipc.on.close", hook), (".ipc.on.sync", hook):
            attempt = query.format(name=name, value=value)
            await connection.post(attempt)
            with suppress(errors.RayforceError):
                await connection.execute(attempt)
            with suppress(errors.RayforceError):
                await connection.execute_verbose(attempt)
        for again in connection, None:
            async with connected(server) as other:
                assert await ask_on(again or other, "x") == 17
    assert not trace.exists()


@pytest.mark.trio
async def test_what_only_reads_is_evaluated_as_ever(tmp_path: Path) -> None:
    script = write(tmp_path / "script.rfl", "(set prices (table [price] (list [1.0 2.0 3.0])))")
    async with serving(NativeProcess(script, read_only=True)) as server, connected(server) as connection:
        assert await ask_on(connection, "(let y 2) (do (let z 3) (+ y z))") == 5
        assert await ask_on(connection, '"text"') == "text"
        assert await ask_on(connection, "(+ 1 2)") == 3
        high = Table("prices").where(Column("price") > 1)  # type: ignore[operator, arg-type]  # it has it
        assert (await connection.execute(high)).to_dict() == {"price": [2.0, 3.0]}
        verbose = await connection.execute_verbose("(do (println 7) 8)")
        assert (verbose.output, verbose.value) == ("7\n", 8)
        with pytest.raises(errors.RayforceError, match="name: undefined name, in the query nobody_set_this"):
            await connection.execute("nobody_set_this")
        with trio.move_on_after(0.2) as patience:
            await connection.execute("(while true 1)")
        assert patience.cancelled_caught
        assert await ask_on(connection, "(count prices)") == 3


@pytest.mark.trio
async def test_who_ends_the_engine_changes_nothing_for_those_who_come_then(tmp_path: Path) -> None:
    script = write(tmp_path / "script.rfl", "(set x 17)")
    async with serving(NativeProcess(script, read_only=True)) as server:
        async with connected(server) as connection:
            with pytest.raises(errors.ConnectionClosed, match="the engine process disconnected"):
                await connection.execute("(do (let x 5) .sys.exit)")
        async with connected(server) as connection:
            assert await ask_on(connection, "x") == 17


def test_a_journal_contradicts_it(tmp_path: Path) -> None:
    with pytest.raises(errors.RayforceValueError, match=r"^read_only and journal cannot be used together"):
        NativeProcess(read_only=True, journal=tmp_path / "journal")


@pytest.mark.trio
async def test_it_holds_for_posts(tmp_path: Path, log: Log) -> None:
    script, trace = write(tmp_path / "script.rfl", "(set x 17)"), tmp_path / "trace"
    async with serving(NativeProcess(script, read_only=True)) as server, connected(server) as connection:
        posts = ["(set x 5)", f'(.sys.exec "touch {trace}")', f'(write "{trace}" "")', "(exit 3)"]
        for query in posts:
            await connection.post(query)
        assert await ask_on(connection, "x") == 17
        await log.told("ipc: .ipc.on.async hook raised an error", times=len(posts))
    assert not trace.exists()
