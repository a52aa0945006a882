"""Masking, compared with the definition in RFC 6455, section 5.3."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cutting import cut

from rayforce_trio._websocket._masking import _SMALL, TILE_SIZE, Masker, mask

fifty_examples = settings(max_examples=50)

keys = st.binary(min_size=4, max_size=4)
edges = [edge + step for edge in (0, 4, _SMALL, TILE_SIZE, 2 * TILE_SIZE) for step in range(-5, 6) if edge + step >= 0]
payloads = st.binary(max_size=100) | st.builds(
    lambda size, seed: random.Random(seed).randbytes(size),
    st.sampled_from(edges) | st.integers(0, 3 * TILE_SIZE),
    st.integers(0, 1000),
)


def by_definition(data: bytes, key: bytes) -> bytes:
    """Octet i of the result is octet i of the data, XOR octet i modulo 4 of the key."""
    return bytes(octet ^ key[i % 4] for i, octet in enumerate(data))


def test_the_masked_hello_of_the_rfc() -> None:
    assert mask(b"Hello", bytes.fromhex("37fa213d")) == bytes.fromhex("7f9f4d5158")


@fifty_examples
@given(payloads, keys)
def test_data_is_masked_as_the_rfc_says(data: bytes, key: bytes) -> None:
    assert mask(data, key) == by_definition(data, key)


@pytest.mark.parametrize("size", edges)
def test_data_of_any_size_is_masked_as_the_rfc_says(size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert mask(data, b"\x01\x80\0\xff") == by_definition(data, b"\x01\x80\0\xff")


@fifty_examples
@given(payloads, keys)
def test_masking_twice_restores_the_data(data: bytes, key: bytes) -> None:
    assert mask(mask(data, key), key) == data


@fifty_examples
@given(payloads, keys)
def test_a_view_is_masked_like_bytes_and_does_not_change(data: bytes, key: bytes) -> None:
    source = bytearray(data)
    masked = mask(memoryview(source), key)
    assert type(masked) is bytes
    assert masked == mask(data, key)
    assert source == data


@fifty_examples
@given(st.data(), payloads, keys)
def test_pieces_are_masked_in_place_like_the_whole(draw: st.DataObject, data: bytes, key: bytes) -> None:
    masker = Masker(key)
    masked = []
    for piece in draw.draw(cut(data)):
        place = bytearray(piece)
        masker.mask_in_place(memoryview(place))
        masked.append(place)
    assert b"".join(masked) == by_definition(data, key)


@fifty_examples
@given(st.data(), payloads, keys)
def test_pieces_are_masked_into_a_target_like_the_whole(draw: st.DataObject, data: bytes, key: bytes) -> None:
    """Neither the source nor the rest of the target changes."""
    masker = Masker(key)
    masked = []
    for piece in draw.draw(cut(data)):
        target = bytearray(len(piece) + 3)
        source = bytes(piece)
        masker.mask_into(memoryview(target), memoryview(source))
        assert source == piece
        assert target[len(piece) :] == bytes(3)
        masked.append(target[: len(piece)])
    assert b"".join(masked) == by_definition(data, key)


@fifty_examples
@given(payloads, keys, st.integers(0, 3))
def test_only_a_part_of_a_buffer_is_masked(data: bytes, key: bytes, before: int) -> None:
    buffer = bytearray(b"<<<"[:before] + data + b">>>")
    Masker(key).mask_in_place(memoryview(buffer)[before : before + len(data)])
    assert buffer == b"<<<"[:before] + by_definition(data, key) + b">>>"
