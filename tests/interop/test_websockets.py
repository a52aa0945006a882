"""The `websockets` library: its clients on our server, its server under our client."""

import pytest
from support.foreign import clients, servers
from support.foreign.connection import FrameDial
from support.foreign.with_websockets import dial_asyncio, dial_sync, listen_asyncio

each_client = pytest.mark.parametrize("dial", [dial_asyncio, dial_sync], ids=["asyncio", "without a loop"])


@pytest.mark.trio
@each_client
@pytest.mark.parametrize("check", clients.EACH_ENGINE, ids=lambda check: check.__name__)
@pytest.mark.usefixtures("each_engine")
async def test_its_clients_are_served_by_every_engine(check: clients.Check, dial: FrameDial) -> None:
    await check(dial)


@pytest.mark.trio
@each_client
@pytest.mark.parametrize("check", clients.OTHERS, ids=lambda check: check.__name__)
async def test_its_clients_are_served(check: clients.Check, dial: FrameDial) -> None:
    await check(dial)


@pytest.mark.trio
@each_client
@pytest.mark.parametrize("check", clients.FRAME_CHECKS, ids=lambda check: check.__name__)
async def test_the_frames_of_its_clients_are_understood(check: clients.FrameCheck, dial: FrameDial) -> None:
    await check(dial)


@pytest.mark.anyio
@pytest.mark.parametrize("check", servers.CHECKS, ids=lambda check: check.__name__)
async def test_its_server_serves_our_client(check: servers.Check) -> None:
    await check(listen_asyncio)
