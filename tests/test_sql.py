"""SQL on both engines, compared with what DuckDB makes of the same statements and data."""

import datetime as dt
import math
import random
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from support.sync_engines import InProcess, Native, native_engine, request_frame

from rayforce_trio import sql
from rayforce_trio._codec import encode, reply_payload
from rayforce_trio._protocol import MessageType
from rayforce_trio._values._arrow_import import import_arrow
from rayforce_trio._values._columns import Columns, read_columns
from rayforce_trio._values._payloads import call, name, quoted, table_of
from rayforce_trio._values._vectors import vector_payload

Engine = InProcess | Native


def symbols(*texts: str | None) -> pa.Array:
    return pa.array(texts, pa.string()).dictionary_encode()


DAY, MINUTE = dt.date(2024, 1, 1), dt.datetime(2024, 1, 1, 9, 30)
TRADES = pa.table(
    {
        "id": pa.array([1, 2, 3, 4, 5, 6, None, 8], pa.int64()),
        "px": pa.array([10.5, 20.25, None, 10.5, -3.0, 0.0, 7.75, 20.25], pa.float64()),
        "qty": pa.array([100, None, 300, 100, 50, 75, 25, 10], pa.int32()),
        "sym": symbols("AAPL", "MSFT", "AAPL", None, "GOOG", "MSFT", "AAPL", "A_B%"),
        "note": pa.array(["first", "second", None, "it's", "a*b", "first", "100%", "x_y"], pa.string()),
        "day": pa.array([DAY, DAY, dt.date(2024, 1, 2), None, dt.date(2024, 2, 29), DAY, DAY, dt.date(2023, 12, 31)]),
        "ts": pa.array([MINUTE + dt.timedelta(minutes=7 * n) for n in range(8)], pa.timestamp("ns")),
        "flag": pa.array([True, False, True, True, False, False, True, False]),
        "count": pa.array([3, 1, 2, 3, 1, 2, 3, 1], pa.int64()),
        "from": pa.array([1, 2, 3, 4, 5, 6, 7, 8], pa.int16()),
    }
)
COMPANIES = pa.table(
    {
        "sym": symbols("AAPL", "MSFT", "IBM", None, "MSFT"),
        "company": pa.array(["Apple", "Microsoft", "Big Blue", "nobody", "Micro"], pa.string()),
        "id": pa.array([1, 2, 30, None, 6], pa.int32()),
        "px": pa.array([1.5, None, 2.5, 3.5, 4.5], pa.float64()),
        "label": pa.array(["AAPL", "MSFT", "IBM", None, "GOOG"], pa.string()),
    }
)
_random = random.Random(11)
LARGE = pa.table(
    {
        "id": pa.array(range(100_000), pa.int64()),
        "px": pa.array([_random.choice([None, 0.25, 1.5, 2.0, -7.25]) for _ in range(100_000)], pa.float64()),
        "qty": pa.array([_random.choice([None, *range(100)]) for _ in range(100_000)], pa.int32()),
        "sym": symbols(*(_random.choice(["AAPL", "MSFT", "GOOG", None]) for _ in range(100_000))),
    }
)
TABLES = {"trades": TRADES, "empty": TRADES.slice(0, 0), "single": TRADES.slice(1, 1)}


def wire_table(table: pa.Table) -> bytes:
    columns = import_arrow(table, "the table")
    assert isinstance(columns, list)
    return table_of([column.name for column in columns], [vector_payload(column.read(), "") for column in columns])


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, Engine]]:
    """Both engines, with the tables in them."""
    with native_engine() as native:
        made: dict[str, Engine] = {"in process": InProcess(), "native": native}
        for engine in made.values():
            for text, table in {**TABLES, "companies": COMPANIES, "large": LARGE}.items():
                put(engine, text, table)
        yield made


@pytest.fixture(scope="module")
def duck() -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB with the same tables, and nulls ordered as the engine orders them."""
    with duckdb.connect() as connection:
        connection.execute("SET default_null_order='nulls_first_on_asc_last_on_desc'")
        for text, table in {**TABLES, "companies": COMPANIES, "large": LARGE}.items():
            connection.register(text, table)
        yield connection


def put(engine: Engine, text: str, table: pa.Table) -> None:
    """Store a table in an engine."""
    engine.ask(request_frame(call("do", call("set", name(text), quoted(wire_table(table))), quoted(b"\x7e"))))


def fetch(engine: Engine, text: str, params: Mapping[str, Any] | None = None) -> Columns:
    """Return the table that a statement gives, or raise the engine's error."""
    query = sql(text)
    reply = engine.ask(encode(query, MessageType.SYNC, params=params))
    return read_columns(reply_payload(reply, query))


