"""The console in headless Chromium, on our server."""

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from support.foreign.console import Console
from support.foreign.console_pictures import take, write_script
from support.foreign.with_chromium import Page
from support.foreign.with_proxies import documented, nginx
from support.page_commands import page_of

from rayforce_trio import InProcessEngine, NativeProcess, WSClient, WSServer, auth
from rayforce_trio._engines import Engine

pytestmark = pytest.mark.trio

ENGINES = pytest.mark.parametrize("engine", [InProcessEngine, NativeProcess, lambda: NativeProcess(read_only=True)])
MILLION = "(table [id price name] (list (til 1000000) (* 0.5 (til 1000000)) (take [AAPL GOOG] 1000000)))"
TOKEN = "a token of more than sixteen characters".replace(" ", "-")
KEPT = """JSON.stringify(
    [{ ...sessionStorage }, { ...localStorage }, document.cookie, location.href, typeof rayforceToken]
)"""
BEYOND_THE_EDGE = """Array.from(document.querySelectorAll("main button, main input, main select"))
    .filter((each) => each.checkVisibility() && each.getBoundingClientRect().right > innerWidth + 1)
    .map((each) => each.outerHTML)"""
UNNAMED = """Array.from(document.querySelectorAll("button, input, select, textarea, canvas, [role=region]"))
    .filter((each) => !(each.labels?.length || each.ariaLabel || each.textContent.trim()))
    .map((each) => each.outerHTML)"""
INJECTION = """
    const made = document.createElement("script");
    try { made.textContent = "alert(3)"; } catch {}
    document.body.append(made);
    document.body.append(Object.assign(document.createElement("img"), { src: "https://192.0.2.1/" }));
"""
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"


@pytest.fixture
def console(page: Page) -> Console:
    return Console(page)


@asynccontextmanager
async def served(**options: Any) -> AsyncIterator[WSServer]:
    with trio.fail_after(60):
        async with WSServer(0, host="127.0.0.1", console=True, **options) as server:
            yield server


@ENGINES
async def test_a_result_of_a_million_rows_is_scrolled(console: Console, engine: Callable[[], Engine]) -> None:
    page = console.page
    async with served(engine=engine()) as server:
        await console.open(server.port, path="")  # leads to the console
        await console.write(MILLION)
        await page.click("#run")
        await console.finished()
        assert (await console.text("#status")).startswith("1,000,000 rows, 3 columns, ")
        assert await console.row(0) == ["0", "0", "AAPL"]
        await page.evaluate("document.querySelector('#grid').scrollTop = 1e9")
        assert await console.row(999_999) == ["999999", "499999.5", "GOOG"]
        await page.evaluate(
            "const grid = document.querySelector('#grid'); grid.scrollTop = (grid.scrollHeight - grid.clientHeight) / 2"
        )
        first = "Number(document.querySelector('#grid tbody tr').ariaRowIndex) - 2"
        await page.until(f"{first} < 900_000")
        middle = await page.evaluate(first)
        assert middle == pytest.approx(500_000, abs=1000)
        assert (await console.row(middle))[0] == str(middle)
        await page.evaluate("grid.focus()")
        await page.press("ArrowDown")
        assert (await console.row(middle + 1))[0] == str(middle + 1)
        await page.press("Home")
        await console.row(0)
        await page.press("End")
        await console.row(999_999)
        await console.write("123456", "#row")
        await page.press("Enter", text="\r")
        assert await console.row(123_456) == ["123456", "61728", "AAPL"]
        rows = await page.evaluate("document.querySelectorAll('#grid tr').length")
        assert rows < 100
        assert server.statistics().streams.total == 1  # it was evaluated once
        await console.check_unharmed(server.port)


@ENGINES
async def test_a_chart_is_drawn(console: Console, engine: Callable[[], Engine]) -> None:
    async with served(engine=engine()) as server:
        await console.open(server.port)
        await console.run(MILLION)
        await console.page.click("#chart-tab")
        await console.page.until_shown("#chart .message", "1,000,000 rows")
        await console.until_drawn("#chart canvas")
        label = await console.page.evaluate("document.querySelector('#chart canvas').ariaLabel")
        assert label == "Chart of price against the row number"
        await console.check_unharmed(server.port)


