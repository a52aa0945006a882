"""A process of a withstand test: `python -m withstand._child ROLE MODULE:FUNCTION ARGUMENTS`.

The roles:

- `server`: FUNCTION returns a `WSServer`. Each line of standard input is answered with the usage: `support.usage`.
- `attacker`: FUNCTION is an async function that attacks until it is cancelled.
- `honest`: FUNCTION is an async function that is called for each line, and answers it.

ARGUMENTS are a JSON object. The process reports that it is ready, and ends when its standard input ends.
"""

import gc
import json
import logging
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from importlib import import_module
from typing import Any

import trio
from support.children import Commander
from support.usage import held

from rayforce_trio import WSServer


async def next_command(commander: Commander) -> dict[str, Any] | None:
    return await trio.to_thread.run_sync(commander.next, abandon_on_cancel=True)


async def serve(commander: Commander, make: Callable[[], WSServer]) -> None:
    async with make() as server:
        commander.tell({"port": server.port})
        while await next_command(commander) is not None:
            gc.collect()
            commander.tell(asdict(held()))


async def attack(commander: Commander, script: Callable[..., Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(script)
        commander.tell({"attacks": True})
        while await next_command(commander) is not None:
            commander.tell({"attacks": True})
        nursery.cancel_scope.cancel()


async def be_honest(commander: Commander, measure: Callable[..., Awaitable[dict[str, Any]]]) -> None:
    commander.tell({"ready": True})
    while (command := await next_command(commander)) is not None:
        commander.tell(await measure(**command))


_ROLES: dict[str, Callable[[Commander, Any], Awaitable[None]]] = {
    "server": serve,
    "attacker": attack,
    "honest": be_honest,
}


def main() -> None:
    role, reference, arguments = sys.argv[1:]
    module, _, name = reference.partition(":")
    logging.basicConfig(level=logging.INFO)  # to the standard error, as `rayforce-trio serve` does
    commander = Commander()
    try:
        function = partial(getattr(import_module(module), name), **json.loads(arguments))
        trio.run(_ROLES[role], commander, function)
    except Exception as error:
        commander.tell_failure(error)
        raise


if __name__ == "__main__":
    main()
