"""Parameters and calls, through a connection."""

from typing import Any

import anyio
import numpy
import pytest
from rayforce import I64, Column, String, Table, Vector
from support.connected import connected_to

from rayforce_trio import VerboseResult, WSClientConnection, errors

INJECTION = '(println "ran") (set injected 1)'


async def columns(connection: WSClientConnection, query: Any, params: dict[str, Any]) -> dict[str, list[Any]]:
    return (await connection.fetch(query, params)).to_dict()


@pytest.mark.anyio
async def test_every_call_that_takes_a_query_takes_parameters(in_process_port: int, name: str) -> None:
    async with connected_to(in_process_port) as connection:
        assert (await connection.execute("(+ x y)", {"x": 1, "y": 2})).to_python() == 3
        assert await columns(connection, "(+ x [1 2])", {"x": 1}) == {"value": [2, 3]}
        result = await connection.execute_verbose("(do (println x) (+ x 1))", {"x": 1})
        assert (result.output, result.value.to_python()) == ("1\n", 2)
        await connection.post(f"(set {name} x)", {"x": 7})
        assert (await connection.execute(name)).to_python() == 7


@pytest.mark.anyio
async def test_parameters_end_with_the_query(our_port: int, name: str) -> None:
    async with connected_to(our_port) as connection:
        assert (await connection.execute(name, {name: 1})).to_python() == 1
        with pytest.raises(errors.RayforceUserError, match="name"):
            await connection.execute(name)


@pytest.mark.anyio
async def test_parameters_are_used_in_text_and_in_query_objects(our_port: int, name: str) -> None:
    async with connected_to(our_port) as connection:
        await connection.execute(f"(set {name} (table [sym px] (list [a b c] [1.0 2.0 3.0])))")
        text = f"(select {{from: {name} where: (and (> px low) (in sym syms))}})"
        assert await columns(connection, text, {"low": 1.5, "syms": ["b", "x"]}) == {"sym": ["b"], "px": [2.0]}
        price: Any = Column("px")  # rayforce-py does not declare its operators
        query = Table(name).select("sym").where(price > Column("low"))
        assert await columns(connection, query, {"low": 1.5}) == {"sym": ["b", "c"]}


@pytest.mark.anyio
async def test_a_value_is_never_evaluated(our_port: int) -> None:
    async with connected_to(our_port) as connection:
        for value in (INJECTION, String(INJECTION), ["println", INJECTION], [["set", "injected", 1]]):
            result = await connection.execute_verbose("(do x (type x))", {"x": value})
            assert isinstance(result, VerboseResult)
            assert (result.output, result.error) == ("", None)
        with pytest.raises(errors.RayforceUserError, match="name"):
            await connection.execute("injected")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"x": "a\0b"}, errors.RayforceConversionError, r"params\['x'\]"),
        ({"x": 2**63}, errors.RayforceConversionError, r"params\['x'\]"),
        ({"x": object()}, errors.RayforceConversionError, r"params\['x'\]"),
        ({"a b": 1}, errors.RayforceValueError, "'a b'"),
        ({"let": 1}, errors.RayforceValueError, "'let'"),
        (["x"], errors.RayforceValueError, "Must be a dict of names"),
        (numpy.arange(2), errors.RayforceValueError, "Must be a dict of names"),
    ],
)
async def test_wrong_parameters_are_refused_before_anything_is_sent(
    in_process_port: int, params: Any, error: type[Exception], message: str
) -> None:
    async with connected_to(in_process_port) as connection:
        for method in (connection.execute, connection.fetch, connection.post, connection.execute_verbose):
            with pytest.raises(error, match=message):
                await method("(set sent_anyway 1)", params)
        with pytest.raises(errors.RayforceUserError, match="name"):
            await connection.execute("sent_anyway")


@pytest.mark.anyio
async def test_a_function_is_called_by_its_name_or_text(our_port: int, name: str) -> None:
    async with connected_to(our_port) as connection:
        await connection.execute(f"(set {name} (fn [x y] (+ x y)))")
        assert (await connection.call(name, 1, 2)).to_python() == 3
        assert (await connection.call("(fn [x y] (- x y))", 1, 2)).to_python() == -1
        assert (await connection.call("count", Vector([1, 2, 3], ray_type=I64))).to_python() == 3
        assert (await connection.call("type", ["println", INJECTION])).to_python() == "SYM"


@pytest.mark.anyio
async def test_an_error_of_a_call_shows_the_call(our_port: int) -> None:
    async with connected_to(our_port) as connection:
        with pytest.raises(errors.RayforceTypeError):
            await connection.call("+", 1, "a")
        with pytest.raises(errors.RayforceUserError, match="no_such_function"):
            await connection.call("no_such_function", 1)
        with pytest.raises(errors.RayforceValueError, match="Must be the name of a function or a lambda"):
            await connection.call("a b")
        with pytest.raises(errors.RayforceConversionError, match="argument 2 of count"):
            await connection.call("count", 1, object())


@pytest.mark.anyio
async def test_a_cancelled_call_leaves_the_connection_in_step(in_process_port: int) -> None:
    async with connected_to(in_process_port) as connection:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await connection.call("count", [1, 2])
        assert scope.cancelled_caught
        assert (await connection.call("count", [1, 2, 3])).to_python() == 3
