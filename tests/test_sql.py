"""SQL on both engines, compared with DuckDB for the same statements and data."""

import datetime as dt
import math
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rayforce import I64, String, Table, Vector
from support.native import native_server
from support.native_client import native_client

from rayforce_trio import SQL, sql
from rayforce_trio._codec import encode, evaluate, reply_payload
from rayforce_trio._protocol import Header, MessageType, Reply
from rayforce_trio._values._arrow_import import import_arrow
from rayforce_trio._values._columns import Columns, read_columns
from rayforce_trio._values._payloads import NULL, call, name, quoted, table_of
from rayforce_trio._values._vectors import vector_payload
from rayforce_trio.errors import RayforceError, UnsupportedQuery

Engine = Callable[[bytes], Reply]
"""Takes the frame of a request, and returns the reply."""


def symbols(*texts: str | None) -> pa.Array:
    return pa.array(texts, pa.string()).dictionary_encode()


DAY, MINUTE = dt.date(2024, 1, 1), dt.datetime(2024, 1, 1, 9, 30, tzinfo=dt.UTC)
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
    with native_server() as server, native_client(server.port) as native:
        made: dict[str, Engine] = {"in process": evaluate, "native": lambda frame: native.request(frame)[0]}
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
    payload = call("do", call("set", name(text), quoted(wire_table(table))), NULL)
    reply_payload(engine(Header(0, MessageType.SYNC, len(payload)).pack() + payload))


def fetch(engine: Engine, query: SQL | str, params: Mapping[str, Any] | None = None) -> Columns:
    """Return the table that a statement gives, or raise the engine's error."""
    query = query if isinstance(query, SQL) else sql(query)
    reply = engine(encode(query, MessageType.SYNC, params=params))
    return read_columns(reply_payload(reply, query))


def execute(engine: Engine, text: str, params: Mapping[str, Any] | None = None) -> None:
    """Run a statement whose result is no table."""
    query = sql(text)
    reply_payload(engine(encode(query, MessageType.SYNC, params=params)), query)


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
SELECT id FROM trades WHERE (flag IS TRUE) = FALSE
SELECT id + NULL AS x FROM trades
SELECT id % NULL AS x FROM trades
SELECT 1 IS NULL AS x, NULL IS NULL AS y
SELECT sym || '-' || note AS x FROM trades WHERE note IS NOT NULL AND sym IS NOT NULL
SELECT note || '!' AS x FROM trades WHERE note IS NOT NULL
SELECT CONCAT('a', note) AS x FROM trades WHERE note IS NOT NULL
SELECT CAST('abc' AS VARCHAR) AS x
SELECT CAST(flag AS INTEGER) AS x FROM trades
SELECT TRIM(note) AS x FROM trades WHERE note IS NOT NULL
SELECT id FROM trades WHERE note LIKE NULL
SELECT id FROM trades WHERE NOT (px > 10 OR qty IS NULL)
SELECT CASE WHEN id > 3 THEN 1 ELSE 2.5 END AS x FROM trades
SELECT CASE WHEN id > 3 THEN 'a' ELSE NULL END AS x FROM trades
SELECT CASE WHEN id > 3 THEN 1 ELSE NULL END AS x FROM trades
SELECT id FROM trades WHERE ts > '2024-01-01 09:45:00'
SELECT id FROM trades WHERE ts <= '2024-01-01 09:45:00.5'
SELECT ROUND(px, 1) AS x FROM trades
SELECT SUBSTRING(note, 1, 2) AS x FROM trades WHERE note IS NOT NULL
SELECT EXTRACT(YEAR FROM day) AS y FROM trades WHERE day IS NOT NULL
SELECT -2.5 AS a, -(-3) AS b, - px AS c FROM trades
SELECT id FROM trades WHERE id IN (1, 2.5, 4)
SELECT id FROM trades WHERE id IN (1, NULL, 4)
SELECT id FROM trades WHERE px IN (1, 10.5)
SELECT count(*) FILTER (WHERE px > 10) AS n, sum(qty) FILTER (WHERE flag) AS s FROM trades
SELECT sum(DISTINCT qty) AS a, avg(DISTINCT px) AS b FROM trades
SELECT COALESCE(sym, 'none') AS x FROM trades
SELECT COALESCE(NULL, px, 0) AS x FROM trades
SELECT NULLIF(id, 3) AS x FROM trades
SELECT sym, count(*) AS n FROM trades GROUP BY sym HAVING (count(*) > 1) IS TRUE
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
SELECT CASE WHEN px > 10 THEN id END AS a, CASE WHEN flag THEN sym END AS b FROM trades
SELECT CASE WHEN flag THEN note END AS c FROM trades
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
SELECT coalesce(sym, '?') AS s, sum(coalesce(px, 0)) AS a FROM trades WHERE coalesce(id, 0) < 8 GROUP BY 1
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
SELECT sum(px) FILTER (WHERE flag) AS a, count(*) FILTER (WHERE px > 5) AS b FROM trades
SELECT sym, avg(id) FILTER (WHERE qty > 60) AS c FROM trades GROUP BY sym
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
def test_a_query_gives_the_result_of_duckdb(
    text: str, engines: dict[str, Engine], duck: duckdb.DuckDBPyConnection
) -> None:
    for table in TABLES:
        query = sql(text.replace("trades", table))
        found = duck.execute(query.text)
        expected = rows_of(found.fetchall(), ordered=text in ORDERED)
        names = tuple(column[0] for column in found.description or ())
        for engine in engines.values():
            result = fetch(engine, query)
            assert result.names == names
            assert rows_of(result.rows(), ordered=text in ORDERED) == expected, (table, result.schema)


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
def test_a_query_of_many_rows_gives_the_result_of_duckdb(
    text: str, engines: dict[str, Engine], duck: duckdb.DuckDBPyConnection
) -> None:
    text = text.replace("sum(px)", "sum(l.px)") if " l JOIN" in text else text
    ordered = "ORDER BY" in text
    expected = rows_of(duck.execute(text).fetchall(), ordered=ordered)
    for engine in engines.values():
        assert rows_of(fetch(engine, text).rows(), ordered=ordered) == expected


