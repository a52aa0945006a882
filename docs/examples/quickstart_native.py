"""The quickstart with an engine process: the same questions, and two that a server without one would not survive."""

import logging
import sys

import trio
from quickstart import explore, monthly_prices

from rayforce_trio import NativeProcess, WSClient, WSServer, errors


async def main() -> None:
    async with WSServer(port=0, host="127.0.0.1", engine=NativeProcess()) as server:
        print(f"serving on {server.url}")
        async with WSClient("127.0.0.1", server.port).connect() as connection:
            # The engine's process starts empty, so the table is sent to it.
            await connection.create_table("stocks", monthly_prices())
            await explore(connection)

            # A query without end is stopped in the engine, and the next one is answered.
            print("\n> (while true 1)")
            with trio.move_on_after(0.2) as patience:
                await connection.execute("(while true 1)")
            print("stopped" if patience.cancelled_caught else "it ended")
            print(await connection.execute("(count stocks)"))

            # This ends the engine's process, and with it this connection.
            print("\n> (exit 0)")
            try:
                await connection.execute("(exit 0)")
            except errors.ConnectionClosed as error:
                print(error)

        # The server serves on; a new process has taken the place of the old one.
        async with WSClient("127.0.0.1", server.port).connect() as connection:
            print(await connection.execute("(+ 1 2)"))


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stdout, format="%(name)s: %(message)s")
    trio.run(main)
