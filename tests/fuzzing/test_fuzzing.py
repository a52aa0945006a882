"""Some thousand inputs at every test run, and whether the fuzzers find what is wrong."""

from random import Random
from struct import Struct
from types import ModuleType

import pytest

from fuzzing import frames
from fuzzing.__main__ import finds
from fuzzing.receiving import cut
from fuzzing.targets import TARGETS
from rayforce_trio._protocol import _control
from rayforce_trio._values import _reader
from rayforce_trio._websocket import _frames, _http_heads, _opening_request, _opening_response
from rayforce_trio._websocket import _reader as frame_reader
from rayforce_trio._websocket._frames import Opcode

_SEED = 6455


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("announcing", 500),
        ("columns", 1500),
        ("messages", 3000),
        ("opening", 1500),
        ("proxying", 3000),
        ("receiving", 1500),
        ("sending", 200),
    ],
)
def test_nothing_is_found(name: str, count: int) -> None:
    assert [found.hex() for found in finds(TARGETS[name], _SEED, count) if isinstance(found, bytes)] == []


@pytest.mark.parametrize(
    ("module", "attribute", "wrong"),
    [
        (frame_reader, "RESERVED", 0x60),
        (frame_reader, "CONTROL_LIMIT", 124),
        (frame_reader, "CONTROL_LIMIT", 126),
        (_frames, "_CLOSE_CODES", frozenset(range(1000, 5000))),
        (frame_reader, "LENGTH_16", 125),
        (frame_reader, "OPCODES", {**_frames.OPCODES, 3: Opcode.BINARY}),
    ],
)
def test_a_rule_got_wrong_is_found(
    module: ModuleType, attribute: str, wrong: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, attribute, wrong)
    assert any(isinstance(found, bytes) for found in finds(TARGETS["receiving"], _SEED, 3000))


@pytest.mark.parametrize(
    ("module", "attribute", "wrong"),
    [
        (_http_heads, "_TEXT", bytes(range(256))),
        (_opening_request, "_check_upgrade", lambda *_: None),
        (_opening_response, "generate_accept_token", lambda key: key),
    ],
)
def test_a_rule_of_the_opening_got_wrong_is_found(
    module: ModuleType, attribute: str, wrong: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, attribute, wrong)
    assert any(isinstance(found, bytes) for found in finds(TARGETS["opening"], _SEED, 3000))


@pytest.mark.parametrize(("attribute", "wrong"), [("_NULL_ATOM", 2), ("_LENGTH", Struct(">q")), ("LENGTH_SIZE", 9)])
def test_a_wrong_layout_of_columns_is_found(attribute: str, wrong: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_reader, attribute, wrong)
    assert any(isinstance(found, bytes) for found in finds(TARGETS["columns"], _SEED, 1000))


def test_an_exception_that_is_not_of_the_protocol_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(value: object) -> int:
        return int(str(value))

    monkeypatch.setattr(_control, "_number", fail)
    assert any(isinstance(found, bytes) for found in finds(TARGETS["messages"], _SEED, 3000))


def test_the_same_seed_makes_the_same_inputs() -> None:
    for target in TARGETS.values():
        one, other = Random(_SEED), Random(_SEED)
        assert [target.make(one) for _ in range(20)] == [target.make(other) for _ in range(20)]


@pytest.mark.parametrize("seed", range(20))
def test_what_is_cut_stays_the_same_together(seed: int) -> None:
    data = Random(seed).randbytes(300)
    assert b"".join(cut(data, seed)) == data


def test_a_frame_of_the_fuzzers_is_that_of_the_standard() -> None:
    """The examples of RFC 6455, section 5.7."""
    assert frames.frame(frames.TEXT, b"Hello") == bytes.fromhex("810548656c6c6f")
    assert frames.frame(frames.TEXT, b"Hello", key=bytes.fromhex("37fa213d")) == bytes.fromhex("818537fa213d7f9f4d5158")
    assert frames.frame(frames.TEXT, b"Hel", fin=False) == bytes.fromhex("010348656c")
    assert frames.frame(frames.BINARY, bytes(256))[:4] == bytes.fromhex("827e0100")
    assert frames.frame(frames.BINARY, bytes(65536))[:10] == bytes.fromhex("827f0000000000010000")