STARS = {
    "SELECT * FROM companies": ("sym", "company", "id", "px", "label"),
    "SELECT *, px * 2 AS twice FROM companies": ("sym", "company", "id", "px", "label", "twice"),
    "SELECT px * 2 AS px, * FROM companies": ("px", "sym", "company", "id", "label"),
    "SELECT companies.* FROM companies WHERE px > 2 ORDER BY px * 2 DESC": ("sym", "company", "id", "px", "label"),
    "SELECT * EXCLUDE (px, id) FROM companies": ("sym", "company", "label"),
    "SELECT DISTINCT * FROM companies ORDER BY sym": ("sym", "company", "id", "px", "label"),
    "SELECT DISTINCT *, 1 AS one FROM companies": ("sym", "company", "id", "px", "label", "one"),
    "SELECT * FROM (SELECT sym, id FROM trades) t JOIN companies c ON t.sym = c.sym": (
        *("sym", "id", "sym_1", "company", "id_1", "px", "label"),
    ),
    "SELECT c.* FROM (SELECT sym, id FROM trades) t JOIN companies c ON t.sym = c.sym": (
        *("sym", "company", "id", "px", "label"),
    ),
    "SELECT t.*, c.px FROM (SELECT sym, id FROM trades) t JOIN companies c ON t.sym = c.sym": ("sym", "id", "px"),
    "SELECT * FROM (SELECT sym, id FROM trades) t LEFT JOIN companies USING (sym)": (
        *("sym", "id", "company", "id_1", "px", "label"),
    ),
    "SELECT * FROM companies a JOIN companies b USING (sym, id) JOIN (SELECT sym, px FROM companies) c USING (sym)": (
        *("sym", "company", "id", "px", "label", "company_1", "px_1", "label_1", "px_2"),
    ),
}


@pytest.mark.parametrize("text", STARS)
def test_a_star_means_all_columns(text: str, engines: dict[str, Engine], duck: duckdb.DuckDBPyConnection) -> None:
    expected = rows_of(duck.execute(text).fetchall(), ordered=False)
    for engine in engines.values():
        result = fetch(engine, text)
        assert result.names == STARS[text]
        if len(result.names) == len(expected[0]):  # not so where an alias replaces a column of the star
            assert rows_of(result.rows(), ordered=False) == expected


NAMES = {
    "SELECT px, sum(qty), count(*), count(id), COUNT(DISTINCT px) FROM trades GROUP BY px": (
        *("px", "sum_qty", "count", "count_id", "COUNT(DISTINCT px)"),
    ),
    "SELECT px * 2, upper(sym), 1, 'text', trades.id FROM trades": ("px * 2", "upper_sym", "1", "'text'", "id"),
    'SELECT id AS "from", px AS "where", qty AS "a b", sym AS "by" FROM trades': ("from", "where", "a b", "by"),
    "SELECT sum(px) AS total FROM trades": ("total",),
}


@pytest.mark.parametrize("text", NAMES)
def test_columns_without_an_alias_have_names(text: str, engines: dict[str, Engine]) -> None:
    assert fetch(engines["in process"], text).names == NAMES[text]