def execute(engine: Engine, text: str, params: Mapping[str, Any] | None = None) -> None:
    """Run a statement whose result is no table."""
    query = sql(text)
    reply_payload(engine.ask(encode(query, MessageType.SYNC, params=params)), query)


def comparable(value: Any) -> Any:
    """Return a value so that equal results of both databases are equal."""
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 9)
    return value or None if isinstance(value, str) else value  # the engine cannot always tell empty from null


def rows_of(rows: Any, *, ordered: bool) -> list[tuple[Any, ...]]:
    result = [tuple(comparable(value) for value in row) for row in rows]
    return result if ordered else sorted(result, key=lambda row: [(value is not None, str(value)) for value in row])


SELECTS = """
SELECT id, px, sym, note, day, flag FROM trades
SELECT "id" AS "my id", px AS Px FROM trades
SELECT id FROM trades WHERE px > 10
SELECT id FROM trades WHERE px < 10.5
SELECT id FROM trades WHERE px <= 10.5 AND qty >= 100
SELECT id FROM trades WHERE px <> 10.5
SELECT id FROM trades WHERE px != 10.5 OR sym = 'AAPL'
SELECT id FROM trades WHERE NOT px > 10
SELECT id FROM trades WHERE NOT (px > 10 AND sym = 'AAPL')
SELECT id FROM trades WHERE NOT (px <= 10 OR NOT flag)
SELECT id FROM trades WHERE 10 < px
SELECT id FROM trades WHERE id < qty
SELECT id FROM trades WHERE id >= qty
SELECT id FROM trades WHERE px = px
SELECT id FROM trades WHERE px != id
SELECT id FROM trades WHERE flag
SELECT id FROM trades WHERE NOT flag
SELECT id FROM trades WHERE flag = TRUE AND TRUE
SELECT id FROM trades WHERE TRUE
SELECT id FROM trades WHERE FALSE OR NULL
SELECT id FROM trades WHERE px = NULL
SELECT id FROM trades WHERE NOT (px = NULL)
SELECT id FROM trades WHERE 1 = 1 AND px IS NOT NULL
SELECT id FROM trades WHERE px IS NULL OR sym IS NULL OR note IS NULL OR day IS NULL
SELECT id FROM trades WHERE (px > 10) IS TRUE
SELECT id FROM trades WHERE (px > 10) IS NOT TRUE
SELECT id FROM trades WHERE (px > 10) IS FALSE
SELECT id FROM trades WHERE sym = 'AAPL'
SELECT id FROM trades WHERE sym <> 'AAPL'
SELECT id FROM trades WHERE 'AAPL' = sym
SELECT id FROM trades WHERE sym > 'AAPL'
SELECT id FROM trades WHERE sym >= 'GOOG' AND sym < 'MSFT'
SELECT id FROM trades WHERE note = 'it''s'
SELECT id FROM trades WHERE note <> 'first'
SELECT id FROM trades WHERE note > 'first'
SELECT id FROM trades WHERE NOT note >= 'first'
SELECT id FROM trades WHERE id IN (1, 3, 99)
SELECT id FROM trades WHERE id NOT IN (1, 3, 99)
SELECT id FROM trades WHERE id IN (1, NULL)
SELECT id FROM trades WHERE id NOT IN (1, NULL)
SELECT id FROM trades WHERE px IN (10.5, 0, 7.75)
SELECT id FROM trades WHERE qty IN (100, 50)
SELECT id FROM trades WHERE qty NOT IN (100, 50)
SELECT id FROM trades WHERE sym IN ('AAPL', 'MSFT')
SELECT id FROM trades WHERE sym NOT IN ('AAPL', 'MSFT')
SELECT id FROM trades WHERE note IN ('first', 'a*b')
SELECT id FROM trades WHERE note NOT IN ('first', 'a*b')
SELECT id FROM trades WHERE upper(note) IN ('FIRST')
SELECT id FROM trades WHERE day IN ('2024-01-01', '2024-02-29')
SELECT id FROM trades WHERE day IN (DATE '2024-01-01')
SELECT id FROM trades WHERE id BETWEEN 2 AND 4
SELECT id FROM trades WHERE id NOT BETWEEN 2 AND 4
SELECT id FROM trades WHERE px BETWEEN id AND qty
SELECT id FROM trades WHERE px NOT BETWEEN id AND qty
SELECT id FROM trades WHERE sym LIKE 'A%'
SELECT id FROM trades WHERE sym NOT LIKE 'A%'
SELECT id FROM trades WHERE note LIKE '%irs_'
SELECT id FROM trades WHERE note LIKE 'a*b'
SELECT id FROM trades WHERE note LIKE '%*%'
SELECT id FROM trades WHERE note LIKE '%!%' ESCAPE '!'
SELECT id FROM trades WHERE note LIKE 'x!_y' ESCAPE '!'
SELECT id FROM trades WHERE note LIKE '%'
SELECT id FROM trades WHERE note NOT LIKE '%'
SELECT id FROM trades WHERE note ILIKE 'FIR%'
SELECT id FROM trades WHERE day >= '2024-01-02'
SELECT id FROM trades WHERE day = DATE '2024-01-01'
SELECT id FROM trades WHERE day <> '2024-01-01'
SELECT id FROM trades WHERE ts > '2024-01-01 09:40:00'
SELECT id FROM trades WHERE ts BETWEEN TIMESTAMP '2024-01-01 09:37:00' AND '2024-01-01 10:00'
SELECT id FROM trades WHERE ts >= DATE '2024-01-01'
SELECT id + 1 AS a, px * 2 AS b, qty / 8 AS c, -px AS d, id - qty AS e, (id + 1) * 2 AS f FROM trades
SELECT qty % 40 AS a, -qty % 40 AS b, qty % -40 AS c, px % 4 AS d FROM trades
SELECT px > 10 AND id < 5 AS a FROM trades WHERE px IS NOT NULL AND id IS NOT NULL
SELECT sym = 'AAPL' AS a, note IN ('first') AS b, sym IN ('AAPL', 'IBM') AS c FROM trades WHERE sym > '' AND note > ''
SELECT 1 AS one, 'text' AS two, 2.5 AS three, TRUE AS four FROM trades
SELECT 1 + 1 AS two, 'x' AS x, DATE '2024-01-01' AS d
SELECT 1 AS one WHERE 1 = 2
SELECT abs(px) AS a, ceil(px) AS b, floor(px) AS c, sqrt(abs(px)) AS d, exp(px / 10) AS e, sign(px) AS f FROM trades
SELECT round(px) AS a, round(px, 1) AS b, ln(id) AS c, power(px, 2) AS d FROM trades
SELECT upper(note) AS a, lower(sym) AS b, length(note) AS c, substring(note, 2, 3) AS d FROM trades
SELECT year(day) AS a, month(day) AS b, day(day) AS c, extract(hour FROM ts) AS d, minute(ts) AS e FROM trades
SELECT date_trunc('hour', ts) AS a, time_bucket(INTERVAL '5 minutes', ts) AS b FROM trades
SELECT ts + INTERVAL '1 day' AS a, ts - INTERVAL 90 SECOND AS b FROM trades
SELECT CAST(id AS DOUBLE) / 2 AS a, CAST(qty AS BIGINT) AS b, CAST(ts AS DATE) AS c, id::VARCHAR AS d FROM trades
SELECT CASE WHEN px > 10 THEN 'high' WHEN px > 0 THEN 'low' ELSE 'none' END AS a FROM trades
SELECT CASE WHEN px > 10 THEN id END AS a, CASE WHEN flag THEN sym END AS b, CASE WHEN flag THEN note END AS c FROM trades
SELECT CASE WHEN flag THEN qty ELSE 0 END AS a, CASE WHEN flag THEN id ELSE px END AS b FROM trades
SELECT CASE WHEN flag THEN qty ELSE id END AS a, CASE WHEN flag THEN day END AS b FROM trades
SELECT CASE WHEN flag THEN sym ELSE 'other' END AS a, CASE WHEN flag THEN note ELSE 'other' END AS b FROM trades
SELECT CASE sym WHEN 'AAPL' THEN 1 WHEN 'MSFT' THEN 2 END AS a, CASE WHEN TRUE THEN id END AS b FROM trades
SELECT CASE WHEN flag THEN sym ELSE note END AS a, CASE WHEN flag THEN 1.5 ELSE id END AS b FROM trades
SELECT if(px > 10, 1, 0) AS a, coalesce(px, 0) AS b, coalesce(qty, id, 7) AS c, nullif(px, 10.5) AS d FROM trades
SELECT coalesce(sym, 'none') AS a, coalesce(note, 'none') AS b, coalesce(day, DATE '2000-01-01') AS c FROM trades
SELECT id FROM trades WHERE CASE WHEN flag THEN px > 5 ELSE px < 5 END
SELECT id FROM trades WHERE NOT CASE WHEN flag THEN px > 5 WHEN px < 3 THEN id > 1 END
SELECT id FROM trades WHERE coalesce(px, 0) < 1
SELECT id FROM trades WHERE CASE WHEN sym IN ('AAPL', 'GOOG') THEN qty ELSE id END > 40
SELECT id FROM trades WHERE if(note LIKE 'f%', sym, note) <> 'AAPL'
SELECT coalesce(px, 0) < 1 AS a, coalesce(sym, 'x') = 'x' AS b, coalesce(qty, 0) + 1 AS c FROM trades WHERE flag
SELECT coalesce(sym, 'none') AS s, sum(coalesce(px, 0)) AS a FROM trades WHERE coalesce(id, 0) < 8 GROUP BY coalesce(sym, 'none')
SELECT sym, coalesce(sum(px), 0) AS a FROM trades GROUP BY sym HAVING coalesce(sum(px), 0) < 20 AND count(*) > 0
SELECT count(*) AS n FROM trades
SELECT count(*) AS n FROM trades WHERE px > 10
SELECT count(*) AS n FROM trades WHERE TRUE AND flag
SELECT count(1) AS n, count(px) AS a, count(sym) AS b, count(note) AS c, count(flag) AS d FROM trades
SELECT sum(px) AS a, avg(px) AS b, min(px) AS c, max(px) AS d, median(px) AS e, stddev(px) AS f FROM trades
SELECT sum(id) AS a, avg(qty) AS b, min(qty) AS c, max(qty) AS d, var_pop(px) AS e, stddev_pop(id) AS f FROM trades
SELECT min(sym) AS a, max(note) AS b, min(day) AS c, max(ts) AS d FROM trades WHERE sym IS NOT NULL AND note IS NOT NULL
SELECT sum(px) AS a, count(px) AS b, max(px) AS c, avg(px) AS d FROM trades WHERE px > 1000
SELECT sum(px) AS a, count(*) AS b FROM trades WHERE px IS NULL
SELECT sum(px * qty) AS a, sum(px * qty) / sum(qty) AS b, max(px) - min(px) AS c, sum(-id) AS d FROM trades
SELECT count(DISTINCT sym) AS a, count(DISTINCT px) AS b, count(DISTINCT id % 2) AS c, sum(DISTINCT px) AS d FROM trades
SELECT sum(px) FILTER (WHERE flag) AS a, count(*) FILTER (WHERE px > 5) AS b, avg(id) FILTER (WHERE qty > 60) AS c FROM trades
SELECT sum(CASE WHEN flag THEN 1 ELSE 0 END) AS a, sum(CASE WHEN sym = 'AAPL' THEN px END) AS b FROM trades
SELECT sum(if(sym IN ('AAPL', 'MSFT'), qty, 0)) AS a, max(abs(px)) AS b, 5 AS c FROM trades
SELECT sym, count(*) AS n FROM trades GROUP BY sym
SELECT sym, count(*) AS n, sum(px) AS a, avg(px) AS b, min(qty) AS c, max(id) AS d FROM trades GROUP BY sym
SELECT sym, sum(px) AS a, count(px) AS b FROM trades WHERE px IS NULL OR flag GROUP BY sym
SELECT note, count(*) AS n, sum(qty) AS a FROM trades GROUP BY note
SELECT day, flag, count(*) AS n, sum(px) AS a FROM trades GROUP BY day, flag
SELECT px, count(DISTINCT sym) AS n, count(DISTINCT note) AS m FROM trades GROUP BY px
SELECT qty, sum(px) AS a FROM trades GROUP BY qty
SELECT count(*) AS n FROM trades GROUP BY sym
SELECT sym FROM trades GROUP BY sym
SELECT id % 3 AS k, sum(px) AS a FROM trades GROUP BY id % 3
SELECT id % 3 AS k, sum(px) AS a FROM trades GROUP BY k
SELECT id % 3 AS k, sum(px) AS a FROM trades GROUP BY 1
SELECT date_trunc('hour', ts) AS h, sym, max(px) AS a FROM trades GROUP BY h, sym
SELECT sym, flag, count(*) AS n FROM trades GROUP BY ALL
SELECT upper(sym) AS s, sum(px) + 1 AS a, sum(px) / count(*) AS b FROM trades GROUP BY upper(sym)
SELECT sym, count(*) AS n FROM trades GROUP BY sym HAVING count(*) > 1
SELECT sym, sum(px) AS a FROM trades GROUP BY sym HAVING a > 10 AND sym <> 'MSFT'
SELECT sym FROM trades GROUP BY sym HAVING sum(px) IS NULL
SELECT sum(px) AS a FROM trades HAVING count(*) > 100
SELECT px > 10 AS expensive, count(*) AS n FROM trades WHERE px IS NOT NULL GROUP BY px > 10
SELECT sum(qty) AS total FROM trades WHERE sym IN ('AAPL') AND px > 1 AND flag
SELECT DISTINCT sym FROM trades
SELECT DISTINCT sym, flag FROM trades
SELECT DISTINCT px > 10 AND flag AS a FROM trades WHERE px IS NOT NULL
SELECT DISTINCT count FROM trades WHERE count > 1
SELECT sum(count) AS a, max("from") AS b FROM trades GROUP BY count
SELECT "from" AS "where", count AS "by" FROM trades WHERE "from" > 2
SELECT id, px FROM (SELECT id, px FROM trades WHERE px > 0) AS inside WHERE id > 1
SELECT sum(n) AS a FROM (SELECT sym, count(*) AS n FROM trades GROUP BY sym) AS g WHERE n > 1
SELECT g.n FROM (SELECT sym, count(*) AS n FROM trades GROUP BY sym) g
WITH a AS (SELECT id, px FROM trades WHERE px > 0), b AS (SELECT id FROM a WHERE id > 2) SELECT id FROM b WHERE id < 8
SELECT id FROM trades WHERE id IN (SELECT id FROM companies)
SELECT id FROM trades WHERE px > (SELECT avg(px) FROM trades)
SELECT id, px - (SELECT min(px) FROM companies) AS d FROM trades
SELECT id FROM trades UNION ALL SELECT CAST(id AS BIGINT) AS id FROM companies
SELECT sym FROM trades UNION SELECT sym FROM companies
SELECT t.id, c.company FROM trades AS t JOIN companies AS c ON t.sym = c.sym
SELECT t.id, c.company FROM trades t INNER JOIN companies c ON c.sym = t.sym AND t.flag
SELECT t.id, c.company FROM trades t LEFT JOIN companies c ON t.sym = c.sym
SELECT t.id, c.company, c.px AS cpx, t.px AS tpx FROM trades t LEFT JOIN companies c ON t.sym = c.sym AND c.px > 1
SELECT t.id, company FROM trades t JOIN companies c ON t.id = c.id
SELECT t.id, c.id AS cid FROM trades t LEFT JOIN companies c ON t.id = c.id AND t.sym = c.sym
SELECT trades.sym, company FROM trades JOIN companies ON trades.sym = companies.label
SELECT sym, company FROM trades JOIN companies USING (sym)
SELECT id, sym, company FROM trades JOIN companies USING (sym, id)
SELECT c.company, count(*) AS n, sum(t.px) AS a FROM trades t JOIN companies c ON t.sym = c.sym GROUP BY c.company
SELECT a.id, b.id AS other FROM trades a JOIN trades b ON a.sym = b.sym AND a.id < b.id
SELECT t.id, c.company, d.label FROM trades t JOIN companies c ON t.sym = c.sym JOIN companies d ON c.sym = d.sym
SELECT t.id, g.n FROM trades t JOIN (SELECT sym, count(*) AS n FROM companies GROUP BY sym) g ON t.sym = g.sym
SELECT t.id FROM trades t JOIN companies c ON t.id + 1 = c.id
SELECT t.id FROM trades t JOIN companies c ON t.px = c.id
""".strip().splitlines()

