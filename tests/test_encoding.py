"""Parameters, calls of functions, and the text of queries in errors."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from rayforce import I64, Column, Expression, List, Operation, String, Symbol, Table, Vector, eval_str
from support.native import native_server
from support.native_client import NativeClient, native_client

from rayforce_trio._codec import Call, decode, describe, encode, encode_call, engine_error, evaluate, payload_of_object
from rayforce_trio._codec._errors import WORDS
from rayforce_trio._protocol import Failure, MessageType, Reply, Result
from rayforce_trio.errors import (
    RayforceConversionError,
    RayforceDomainError,
    RayforceError,
    RayforceUserError,
    RayforceValueError,
)

Ask = Callable[[bytes], Reply]


ABOVE_LOW = Expression(Operation.GREATER_THAN, Column("x"), Column("low"))


def numbers() -> Table:
    return Table({"x": Vector([1, 2, 3], ray_type=I64)})


@pytest.fixture(scope="module")
def native() -> Iterator[NativeClient]:
    with native_server() as server, native_client(server.port) as client:
        yield client


@pytest.fixture(scope="module", params=["in-process", "native", "read-only"])
def ask(request: pytest.FixtureRequest) -> Iterator[Ask]:
    """Each engine; the read-only one refuses what changes anything."""
    if request.param == "in-process":
        yield evaluate
        return
    options = ["-U", "secret"] if request.param == "read-only" else []
    with native_server(*options) as server, native_client(server.port, "secret" if options else "") as client:
        yield lambda frame: client.request(frame)[0]


def answer(ask: Ask, query: Any, params: Mapping[str, Any] | None = None) -> Any:
    return decode(ask(encode(query, MessageType.SYNC, params=params)), query)


# Parameters


@pytest.mark.parametrize(
    ("query", "params", "value"),
    [
        ("(+ low high)", {"low": 1, "high": 2.5}, 3.5),
        ("low", {"low": None}, None),
        ("low", {"low": ["til", 3]}, ["til", 3]),
        ("low", {"low": {"from": ["println", "x"]}}, {"from": ["println", "x"]}),
        ("low", {"low": "println"}, "println"),
        ("low", {"low": String("a\0b")}, "a\0b"),
        ("(in 'b syms)", {"syms": ["a", "b"]}, True),
        ("(count (select {from: rows where: (> x low)}))", {"rows": numbers(), "low": 1}, 2),
        ("(map (fn [x] (+ x low)) [1 2])", {"low": 1}, [2, 3]),
        ("1 2", {"unused": 1}, 2),
        (String("(+ low 1)"), {"low": 1}, 2),
        (Expression(Operation.ADD, Column("low"), 1), {"low": 1}, 2),
        (List([Operation.ADD, 1, 2]), {"low": 1}, 3),
        (numbers().select("x").where(ABOVE_LOW), {"low": 2}, {"x": [3]}),
        ("(+ 1 2)", {}, 3),
        ("(sum (list " + " ".join(f"p{number}" for number in range(60)) + "))", {f"p{n}": n for n in range(60)}, 1770),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_query_uses_the_names_of_its_parameters(ask: Ask, query: Any, params: Any, value: Any) -> None:
    result = answer(ask, query, params)
    if isinstance(result, Table):
        assert result.to_dict() == value
    else:
        assert (result if result is None else result.to_python()) == value


def test_a_parameter_ends_with_its_query(ask: Ask) -> None:
    assert answer(ask, "(+ ended 1)", {"ended": 1}) == 2
    with pytest.raises(RayforceUserError, match=r"^name: "):
        answer(ask, "(+ ended 1)")


def test_an_error_with_parameters_quotes_the_query(native: NativeClient) -> None:
    query = "(cuont prices)"
    reply = native.request(encode(query, MessageType.SYNC, params={"low": 1}))[0]
    with pytest.raises(RayforceUserError, match=r"^name: undefined name, in the query \(cuont prices\)$"):
        decode(reply, query)


def test_an_error_for_text_that_looks_like_sql_says_how_to_send_sql(ask: Ask) -> None:
    with pytest.raises(
        RayforceUserError, match=r"^name: .*; to send SQL, use sql\(text\), or --sql on the command line$"
    ):
        answer(ask, "SELECT sym FROM prices")
    with pytest.raises(RayforceUserError, match=r"^name: (?!.*SQL)"):
        answer(ask, "(selected prices)")


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ([1], r"^Invalid params: list\. Must be a dict of names and values$"),
        ("low", r"^Invalid params: str\. Must be a dict of names and values$"),
        ([], r"^Invalid params: list\. Must be a dict of names and values$"),
        (
            {1: 2},
            r"^params: 1 cannot be the name of a parameter; use letters, digits and underscores, not ",
        ),
        ({"a b": 2}, r"^params: 'a b' cannot be the name of a parameter; "),
        ({"a\0b": 2}, r"^params: 'a\\x00b' cannot be the name of a parameter; "),
        ({"a\n": 2}, r"^params: 'a\\n' cannot be the name of a parameter; "),
        ({"": 2}, r"^params: '' cannot be the name of a parameter; "),
        ({"é": 2}, r"^params: 'é' cannot be the name of a parameter; "),
        ({"let": 2}, r"^params: 'let' cannot be the name of a parameter, because Rayfall uses it itself$"),
        ({"quote": 2}, r"^params: 'quote' cannot be the name of a parameter, because "),
        ({"null": 2}, r"^params: 'null' cannot be the name of a parameter, because "),
    ],
    ids=repr,
)
@pytest.mark.parametrize("query", ["low", Expression(Operation.ADD, 1, 2)], ids=["text", "object"])
def test_a_name_that_cannot_be_used_is_refused(query: Any, params: Any, text: str) -> None:
    with pytest.raises(RayforceValueError, match=text):
        encode(query, MessageType.SYNC, params=params)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (object(), r"^params\['low'\]: the engine has no type for an object; "),
        ([1, {"a": [2, 2**63]}], r"^params\['low'\]\[1\]\['a'\]\[1\]: "),
        (Symbol("a\0b"), r"^params\['low'\]: the symbol 'a\\x00b' contains NUL, "),
        (Vector(["x", "a\0b"], ray_type=Symbol), r"^params\['low'\]: the symbol 'a\\x00b' contains NUL, "),
        (List([1, List(["a\0b"])]), r"^params\['low'\]: the symbol 'a\\x00b' contains NUL, "),
        (
            Table({"a": Vector(["x", "a\0b"], ray_type=Symbol)}),
            r"^params\['low'\]: the symbol 'a\\x00b' contains NUL, ",
        ),
        (Table({"a\0b": Vector([1], ray_type=I64)}), r"^params\['low'\]: the symbol 'a\\x00b' contains NUL, "),
        ([Symbol("a\0b")], r"^params\['low'\]: the symbol 'a\\x00b' contains NUL, "),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_value_that_cannot_be_sent_is_refused_with_its_place(value: Any, text: str) -> None:
    with pytest.raises(RayforceConversionError, match=text):
        encode("low", MessageType.SYNC, params={"low": value})


def test_a_name_in_an_object_of_rayforce_is_data_as_a_parameter(ask: Ask) -> None:
    unquoted = eval_str('(first (parse "(canary 1)"))')
    assert answer(ask, "low", {"low": unquoted}) == "canary"


# Calls


@pytest.mark.parametrize(
    ("function", "arguments", "value"),
    [
        ("+", [1, 2], 3),
        ("count", [[1, 2, 3]], 3),
        ("(fn [x y] (+ x y))", [1, 2.5], 3.5),
        ("  (fn [x] x)", [["println", "x"]], ["println", "x"]),
        ("(fn [] 7)", [], 7),
        ("list", [*range(64)], [*range(64)]),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_function_of_the_server_is_called(ask: Ask, function: str, arguments: list[Any], value: Any) -> None:
    assert answer(ask, encode_call(function, arguments)).to_python() == value


@pytest.mark.parametrize(
    ("function", "arguments", "text"),
    [
        (7, [], r"^Invalid function: int\. Must be the name of a function"),
        ("", [], r"^Invalid function: ''\. Must be the name of a function or a lambda '\(fn \[x\] …\)'$"),
        ("a b", [], r"^Invalid function: 'a b'\. Must be the name "),
        ("a\0b", [], r"^Invalid function: 'a\\x00b'\. Must be the name "),
        ('"', [], r"^Invalid function: '\"'\. Must be the name "),
        ("upd", [*range(65)], r"^upd: 65 arguments; the engine accepts at most 64; pass a list instead$"),
        ("upd", [1, object()], r"^argument 2 of upd: the engine has no type for an object; "),
    ],
    ids=lambda value: str(value)[:10],
)
def test_a_call_that_cannot_be_made_is_refused(function: Any, arguments: list[Any], text: str) -> None:
    with pytest.raises(RayforceError, match=text):
        encode_call(function, arguments)


# The text of queries


LIKE_A = Expression(Operation.LIKE, Column("sym"), "a*")


@pytest.mark.parametrize(
    ("query", "text"),
    [
        (Table("prices").select("id").where(LIKE_A), '(select {id: id from: prices where: (like sym "a*")})'),
        (Table("prices").insert(1, ["til", 3]), "(insert 'prices '(table [column_0 column_1] ((1) (('til 3)))))"),
        (Table("prices").insert(id=[1, 2], px=[0.5, None]), "(insert 'prices '(table [id px] ([1 2] [0.5 0Nf])))"),
        (Table("prices").insert(1, "a"), "(insert 'prices '(1 'a))"),
        (Table("prices").update(px=1.5), "(update {px: 1.5 from: 'prices})"),
        (Call("upd", ["trades", [1, 2]]), "(upd 'trades [1 2])"),
        (Call("(fn [x] x)", [None]), '((eval (parse "(fn [x] x)")) null)'),
        (object(), "(object)"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_query_object_is_described_as_what_it_compiles_to(query: Any, text: str) -> None:
    assert describe(query) == text


@pytest.mark.parametrize("code", WORDS)
def test_every_code_is_explained_in_words(code: str) -> None:
    message = str(engine_error(Failure(code, ""), "(f 1)"))
    assert message == f"{code}: {WORDS[code]}, in the query (f 1)"


def test_a_code_without_words_stands_with_the_query_alone() -> None:
    assert str(engine_error(Failure("unheard", ""), "(f 1)")) == "unheard: in the query (f 1)"


# Symbols with NUL in results


@pytest.mark.parametrize(
    "source",
    [
        "(as 'SYMBOL text)",
        "(list 1 (as 'SYMBOL text))",
        "(table ['a] (list (as 'SYMBOL (enlist text))))",
        "(dict (as 'SYMBOL (enlist text)) [1])",
        "(dict ['a] (list (list (as 'SYMBOL text))))",
        "(as 'SYMBOL (enlist text))",
        "(table (concat ['n 'm] (as 'SYMBOL (enlist \"é\"))) (list [1] (as 'SYMBOL (enlist text)) [1.5]))",
        "(table ['a 'b] (list (as 'SYMBOL (enlist text)) ['x]))",
        "(table ['a 'b] (list ['x] (enlist (as 'SYMBOL text))))",
        "(table (as 'SYMBOL (list text \"b\")) (list [1] ['x]))",
        "(concat (map (fn [x] (til x)) (til 100)) (list (as 'SYMBOL text)))",
        "(concat (map (fn [x] (til x)) (til 100)) (list (list (as 'SYMBOL text))))",
    ],
)
def test_a_result_with_a_symbol_that_contains_nul_is_an_error(source: str) -> None:
    with pytest.raises(RayforceDomainError, match=r"^domain: the symbol 'a\\x00b' in the result contains NUL"):
        answer(evaluate, source, {"text": String("a\0b")})
    assert answer(evaluate, source, {"text": String("ab")}) is not None


def test_an_object_of_rayforce_becomes_the_payload_that_rayforce_makes() -> None:
    assert payload_of_object(I64(3)) == b"\xfb\0\3\0\0\0\0\0\0\0"
    assert payload_of_object(3) is None
    with pytest.raises(RayforceConversionError, match=r"^Table\('prices'\) names a table of the server"):
        payload_of_object(Table("prices"))
    assert isinstance(evaluate(encode("(til 3)", MessageType.SYNC)), Result)