CHANGES = """
INSERT INTO book (id, px, sym, note, n, day) VALUES (1, 1.5, 'A', 'x', 5, '2024-01-01'), (2, 2, 'B', NULL, 6, NULL)
INSERT INTO book (sym, id) VALUES ('it''s', 3), (NULL, 4), ('C', 2 + 3)
INSERT INTO book VALUES (6, NULL, NULL, 'six', 7, DATE '2024-06-06', TIMESTAMP '2024-06-06 06:06:06.5')
INSERT INTO book (id, ts, px) VALUES (7, '2024-07-07 07:07:07', -1), (8, '2024-08-08', 1e3)
INSERT INTO book (id, px) SELECT id + 10, px * 2 FROM book WHERE px > 0
INSERT INTO book SELECT * FROM book WHERE id = 1
INSERT INTO book (id) SELECT id FROM book WHERE id > 1000
UPDATE book SET px = px + 1, n = n + 1 WHERE id < 3
UPDATE book SET sym = 'Z', note = 'z' WHERE sym = 'A'
UPDATE book SET day = '2025-01-01', n = 3 WHERE day IS NULL AND NOT id > 5
UPDATE book SET note = NULL, sym = NULL, px = NULL WHERE id = 2
UPDATE book SET px = CASE WHEN id > 5 THEN 1 ELSE px END, note = upper(coalesce(sym, 'none'))
UPDATE book SET px = id, id = id + n WHERE n IS NOT NULL AND coalesce(px, 0) < 100
UPDATE book SET px = 0 WHERE px IN (SELECT max(px) FROM book)
DELETE FROM book WHERE px > 100 OR sym LIKE 'S%'
DELETE FROM book WHERE NOT n = 4
DELETE FROM book WHERE CASE WHEN id > 13 THEN px END > 0
CREATE TABLE other AS SELECT id, px FROM book WHERE px IS NOT NULL
INSERT INTO other SELECT * FROM other
DELETE FROM book
INSERT INTO book (id, px) SELECT id, px FROM other WHERE id < 9
DROP TABLE other
""".strip().splitlines()


def test_changes_have_the_effect_that_duckdb_gives_them(engines: dict[str, Engine]) -> None:
    columns = "id BIGINT, px DOUBLE, sym {symbol}, note TEXT, n INT, day DATE, ts TIMESTAMP"
    with duckdb.connect() as duck:
        duck.execute(f"CREATE TABLE book ({columns.format(symbol='TEXT')})")
        for engine in engines.values():
            execute(engine, f"CREATE OR REPLACE TABLE book ({columns.format(symbol='SYMBOL')})")
            execute(engine, "DROP TABLE IF EXISTS other")
        for change in CHANGES:
            duck.execute(change)
            expected = rows_of(duck.execute("SELECT * FROM book").fetchall(), ordered=False)
            for engine in engines.values():
                execute(engine, change)
                result = fetch(engine, "SELECT * FROM book")
                assert rows_of(result.rows(), ordered=False) == expected, change
                types = ["I64", "F64", "SYMBOL", "STRING", "I32", "DATE", "TIMESTAMP"]
                assert list(result.schema.values()) == types, change


def test_rows_of_equal_keys_are_replaced(engines: dict[str, Engine]) -> None:
    conflict = "ON CONFLICT (sym) DO UPDATE SET qty = excluded.qty, px = excluded.px"
    for engine in engines.values():
        execute(engine, "CREATE OR REPLACE TABLE stock (sym SYMBOL, qty BIGINT, px DOUBLE)")
        execute(engine, "INSERT INTO stock (sym, qty, px) VALUES ('A', 1, 1.5), ('B', 2, 2.5)")
        execute(engine, f"INSERT INTO stock (px, sym, qty) VALUES (9.5, 'B', 9), (7, 'C', 7) {conflict}")
        execute(engine, f"INSERT INTO stock SELECT sym, qty + 1 AS q, px FROM stock WHERE sym = 'A' {conflict}")
        expected = [("A", 2, 1.5), ("B", 9, 9.5), ("C", 7, 7.0)]
        assert rows_of(fetch(engine, "SELECT * FROM stock ORDER BY sym").rows(), ordered=True) == expected
        for refused in (
            "INSERT INTO stock (qty, sym, px) VALUES (1, 'B', 1) ON CONFLICT (qty) DO UPDATE SET px = excluded.px",
            "INSERT INTO stock (sym, qty) VALUES ('B', 1) ON CONFLICT (sym) DO UPDATE SET qty = excluded.qty",
            "INSERT INTO stock VALUES ('B', 1, 1) ON CONFLICT (sym) DO UPDATE SET qty = excluded.qty",
        ):
            with pytest.raises(RayforceError, match="domain"):
                execute(engine, refused)
        assert rows_of(fetch(engine, "SELECT * FROM stock ORDER BY sym").rows(), ordered=True) == expected