async def test_numbers_that_hardly_differ_are_charted(console: Console) -> None:
    async with served() as server:
        await console.open(server.port)
        await console.run("(table [price] (list (+ [0.3 0.1] [0.0 0.2])))")
        assert await console.row(1) == ["0.30000000000000004"]
        await console.page.click("#chart-tab")
        await console.page.until_shown("#chart .message", "2 rows")
        await console.until_drawn("#chart canvas")


async def test_values_of_all_kinds_are_shown(console: Console) -> None:
    async with served() as server:
        await console.open(server.port)
        for query, shown in (
            ("(+ 1 2)", "3"),
            ('"þ€xt 𝄞"', '"þ€xt 𝄞"'),
            ("'name", "'name"),
            ("2024.02.29", "2024-02-29"),
            ("2024.02.29D12:00:00.123456789", "2024-02-29T12:00:00.123456789Z"),
            ("(list 1 'a (til 3))", '(list 1 "a" [0 1 2])'),
            ("null", "null"),
            ("1 2 3", "3"),
        ):
            await console.run(query)
            assert (query, await console.text("#value")) == (query, shown)
        assert (await console.run('(do (println "<b>printed</b>") (til 3))')).startswith("3 rows, 1 column, ")
        assert await console.text("#output") == "<b>printed</b>"
        assert await console.row(2) == ["2"]
        await console.page.press("ArrowUp", alt=True)
        await console.page.press("ArrowUp", alt=True)
        assert await console.page.evaluate("document.querySelector('#query').value") == "1 2 3"
        assert server.statistics().streams.total == 11  # one for each expression


async def test_a_cancelled_query_stops_in_the_engine(console: Console) -> None:
    async with served(engine=NativeProcess()) as server:
        await console.open(server.port)
        for cancel in (console.page.press, console.page.click):
            await console.begin("(while true 1)")
            await console.page.until("!document.querySelector('#cancel').disabled")
            while server.statistics().requests.in_flight == 0:
                await trio.lowlevel.checkpoint()
            await cancel("Escape" if cancel == console.page.press else "#cancel")
            await console.finished()
            assert (await console.text("#status")).startswith("Cancelled after ")
            async with WSClient("127.0.0.1", server.port).connect() as other:
                assert await other.execute("(+ 1 2)") == 3
        await console.run("(+ 1 2)")
        assert await console.text("#value") == "3"
        assert server.statistics().requests.cancelled == 2


@pytest.mark.parametrize(
    ("engine", "message"),
    [(InProcessEngine, "cannot add i64 and str"), (NativeProcess, "the function does not accept a value of this type")],
)
async def test_an_error_is_shown_at_its_place(console: Console, engine: Callable[[], Engine], message: str) -> None:
    async with served(engine=engine()) as server:
        await console.open(server.port)
        await console.run('(+ 1 1)\n\n(+ 2 "a") ; a note\n(+ 3 3)')
        failed = "Array.from(document.querySelectorAll('.failed'), (part) => part.textContent).join('')"
        assert await console.page.evaluate(failed) == '(+ 2 "a")'
        assert await console.text("#error") == f'type {message} expression 2 of 3, line 3 (+ 2 "a")'
        await console.page.press("End")
        await console.page.call("Input.insertText", text=" ")
        assert await console.page.evaluate(failed) == ""
        await console.run("(+ 1 1)\n(+ 2")
        assert await console.page.evaluate(failed) == "("
        assert await console.text("#error") == "parse the bracket is not closed expression 2 of 2, line 2 (+ 2"
        await console.run("(+ 1 2)")
        assert (await console.text("#error"), await console.text("#value")) == ("", "3")