ORDERED = """
SELECT id, px FROM trades ORDER BY id
SELECT id, px FROM trades ORDER BY px DESC, id
SELECT id FROM trades ORDER BY px, id DESC
SELECT id FROM trades ORDER BY sym DESC, px, ts DESC
SELECT id FROM trades ORDER BY px + qty, id
SELECT id, px AS p FROM trades ORDER BY p DESC, 1
SELECT id FROM trades ORDER BY px NULLS LAST, id
SELECT id FROM trades ORDER BY px DESC NULLS FIRST, id DESC
SELECT id FROM trades WHERE px > 0 ORDER BY note, id
SELECT id FROM trades ORDER BY id LIMIT 3
SELECT id FROM trades ORDER BY id LIMIT 3 OFFSET 2
SELECT id FROM trades ORDER BY id OFFSET 5
SELECT id FROM trades ORDER BY id LIMIT 0
SELECT id FROM trades ORDER BY id LIMIT 100 OFFSET 100
SELECT sym, count(*) AS n FROM trades GROUP BY sym ORDER BY n DESC, sym
SELECT sym FROM trades GROUP BY sym ORDER BY sum(px) DESC, sym LIMIT 2
SELECT sym, sum(px) AS a FROM trades GROUP BY sym ORDER BY 2, sym
SELECT DISTINCT sym FROM trades ORDER BY sym
SELECT id % 2 AS k, sum(px) AS a FROM trades GROUP BY k ORDER BY k DESC
SELECT id FROM trades UNION ALL SELECT CAST(id AS BIGINT) AS id FROM companies ORDER BY id LIMIT 4
SELECT id FROM (SELECT id, px FROM trades ORDER BY px DESC, id LIMIT 3) AS top ORDER BY id
SELECT upper(note) AS n FROM trades ORDER BY length(note) DESC, n
SELECT -id AS id FROM trades ORDER BY id
SELECT t.id, c.company FROM trades t JOIN companies c ON t.sym = c.sym ORDER BY c.company, t.id DESC
""".strip().splitlines()


