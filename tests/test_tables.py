"""`tables` and `schema`, through a connection."""

from typing import Any

import pytest
from support.connected import connected_to

from rayforce_trio import errors


@pytest.mark.anyio
async def test_the_tables_of_a_server(our_port: int, name: str) -> None:
    async with connected_to(our_port) as connection:
        before = set(await connection.tables())
        await connection.execute(f"(do (set {name}_b (table [a] (list [1]))) (set {name}_a (table [a] (list [1]))))")
        await connection.execute(f"(do (set {name}_vector [1 2]) (set {name}_dict (dict [a] (list [1]))))")
        after = await connection.tables()
        assert set(after) - before == {f"{name}_a", f"{name}_b"}
        assert after == sorted(after)


@pytest.mark.anyio
async def test_the_schema_of_a_table(our_port: int, name: str) -> None:
    async with connected_to(our_port) as connection:
        await connection.execute(f'(set {name} (table [sym px n s] (list [a b] [1.5 2.5] [1 2] (list "x" "yz"))))')
        assert await connection.schema(name) == {"sym": "SYMBOL", "px": "F64", "n": "I64", "s": "STRING"}
        await connection.execute(f"(set {name} (take {name} 0))")
        assert await connection.schema(name) == {"sym": "SYMBOL", "px": "F64", "n": "I64", "s": "STRING"}


@pytest.mark.anyio
async def test_a_name_is_only_a_name(our_port: int) -> None:
    """The name is looked up unchanged; nothing in it is evaluated."""
    async with connected_to(our_port) as connection:
        with pytest.raises(errors.RayforceValueError, match="the server has no such table"):
            await connection.schema("(set hacked 1)")
        with pytest.raises(errors.RayforceUserError, match="name"):
            await connection.execute("hacked")


@pytest.mark.anyio
async def test_the_schema_of_another_value_is_an_error(our_port: int, name: str) -> None:
    async with connected_to(our_port) as connection:
        with pytest.raises(errors.RayforceValueError, match=f"^table '{name}': the server has no such table$"):
            await connection.schema(name)
        await connection.execute(f"(set {name} (dict [a] (list [1])))")
        with pytest.raises(
            errors.RayforceValueError, match=f"^table '{name}': it is a value of type DICT, not a table$"
        ):
            await connection.schema(name)


@pytest.mark.anyio
@pytest.mark.parametrize("table", ["", "a\0b", "a\nb", "\ud800", 5, None, b"t"])
async def test_an_invalid_name_is_refused_before_anything_is_sent(in_process_port: int, table: Any) -> None:
    async with connected_to(in_process_port) as connection:
        with pytest.raises(errors.RayforceValueError, match="Invalid table"):
            await connection.schema(table)


@pytest.mark.anyio
async def test_with_a_baseline_server(their_port: int, name: str) -> None:
    async with connected_to(their_port) as connection:
        await connection.execute(f"(set {name} (table [a] (list [1])))")
        assert name in await connection.tables()
        assert await connection.schema(name) == {"a": "I64"}
        with pytest.raises(errors.RayforceValueError, match="no such table"):
            await connection.schema("no_such_table")