async def test_an_error_is_not_shown_in_a_text_that_has_changed_meanwhile(console: Console) -> None:
    async with served(engine=NativeProcess()) as server:
        await console.open(server.port)
        await console.begin('(map (fn [x] (+ x 1)) (til 3000000))\n(+ 2 "a")')
        await console.write("; " + "changed while the query is running " * 3)
        await console.finished()
        assert await console.page.evaluate("document.querySelector('.failed')") is None
        assert (await console.text("#error")).endswith('expression 2 of 2, line 2 (+ 2 "a")')


async def test_a_topic_is_followed(console: Console) -> None:
    page = console.page
    async with served() as server:
        await console.open(server.port)
        await page.click("#live-tab")
        await console.write("ticks", "#topic")
        await page.press("Enter", text="\r")
        await page.until_shown("#live-message", "Subscribed to ticks. No update yet.")
        async with WSClient("127.0.0.1", server.port).connect() as other:
            for price in (190.5, 191.25):
                await other.publish("ticks", {"symbol": ["AAPL"], "price": [price]})
            assert await console.row(1, "#live-grid") == ["AAPL", "190.5"]
            assert await console.row(0, "#live-grid") == ["AAPL", "191.25"]
            await console.until_drawn("#live-chart canvas")
            await page.until_shown("#live-message", "2 updates, 0 lost.")
            await page.click("#pause")
            await page.until_shown("#pause", "Continue")
            await page.click("#pause")  # no update has come meanwhile
            await page.until_shown("#pause", "Pause")
            await page.click("#pause")
            await other.publish("ticks", {"symbol": ["AAPL"], "price": [192.0]})
            await console.run("(+ 1 2)")  # the update has arrived before
            assert await console.row(0, "#live-grid") == ["AAPL", "191.25"]
            await page.click("#pause")
            await page.until_shown("#live-message", "3 updates, 0 lost.")
            await page.click("#subscribe")
            await page.until_shown("#live-message", "3 updates, 0 lost. Stopped.")
            while server.statistics().topics["ticks"].subscribers:
                await trio.lowlevel.checkpoint()
        await console.check_unharmed(server.port)


async def test_hostile_values_are_text(console: Console) -> None:
    async with served() as server:
        async with WSClient("127.0.0.1", server.port).connect() as other:
            table = {HOSTILE: [1, 2], "text": [HOSTILE, f'"{HOSTILE}"']}
            await other.create_table("hostile", table)
            await console.open(server.port)
            await console.run("hostile")
            assert (await console.row(0)) == ["1", HOSTILE]
            assert HOSTILE in await console.text("#grid thead")
            await console.page.until("document.querySelector('#tables summary') !== null")
            assert HOSTILE in await console.page.evaluate("document.querySelector('#tables').textContent")
            await console.page.click("#chart-tab")
            await console.until_drawn("#chart canvas")
            await console.page.click("#table-tab")
            text = json.dumps(HOSTILE)
            for query in (
                f"(println {text})",
                f"(list {text} {text})",
                f"(raise {text})",
                f"'{HOSTILE}",
                f"; {HOSTILE}\n)",
            ):
                await console.run(query)
            await console.page.click("#live-tab")
            await console.write(HOSTILE, "#topic")
            await console.page.click("#subscribe")
            await console.page.until_shown("#live-message", f"Subscribed to {HOSTILE}. No update yet.")
            await other.publish(HOSTILE, table)
            assert await console.row(1, "#live-grid") == ["1", HOSTILE]
        await console.check_unharmed(server.port)
        await console.page.evaluate(INJECTION)
        await console.page.until("window.violations.length === 2")
        assert await console.page.evaluate("window.hacked") == []