REFUSED = {
    "INSERT INTO bin VALUES (1.5, TRUE, 3, 'x')": "domain: a number does not fit its column, in the query INSERT",
    "INSERT INTO bin VALUES ('1', TRUE, 3, 'x')": "type",
    "INSERT INTO bin VALUES (1, TRUE, 70000, 'x')": "domain",
    "INSERT INTO bin SELECT a, b, a + 70000 AS c, s FROM bin": "domain",
    "INSERT INTO bin SELECT a, b, px AS c, s FROM bin": ".",
    "INSERT INTO bin SELECT a, b, c, CAST(s AS TEXT) AS s FROM bin": "type",
    "UPDATE bin SET s = CAST(s AS TEXT)": "type",
    "INSERT INTO bin VALUES (1, TRUE, 3)": "domain|length",
    "INSERT INTO bin (a, nope) VALUES (1, 2)": ".",
    "INSERT INTO bin (a, c) VALUES (1, 2)": "domain",
    "INSERT INTO nope VALUES (1)": "name",
    "UPDATE bin SET a = 'x'": "type",
    "UPDATE bin SET a = 1.5": "domain",
    "UPDATE bin SET c = 70000": "domain",
    "UPDATE bin SET c = c + 70000": "domain",
    "UPDATE bin SET a = a / 2": "domain",
    "UPDATE bin SET b = NULL": "domain",
    "UPDATE bin SET nope = 1 WHERE a = 1": ".",
    "UPDATE bin SET a = nope": ".",
    "DELETE FROM bin WHERE nope = 1": ".",
    "CREATE TABLE bin (a BIGINT)": "domain: the table bin already exists",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_value_that_cannot_be_stored_is_refused_and_changes_nothing(text: str, engines: dict[str, Engine]) -> None:
    for engine in engines.values():
        execute(engine, "CREATE OR REPLACE TABLE bin (a BIGINT, b BOOLEAN, c SMALLINT, s SYMBOL)")
        execute(engine, "INSERT INTO bin VALUES (1, TRUE, 3, 'x')")
        with pytest.raises(RayforceError, match=REFUSED[text]):
            execute(engine, text)
        result = fetch(engine, "SELECT * FROM bin")
        assert list(result.rows()) == [(1, True, 3, "x")]
        assert result.names == ("a", "b", "c", "s")


def test_tables_are_created_and_dropped(engines: dict[str, Engine]) -> None:
    for engine in engines.values():
        execute(engine, "CREATE OR REPLACE TABLE made (a BIGINT, g UUID, u UTINYINT, f F32)")
        assert list(fetch(engine, "SELECT * FROM made").schema.values()) == ["I64", "GUID", "U8", "F32"]
        execute(engine, "CREATE TABLE IF NOT EXISTS made (z BIGINT)")
        assert fetch(engine, "SELECT * FROM made").names == ("a", "g", "u", "f")
        execute(engine, "DROP TABLE made")
        with pytest.raises(RayforceError, match="name"):
            execute(engine, "DROP TABLE made")
        execute(engine, "DROP TABLE IF EXISTS made")


PARAMETERS: list[tuple[str, dict[str, Any], list[tuple[Any, ...]]]] = [
    ("SELECT id FROM trades WHERE px > :low ORDER BY id", {"low": 10.5}, [(2,), (8,)]),
    ("SELECT id FROM trades WHERE px > :px ORDER BY id", {"px": 10.5}, [(2,), (8,)]),
    ("SELECT id FROM trades WHERE id = :id", {"id": 2}, [(2,)]),
    ("SELECT id FROM trades WHERE px > :low", {"low": None}, []),
    ("SELECT id FROM trades WHERE sym = :sym AND flag = :flag", {"sym": "AAPL", "flag": True}, [(1,), (3,), (None,)]),
    ("SELECT id FROM trades WHERE note = :note", {"note": "it's"}, [(4,)]),
    ("SELECT id FROM trades WHERE note = :note", {"note": String("a*b")}, [(5,)]),
    ("SELECT id FROM trades WHERE note = :note", {"note": "a\0b"}, []),
    ("SELECT id FROM trades WHERE sym = :sym", {"sym": "AAPL\0"}, []),
    ("SELECT id FROM trades WHERE sym IN :list ORDER BY id", {"list": ["GOOG", "MSFT"]}, [(2,), (5,), (6,)]),
    ("SELECT id FROM trades WHERE note IN (:list)", {"list": ("it's", "a*b")}, [(4,), (5,)]),
    ("SELECT id FROM trades WHERE sym IN :list", {"list": ["GOOG", "x\0y"]}, [(5,)]),
    ("SELECT id FROM trades WHERE id IN :list", {"list": [1, 8, 77]}, [(1,), (8,)]),
    ("SELECT id FROM trades WHERE px IN :list", {"list": [7.75, -3.0]}, [(5,), (None,)]),
    ("SELECT id FROM trades WHERE id IN (:a, :b)", {"a": 1, "b": 2}, [(1,), (2,)]),
    ("SELECT id FROM trades WHERE id NOT IN :list", {"list": []}, [(1,), (2,), (3,), (4,), (5,), (6,), (None,), (8,)]),
    ("SELECT id FROM trades WHERE id IN :list", {"list": []}, []),
    ("SELECT id FROM trades WHERE sym NOT IN :list", {"list": ["GOOG", None]}, []),
    ("SELECT id FROM trades WHERE note LIKE :pattern", {"pattern": "%s"}, [(4,)]),
    ("SELECT id FROM trades WHERE day = :day", {"day": dt.date(2024, 2, 29)}, [(5,)]),
    ("SELECT id FROM trades WHERE day = :day", {"day": "2024-02-29"}, [(5,)]),
    ("SELECT id FROM trades WHERE ts = :ts", {"ts": MINUTE}, [(1,)]),
    ("SELECT id FROM trades WHERE id BETWEEN :a AND :b", {"a": 2, "b": 3}, [(2,), (3,)]),
    ("SELECT id FROM trades ORDER BY id DESC LIMIT :n OFFSET :m", {"n": 2, "m": 1}, [(6,), (5,)]),
    ("SELECT :x + 1 AS a, :y AS b, -:x AS c", {"x": 2, "y": "text"}, [(3, "text", -2)]),
    ("SELECT sum(px * :factor) AS a FROM trades WHERE px > :factor", {"factor": 10}, [(615.0,)]),
    ("SELECT coalesce(px, :px) AS a FROM trades WHERE id = 3", {"px": 1.5}, [(1.5,)]),
    ("SELECT a FROM :given WHERE a > 1", {"given": Table({"a": Vector([1, 2, 3], ray_type=I64)})}, [(2,), (3,)]),
    ("SELECT sum(a) AS a FROM :given", {"given": pa.table({"a": [1, 2, 3]})}, [(6,)]),
    ("SELECT id FROM trades WHERE id IN :ids", {"ids": pa.array([1, 2])}, [(1,), (2,)]),
    ("SELECT id FROM trades WHERE sym IN :syms", {"syms": symbols("GOOG", None)}, [(5,)]),
    ("SELECT id FROM trades WHERE note IN :notes", {"notes": pa.array(["it's", "a*b"])}, [(4,), (5,)]),
    ("SELECT id FROM trades WHERE sym IN :syms", {"syms": pa.array(["GOOG"])}, [(5,)]),
    ("SELECT g.a FROM trades JOIN :given g ON id = g.a", {"given": Table({"a": Vector([2], ray_type=I64)})}, [(2,)]),
]


@pytest.mark.parametrize(("text", "params", "expected"), PARAMETERS)
def test_parameters_are_values(
    text: str, params: dict[str, Any], expected: list[tuple[Any, ...]], engines: dict[str, Engine]
) -> None:
    assert sql(text).parameters == set(params)
    for engine in engines.values():
        assert list(fetch(engine, text, params).rows()) == expected


def test_parameters_in_changes(engines: dict[str, Engine]) -> None:
    for engine in engines.values():
        execute(engine, "CREATE OR REPLACE TABLE held (s SYMBOL, t TEXT, a BIGINT, d DATE)")
        insert = "INSERT INTO held VALUES (:s, :t, :a, :d), ('y', :t, NULL, NULL)"
        execute(engine, insert, {"s": "x", "t": "a\0b", "a": 1, "d": DAY})
        execute(engine, "UPDATE held SET a = :a, s = :s WHERE s = :old", {"a": 5, "s": "z", "old": "y"})
        rows = [("x", "a\0b", 1, DAY), ("z", "a\0b", 5, None)]
        assert list(fetch(engine, "SELECT * FROM held").rows()) == rows
        execute(engine, "DELETE FROM held WHERE d IS NULL OR s = :s", {"s": "none"})
        assert list(fetch(engine, "SELECT * FROM held").rows()) == rows[:1]
        with pytest.raises(RayforceError, match="domain"):  # a symbol cannot hold NUL
            execute(engine, "INSERT INTO held (s) VALUES (:s)", {"s": "a\0b"})


@pytest.mark.parametrize(
    ("text", "params", "error"),
    [
        ("SELECT :a + :b AS c", {"a": 1}, "the query uses the parameter :b, which has no value"),
        ("SELECT :a AS c", {}, "the query uses the parameter :a, which has no value"),
        ("SELECT :a AS c", {"a": 1, "d": 2}, "the query has no parameter :d; its parameters: :a"),
        ("SELECT 1 AS c", {"d": 2}, "the query has no parameter :d; its parameters: none"),
        ("SELECT id FROM trades LIMIT :n", {"n": -1}, ":n is a number of rows"),
        ("SELECT id FROM trades LIMIT :n", {"n": 1.5}, ":n is a number of rows"),
        ("SELECT id FROM trades LIMIT :n", {"n": "1"}, ":n is a number of rows"),
        ("SELECT id FROM trades WHERE id = :n", {"n": 2**63}, r"params\['n'\]"),
        ("SELECT id FROM trades WHERE id IN :n", {"n": {"a": 1}}, "IN is followed by a list"),
        ("SELECT id FROM trades WHERE note LIKE :n", {"n": 5}, "LIKE is followed by text"),
        ("SELECT id FROM trades WHERE id IN :n", {"n": 5}, "IN is followed by values"),
        ("SELECT id FROM :t", {"t": 5}, "the parameter :t is not one"),
        ("SELECT id FROM trades WHERE sym = :n", {"n": "\ud800"}, "UTF-8 cannot encode"),
    ],
)
def test_a_parameter_that_does_not_fit_is_refused_before_anything_is_sent(
    text: str, params: dict[str, Any], error: str
) -> None:
    query = sql(text)
    with pytest.raises(RayforceError, match=error):
        encode(query, MessageType.SYNC, params=params)


@pytest.mark.parametrize("value", [["println", "ran"], [1, 2], {"a": ["println", "ran"]}, pa.table({"a": [1]})])
@pytest.mark.parametrize(
    "text",
    [
        "SELECT :n AS c FROM trades",
        "SELECT :n AS c",
        "SELECT -:n AS c FROM trades",
        "SELECT id + :n AS c FROM trades",
        "SELECT upper(:n) AS c FROM trades",
        "SELECT sum(:n) AS c FROM trades",
        "SELECT coalesce(id, :n) AS c FROM trades",
        "SELECT CASE WHEN id = 1 THEN :n ELSE id END AS c FROM trades",
        "SELECT CAST(:n AS INT) AS c FROM trades",
        "SELECT id FROM trades WHERE :n",
        "SELECT id FROM trades WHERE id = :n",
        "SELECT id FROM trades WHERE id IN (1, :n)",
        "SELECT id FROM trades WHERE :n IS NULL",
        "SELECT id FROM trades ORDER BY :n",
        "SELECT count(*) AS c FROM trades GROUP BY :n",
        "UPDATE trades SET id = :n",
        "INSERT INTO trades (id) VALUES (:n)",
    ],
)
def test_a_list_is_refused_where_it_could_be_evaluated(text: str, value: Any) -> None:
    query = sql(text)
    with pytest.raises(UnsupportedQuery, match=r"^the parameter :n must be a single value here"):
        encode(query, MessageType.SYNC, params={"n": value})


UNSUPPORTED = {
    "SELECT a FROM t FULL JOIN u ON t.a = u.a": "INNER JOIN and LEFT JOIN: FULL JOIN u",
    "SELECT a FROM t RIGHT JOIN u ON t.a = u.a": "INNER JOIN and LEFT JOIN",
    "SELECT a FROM t CROSS JOIN u": "INNER JOIN and LEFT JOIN",
    "SELECT a FROM t, u": "JOIN needs ON",
    "SELECT a FROM t JOIN u ON t.a < u.a": "JOIN needs ON with an equality",
    "SELECT a FROM t JOIN u ON a = b": "qualify the columns in ON with their tables: a = b",
    "SELECT t.a FROM t LEFT JOIN u ON t.a = u.a AND t.b > 1": "ON of a LEFT JOIN supports equalities.*: t.b > 1",
    "SELECT a FROM t JOIN t ON t.a = t.a": "two tables in FROM have the name t",
    "SELECT u.a FROM t": "FROM has no table u.*: u.a",
    "SELECT a FROM t WHERE EXISTS (SELECT 1 AS x FROM u)": "not supported: EXISTS",
    "SELECT a FROM t WHERE a = (SELECT max(b) FROM u WHERE u.c = t.c)": "FROM has no table t",
    "SELECT sum(a) OVER (PARTITION BY b) FROM t": r"not supported: SUM\(a\) OVER",
    "SELECT a FROM t QUALIFY a > 1": "QUALIFY is not supported",
    "SELECT DISTINCT ON (a) b FROM t": "ON is not supported",
    "SELECT a, a FROM t": "two columns of the result have the name a",
    "SELECT a, sum(b) FROM t": "must be in GROUP BY: a",
    "SELECT a FROM t GROUP BY b": "must be in GROUP BY",
    "SELECT * FROM t GROUP BY a": "cannot be combined with aggregates",
    "SELECT sum(sum(a)) FROM t": "an aggregate cannot contain another",
    "SELECT a FROM t GROUP BY sum(a)": "GROUP BY cannot contain an aggregate",
    "SELECT a FROM t ORDER BY 2": "no column at position 2",
    "SELECT DISTINCT a FROM t ORDER BY b": "ORDER BY of SELECT DISTINCT",
    "SELECT a FROM t LIMIT a": "LIMIT and OFFSET take a whole number",
    "SELECT a FROM db.t": "a table has a name without a schema or a database: db.t",
    "SELECT a FROM t AS x(b)": "column names after a table's alias",
    "SELECT a FROM t TABLESAMPLE (10)": "not supported",
    "SELECT *": r"\* needs FROM",
    "SELECT FORM t": "a column needs FROM: FORM",
    "SELECT a FROM t EXCEPT SELECT a FROM u": "only SELECT and UNION",
    "WITH RECURSIVE c AS (SELECT 1 AS x) SELECT * FROM c": "RECURSIVE is not supported",
    "SELECT ?": r"write :name, not \?",
    "SELECT @a": "not supported: @a",
    "SELECT foo(a) FROM t": "the function foo is not supported",
    "SELECT log(a) FROM t": "write LN",
    "SELECT CAST(a AS DECIMAL) FROM t": "the type is not supported: DECIMAL",
    "SELECT DATE '2024-13-01'": "'2024-13-01' is not a date",
    "SELECT TRY_CAST(a AS INT) FROM t": "not supported",
    "SELECT date_trunc('month', a) FROM t": "DATE_TRUNC is supported for",
    "SELECT a + INTERVAL '1 month' FROM t": "an INTERVAL is",
    "SELECT a LIKE b FROM t": "LIKE is followed by text",
    "SELECT a IN (b) FROM t": "must be constants of one type",
    "SELECT a IN (1, 'x') FROM t": "must be constants of one type",
    "SELECT CASE WHEN a THEN 1 ELSE 'x' END FROM t": "constants of different types",
    "SELECT a FROM t WHERE a LIKE 'x!' ESCAPE '!'": "ends with the escape",
    "SELECT 9223372036854775808": "does not fit 64 bits",
    'SELECT "#1" FROM t': "must not be empty, begin with #",
    "INSERT INTO t (a, b) VALUES (1)": "row 1 of VALUES has 1 value instead of 2",
    "INSERT INTO t VALUES (1, 2), (1)": "row 2 of VALUES has 1 value instead of 2",
    "INSERT INTO t (a, a) VALUES (1, 2)": "named twice",
    "INSERT INTO t VALUES (1), ('x')": "must be of one type",
    "INSERT INTO t VALUES (TRUE), (NULL)": "a bool cannot be NULL",
    "INSERT INTO t VALUES (a)": "no columns can be used here: a",
    "INSERT INTO t VALUES (1) ON CONFLICT (a) DO NOTHING": "takes the key columns and DO UPDATE",
    "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING": "takes the key columns and DO UPDATE",
    "INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = b + 1": "column = excluded.column",
    "INSERT INTO t VALUES (1) RETURNING a": "RETURNING is not supported",
    "UPDATE t SET a = u.b FROM u": "FROM is not supported",
    "UPDATE t SET a = 1, a = 2": "cannot assign to a twice",
    "UPDATE t SET a = u.b": "only the columns of the table that it changes",
    "DELETE FROM t USING u": "USING is not supported",
    "CREATE TABLE t (a BIGINT PRIMARY KEY)": "CONSTRAINTS is not supported",
    "CREATE TEMPORARY TABLE t (a BIGINT)": "not supported",
    "CREATE VIEW v AS SELECT a FROM t": "CREATE is supported only as CREATE TABLE",
    "DROP VIEW v": "DROP is supported only as DROP TABLE",
    "DROP TABLE a CASCADE": "CASCADE is not supported",
    "ALTER TABLE t ADD COLUMN a BIGINT": "statements are SELECT",
    "PRAGMA x": "statements are SELECT",
    "EXPLAIN SELECT a FROM t": "statements are SELECT.*: EXPLAIN SELECT a FROM t",
    "SELECT a IS 5 FROM t": "IS is supported with NULL, TRUE and FALSE",
    "SELECT a FROM t WHERE a LIKE 'x' ESCAPE 'ab'": "ESCAPE is followed by one character",
    "SELECT ROUND(a, b) FROM t": "ROUND takes 0 to 15 places",
    "SELECT SUBSTRING(a, 0, 2) FROM t": "SUBSTRING takes a start of 1 or more",
    "SELECT EXTRACT(EPOCH FROM a) FROM t": "EXTRACT of this part is not supported",
    "SELECT log(2, a) FROM t": "only the natural logarithm is supported",
    "SELECT CASE WHEN a THEN TRUE ELSE NULL END FROM t": "between this constant and NULL has no type",
    "SELECT TIMESTAMP '2024-13-45 10:00:00'": "'2024-13-45 10:00:00' is not a timestamp",
    "SELECT TIME '25:00:00'": "'25:00:00' is not a time",
    "SELECT first(a) FILTER (WHERE b) FROM t": "FILTER is not supported for FIRST",
    "SELECT median(DISTINCT a) FROM t": "DISTINCT in an aggregate is supported for",
    "SELECT a FROM t UNION SELECT a FROM u ORDER BY 1": "takes columns' names, not positions",
    "SELECT TRIM(BOTH 'x' FROM a) FROM t": "POSITION is not supported",
    "WITH c(x) AS (SELECT a FROM t) SELECT x FROM c": "column names after a name in WITH",
    "SELECT u.* FROM t": "FROM has no table u",
    "INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = 2": "SET takes column = excluded.column",
    "SELECT a FROM t WHERE a > $1": r"a parameter is written :name, not \$1",
}


@pytest.mark.parametrize("text", UNSUPPORTED)
def test_unsupported_sql_is_an_error_at_once(text: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RayforceError, match=UNSUPPORTED[text]):
        sql(text)
    assert not caplog.records


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "one statement; it holds no statement"),
        ("-- nothing", "one statement; it holds no statement"),
        ("SELECT 1; SELECT 2", "one statement; it holds 2 statements"),
        ("SELECT (1", r"the text is not SQL: .* \(line 1, column"),
        ("SELECT 'a", "the text is not SQL"),
        ("SELECT '\ud800'", "UTF-8 cannot encode"),
        ("SELECT " + "(" * 5000 + "1" + ")" * 5000, "nested too deeply"),
    ],
)
def test_text_that_is_not_one_statement_is_an_error_at_once(text: str, error: str) -> None:
    with pytest.raises(RayforceError, match=error):
        sql(text)