@pytest.mark.parametrize("text", SELECTS + ORDERED)
def test_a_query_gives_what_duckdb_gives(
    text: str, engines: dict[str, Engine], duck: duckdb.DuckDBPyConnection
) -> None:
    for table in TABLES:
        query = text.replace("trades", table)
        found = duck.execute(query)
        ordered = text in ORDERED
        expected = rows_of(found.fetchall(), ordered=ordered)
        names = tuple(column[0] for column in found.description or ())
        for engine in engines.values():
            result = fetch(engine, query)
            assert result.names == names
            assert rows_of(result.rows(), ordered=ordered) == expected, (table, result.schema)


@pytest.mark.parametrize(
    "text",
    """
SELECT sym, count(*) AS n, count(px) AS a, sum(px) AS b, avg(qty) AS c, max(id) AS d FROM large GROUP BY sym
SELECT qty, sum(px) AS a, count(DISTINCT sym) AS b FROM large WHERE sym IN ('AAPL', 'MSFT') GROUP BY qty
SELECT id FROM large WHERE px < 1 AND qty NOT BETWEEN 5 AND 95
SELECT count(*) AS n FROM large WHERE NOT (px > 1 OR sym = 'AAPL')
SELECT id, px FROM large ORDER BY px DESC, sym, qty DESC, id LIMIT 50 OFFSET 17
SELECT sum(px) AS a, count(*) AS n FROM large l JOIN companies c ON l.sym = c.sym WHERE l.qty > 50 AND l.px > 0
SELECT DISTINCT sym, qty FROM large WHERE qty > 90
""".strip().splitlines(),
)
def test_a_query_of_many_rows_gives_what_duckdb_gives(
    text: str, engines: dict[str, Engine], duck: duckdb.DuckDBPyConnection
) -> None:
    text = text.replace("sum(px)", "sum(l.px)") if " l JOIN" in text else text
    ordered = "ORDER BY" in text
    expected = rows_of(duck.execute(text).fetchall(), ordered=ordered)
    for engine in engines.values():
        assert rows_of(fetch(engine, text).rows(), ordered=ordered) == expected
