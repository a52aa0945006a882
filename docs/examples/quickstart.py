"""Serve a table of stock prices and query it over WebSocket: strings, query objects, many at once, cancelled."""

from datetime import date
from typing import Any

import trio
from rayforce import F64, Column, Date, Symbol, Table, Vector
from vega_datasets import data

from rayforce_trio import WSClient, WSClientConnection, WSServer, errors

stocks = Table("stocks")  # a reference by name: the rows stay in the server
symbol, day, price = Column("symbol"), Column("date"), Column("price")
slow = "(sum (map (fn [x] (sum (til x))) (til 50000)))"


def monthly_prices() -> Table:
    """Return ten years of monthly prices."""
    prices = data.stocks()
    return Table(
        {
            "symbol": Vector(prices["symbol"].tolist(), ray_type=Symbol),
            "date": Vector(prices["date"].dt.date.tolist(), ray_type=Date),
            "price": Vector(prices["price"].tolist(), ray_type=F64),
        }
    )


async def ask(connection: WSClientConnection, question: str, query: Any = None) -> None:
    """Print a question and its answer; a question without a query of its own is one itself."""
    print(f"\n> {question}")
    print(await connection.execute(question if query is None else query))


async def explore(connection: WSClientConnection) -> None:
    # Strings are evaluated as they are.
    await ask(connection, "(count stocks)")
    await ask(connection, "(select {from: stocks by: symbol since: (min date) high: (max price)})")

    # Values are passed under the names that the query uses for them, and a result can be fetched as columns.
    print("\n> IBM above 125")
    above = "(select {from: stocks where: (and (== symbol ticker) (> price low))})"
    for row in (await connection.fetch(above, {"ticker": "IBM", "low": 125.0})).rows():
        print(*row)

    # Query objects are compiled here and evaluated there.
    await ask(connection, "Apple above 200", stocks.select("date", "price").where((symbol == "AAPL") & (price > 200)))
    spread = stocks.select(low=price.min(), mean=price.mean(), high=price.max()).by("symbol")
    await ask(connection, "lowest, mean and highest price of each", spread)
    await ask(connection, "one row more", stocks.insert("MSFT", date(2010, 4, 1), 30.5))
    await ask(connection, "Microsoft in pounds, please", stocks.update(price=price * 0.66).where(symbol == "MSFT"))
    await ask(connection, "Microsoft in 2010", stocks.where((symbol == "MSFT") & (day >= date(2010, 1, 1))))

    # What comes back can be asked about again; a join carries both its tables along.
    latest = await connection.execute(stocks.where(day == date(2010, 3, 1)))
    symbols, cities = ["AAPL", "GOOG", "IBM"], ["Cupertino", "Mountain View", "Armonk"]
    homes = Table({"symbol": Vector(symbols, ray_type=Symbol), "city": Vector(cities, ray_type=Symbol)})
    await ask(connection, "the latest, with their home towns", latest.inner_join(homes, on="symbol"))

    # Any number of tasks may share the connection; each gets its own answer.
    print("\n> five questions at once")

    async def count(name: str) -> None:
        print(name, await connection.execute(f"(count (select {{from: stocks where: (== symbol '{name})}}))"))

    async with trio.open_nursery() as nursery:
        for name in ("AAPL", "AMZN", "GOOG", "IBM", "MSFT"):
            nursery.start_soon(count, name)

    # A query that takes too long is cancelled; the next one gets its own answer, not the late one's.
    with trio.move_on_after(0.05) as patience:
        await ask(connection, slow)
    print("cancelled" if patience.cancelled_caught else "it was fast enough")
    await ask(connection, "(+ 1 2)")

    # An error of the engine is an exception of its own class, and harms nothing.
    try:
        await ask(connection, '(+ 1 "one")')
    except errors.RayforceTypeError as error:
        print(f"RayforceTypeError: {error}")


async def main() -> None:
    monthly_prices().save("stocks")
    async with WSServer(port=0, host="127.0.0.1") as server:
        print(f"serving on {server.url}")
        async with WSClient("127.0.0.1", server.port).connect() as connection:
            await explore(connection)


if __name__ == "__main__":
    trio.run(main)