def test_a_statement_may_have_comments_lines_and_a_semicolon(engines: dict[str, Engine]) -> None:
    text = "-- of today\nSELECT id /* the key */\n  FROM trades -- all\n WHERE id = 1;\n"
    assert list(fetch(engines["in process"], text).rows()) == [(1,)]
    assert str(sql(text)) == text
    assert repr(sql(text)) == "sql('-- of today SELECT id /* the key */ FROM trades -- all WHER…')"


def test_an_error_of_the_engine_quotes_the_statement(engines: dict[str, Engine]) -> None:
    with pytest.raises(RayforceError, match=r"^name: .*in the query SELECT a FROM nowhere$"):
        fetch(engines["native"], "SELECT a\nFROM nowhere")
    with pytest.raises(RayforceError, match="'nope' not found"):
        fetch(engines["in process"], "SELECT nope FROM trades")


@pytest.mark.parametrize(
    "condition", ["f > '1.5'", "'1' <> i", "i IN ('1')", "i < '2024-01-01'", "b = 'true'", "d > 'x'"]
)
def test_text_is_not_compared_with_a_column_of_another_type(condition: str, engines: dict[str, Engine]) -> None:
    d = pa.array([dt.date(2024, 1, 1)])
    for engine in engines.values():
        put(engine, "typed", pa.table({"i": [1], "f": [1.5], "b": [True], "d": d}))
        for text in (f"SELECT i FROM typed WHERE {condition}", f"DELETE FROM typed WHERE {condition}"):
            with pytest.raises(RayforceError, match="domain: text is compared with a column of another type"):
                fetch(engine, sql(text))
        assert len(fetch(engine, "SELECT i FROM typed")) == 1