async def test_the_result_of_a_lost_connection_can_be_asked_for_again(console: Console) -> None:
    async def serve(port: int, *, task_status: trio.TaskStatus[tuple[int, trio.CancelScope]]) -> None:
        with trio.CancelScope() as scope:
            async with served_on(port) as server:
                task_status.started((server.port, scope))
                await trio.sleep_forever()

    @asynccontextmanager
    async def served_on(port: int) -> AsyncIterator[WSServer]:
        async with WSServer(port, host="127.0.0.1", console=True) as server:
            yield server

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            port, scope = await nursery.start(serve, 0)
            await console.open(port)
            await console.run("(til 100000)")
            await console.row(0)
            scope.cancel()
            await console.page.until("document.querySelector('#lost').checkVisibility()")
            assert "connection was lost" in await console.text("#lost")
            assert await console.row(0) == ["0"]
            _, scope = await nursery.start(serve, port)
            await console.connected()
            await console.page.click("#again")
            await console.page.until(
                "document.querySelector('#lost').hidden && !document.querySelector('#run').disabled"
            )
            assert await console.row(0) == ["0"]  # drawn: there is nothing to scroll before
            await console.page.evaluate("document.querySelector('#grid').scrollTop = 1e9")
            assert await console.row(99_999) == ["99999"]
            scope.cancel()


async def test_a_token_is_asked_for(console: Console) -> None:
    page = console.page
    async with served(authenticate=auth.token(TOKEN)) as server:
        await console.visit(f"http://127.0.0.1:{server.port}/console")
        assert await page.evaluate("document.querySelector('textarea')") is None
        for token, shown in (
            ("guess", "The server does not accept this token."),
            ("€", "The server cannot be reached, or this is no token."),  # no header can have it
        ):
            await console.write(token, "input")
            await page.press("Enter", text="\r")
            await page.until_shown("#message", shown)
        await console.write(TOKEN, "input")
        await page.press("Enter", text="\r")
        await console.connected()
        await console.run("(+ 1 2)")
        assert await console.text("#value") == "3"
        assert TOKEN not in await page.evaluate(KEPT)
        await console.check_unharmed(server.port)


async def test_a_proxy_may_serve_it_below_a_path(console: Console, free_tcp_port: int, tmp_path: Path) -> None:
    config = documented("proxy_pass").replace(" 443 ssl;", " PORT;")
    config = re.sub(r"\n *ssl_certificate.*", "", config).replace("location / ", "location /db/ ")
    config = config.replace("127.0.0.1:8765", f"127.0.0.1:{free_tcp_port}/")
    options: dict[str, Any] = {"authenticate": auth.token(TOKEN), "trusted_proxies": ["127.0.0.1"]}
    with nginx(config, tmp_path) as port, trio.fail_after(60):
        origin = f"http://127.0.0.1:{port}"
        async with WSServer(free_tcp_port, host="127.0.0.1", console=True, allowed_origins=[origin], **options):
            await console.visit(f"{origin}/db/")
            assert await console.page.evaluate("location.href") == f"{origin}/db/console"
            await console.write(TOKEN, "input")
            await console.page.press("Enter", text="\r")
            await console.connected()
            await console.run("(+ 1 2)")
            assert (await console.text("#value"), await console.text("#server")) == ("3", f"127.0.0.1:{port}/db/")
            await console.check_unharmed(port)


async def test_a_user_and_a_password_are_used_for_the_connection(console: Console) -> None:
    users = auth.users({"ann": auth.hash_password("pw")})
    async with served(authenticate=users) as server:
        await console.visit(f"http://ann:pw@127.0.0.1:{server.port}/console")
        await console.connected()
        await console.run("(+ 1 2)")
        assert await console.text("#value") == "3"


@pytest.mark.parametrize("dark", [False, True])
async def test_it_fits_a_narrow_window(console: Console, dark: bool) -> None:
    async with served() as server:
        await console.page.resize(390, 800, dark=dark)
        await console.open(server.port)
        await console.run(MILLION)
        for tab in ("chart", "live", "table"):
            await console.page.click(f"#{tab}-tab")
            assert await console.page.evaluate("document.documentElement.scrollWidth") <= 390
            assert await console.page.evaluate(BEYOND_THE_EDGE) == []
        await console.row(0)
        assert await console.page.evaluate(UNNAMED) == []


async def test_the_pictures_of_the_guide_can_be_taken(devtools: str, tmp_path: Path) -> None:
    taken = await take(devtools, write_script(tmp_path))
    assert taken.keys() == set(re.findall(r"\]\((console\S*\.png)\)", page_of("how-to/console.md")))
    assert all(data.startswith(b"\x89PNG") and len(data) < 150_000 for data in taken.values())
