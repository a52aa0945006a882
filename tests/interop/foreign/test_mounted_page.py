"""A page of a FastAPI application queries the server that is mounted in it, with the JavaScript client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from support.foreign.with_chromium import Page
from support.hosts import hypercorn_with

from rayforce_trio import NativeProcess, WSServer

HTML = """<!doctype html>
<output>waiting</output>
<script type="module">
import { connect } from "/db/rayforce.js";

const output = document.querySelector("output");
const connection = await connect(`ws://${location.host}/db/`);
const answer = await connection.execute("(sum (til 11))");
const stopped = connection.execute("(while true 1)", {}, { signal: AbortSignal.timeout(200) });
const reason = await stopped.catch((error) => error.name);
output.textContent = `${answer}, ${reason}, ${await connection.execute("(+ 1 2)")}`;
</script>
"""


@pytest.mark.trio
async def test_a_page_of_the_application_queries_the_mounted_server(page: Page) -> None:
    server = WSServer(listen=False, serve_javascript=True, engine=NativeProcess())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with server:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/", response_class=HTMLResponse)
    def index() -> str:
        return HTML

    app.mount("/db", server.asgi)
    with trio.fail_after(60):
        async with hypercorn_with(app) as port:
            await page.visit(f"http://127.0.0.1:{port}/")
            await page.until_shown("output", "55, TimeoutError, 3")