def test_a_parameter_that_is_text_is_not_compared_with_a_column_of_another_type(engines: dict[str, Engine]) -> None:
    for engine in engines.values():
        put(engine, "typed", pa.table({"i": [1]}))
        with pytest.raises(RayforceError, match="domain: text is compared with a column of another type"):
            fetch(engine, sql("SELECT i FROM typed WHERE i > :low"), {"low": "0"})


def test_a_column_that_two_tables_have_needs_its_table(engines: dict[str, Engine]) -> None:
    for engine in engines.values():
        with pytest.raises(RayforceError, match=r"domain: .*a column is in two tables: qualify it with the table"):
            fetch(engine, "SELECT px FROM trades JOIN companies ON trades.sym = companies.sym")


def test_a_statement_is_text() -> None:
    with pytest.raises(UnsupportedQuery, match=r"sql\(\) takes a str, not int"):
        sql(5)  # type: ignore[arg-type]  # the wrong type is the test


def test_without_sqlglot_an_error_says_how_to_install_it() -> None:
    code = "import sys; sys.modules['sqlglot'] = None; from rayforce_trio import sql; sql('SELECT 1')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "RayforceError: SQL needs sqlglot; install it with: pip install 'rayforce-trio[sql]'" in result.stderr


def test_sqlglot_is_imported_when_a_query_is_made() -> None:
    code = "import sys; from rayforce_trio import sql; assert 'sqlglot' not in sys.modules; sql('SELECT 1')"
    subprocess.run([sys.executable, "-c", code], check=True)


