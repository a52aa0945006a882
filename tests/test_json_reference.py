"""The reference of `rayforce.json.v1`: its sessions are real, and its schema describes every message in them."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import trio
from support.json_peer import json_peer
from support.page_commands import ROOT, blocks_of, page_of

import rayforce_trio
from rayforce_trio import InProcessEngine, WSServer
from rayforce_trio._values._json import json_pieces

PAGE = page_of("reference/protocol.md")
SCHEMA = json.loads((ROOT / "docs" / "reference" / "rayforce.json.v1.schema.json").read_text("utf-8"))
VECTORS = Path(rayforce_trio.__file__).parent / "javascript" / "test" / "vectors.json"
LINES = [line for block in blocks_of(PAGE, "text") if block.startswith("> {") for line in block.splitlines()]
FORMS = [form for form in re.findall(r'`(\{"type": [^`]*\})`', PAGE) if "…" not in form]


def validator(part: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**SCHEMA, "anyOf": [{"$ref": f"#/$defs/{part}"}]})


CLIENT, SERVER, VALUE = validator("client"), validator("server"), validator("value")


def without_epoch(message: Any) -> Any:
    if "subscribed" in message:
        del message["subscribed"]["epoch"]
    return message


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert len(LINES) > 15
    assert len(FORMS) > 10


@pytest.mark.trio
async def test_the_sessions_are_real_and_the_schema_describes_their_messages() -> None:
    server = WSServer(port=0, host="127.0.0.1", engine=InProcessEngine())
    async with server, json_peer(server) as peer:
        for line in LINES:
            direction, text = line[:2], line[2:]
            message = json.loads(text)
            if direction == "> ":
                CLIENT.validate(message)
                await peer.send(text)
            else:
                received = await peer.receive()
                SERVER.validate(received)
                assert without_epoch(received) == without_epoch(message)


@pytest.mark.trio
async def test_every_form_of_a_value_can_be_sent_and_comes_back() -> None:
    server = WSServer(port=0, host="127.0.0.1", engine=InProcessEngine())
    async with server, json_peer(server) as peer:
        for form in FORMS:
            value = json.loads(form)
            VALUE.validate(value)
            if value["type"] != "function":
                assert (await peer.ask(query="x", params={"x": value}))["result"] == value


@pytest.mark.parametrize("integers", ["auto", "string"])
def test_the_schema_describes_every_type(integers: Any) -> None:
    for case in json.loads(VECTORS.read_text("utf-8")):
        VALUE.validate(json.loads("".join(json_pieces(bytes.fromhex(case["payload"]), integers=integers))))


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"id": 1},
        {"query": "x"},
        {"id": None, "query": "x"},
        {"id": 1, "query": 5},
        {"id": 1, "query": "x", "integers": "both"},
        {"id": 1, "query": "x", "params": []},
        {"id": 1, "query": "x", "params": {"x": {}}},
        {"id": 1, "query": "x", "params": {"x": {"type": "nonsense", "value": 1}}},
        {"id": 1, "query": "x", "cancel": 1},
        {"id": "a" * 129, "query": "x"},
        {"cancel": None},
        {"subscribe": {"id": 0, "topic": "t"}},
        {"unsubscribe": "1"},
    ],
)
@pytest.mark.trio
async def test_the_schema_and_the_server_refuse_the_same_messages(message: Any) -> None:
    assert not CLIENT.is_valid(message)
    server = WSServer(port=0, host="127.0.0.1", engine=InProcessEngine())
    with trio.fail_after(60):
        async with server, json_peer(server) as peer:
            await peer.send(message)
            answer = await peer.receive()
    SERVER.validate(answer)
    assert answer["error"]["code"] == "request"