SPECIAL = "a'\"\\();:-%_*?[]#` \0\nñ😀"
TEXTS = st.text(st.sampled_from(SPECIAL) | st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


def quoted_text(text: str) -> str:
    """Return a text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXTS, min_size=1, max_size=4), number=st.integers(-(2**63) + 1, 2**63 - 1))
def test_text_and_numbers_are_never_more_than_values(texts: list[str], number: int, engines: dict[str, Engine]) -> None:
    symbol = texts[0].replace("\0", "x")
    table = pa.table({"t": texts, "s": symbols(*[symbol] * len(texts)), "n": pa.array([number] * len(texts))})
    listed = ", ".join(map(quoted_text, texts))
    pattern = quoted_text(re.sub(r"([%_!])", r"!\1", texts[0]))
    for engine in engines.values():
        put(engine, "held", table)
        for text in texts:
            found = fetch(engine, f"SELECT t, {quoted_text(text)} AS x FROM held WHERE t = :p", {"p": text})
            assert set(found.rows()) == {(text, text)}
            assert set(fetch(engine, f"SELECT t FROM held WHERE t = {quoted_text(text)}").rows()) == {(text,)}
        assert len(fetch(engine, f"SELECT t FROM held WHERE t IN ({listed}) AND n = {number}")) == len(texts)
        params = {"p": texts, "n": number}
        assert len(fetch(engine, "SELECT t FROM held WHERE t IN :p AND n = :n", params)) == len(texts)
        chosen = f"s = {quoted_text(symbol)} AND s IN ({quoted_text(symbol)})"
        assert len(fetch(engine, f"SELECT t FROM held WHERE {chosen}")) == len(texts)
        assert set(fetch(engine, f"SELECT t FROM held WHERE t LIKE {pattern} ESCAPE '!'").rows()) == {(texts[0],)}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name_=TEXTS)
def test_names_are_never_more_than_names(name_: str, engines: dict[str, Engine]) -> None:
    quoted_name = '"' + name_.replace('"', '""') + '"'
    text = f"SELECT n AS {quoted_name} FROM (SELECT 1 AS n) t ORDER BY {quoted_name}"
    if "\0" in name_ or name_.startswith("#"):
        with pytest.raises(UnsupportedQuery, match="a name must not"):
            sql(text)
        return
    for engine in engines.values():
        assert fetch(engine, text).names == (name_,)
        put(engine, "held", pa.table({name_: [1, 2]}))
        assert list(fetch(engine, f"SELECT {quoted_name} + 1 AS n FROM held WHERE {quoted_name} > 1").rows()) == [(3,)]
