"""Compressed frames to plain ones: those of a real server, recorded as `support.recorded` says, and any others."""

import struct
from contextlib import suppress
from itertools import groupby, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cutting import cut
from support.recorded import RECORDED, RECORDED_VERBOSE, Recorded

from rayforce_trio._codec import SIZE_BYTES, Decompressor
from rayforce_trio._protocol import HEADER_SIZE, FrameError, Header, MessageType, parse_frame

Run = tuple[int, bytes]
"""A control byte and what follows it: one byte to repeat, or so many bytes as its negative."""

each_recorded = pytest.mark.parametrize("recorded", [*RECORDED, RECORDED_VERBOSE], ids=str)


def plain_of(payload: bytes, pieces: list[bytes] | None = None) -> bytes:
    """Decompress a payload, fed at once or in these pieces, which follow its size."""
    decompressor = Decompressor(Header(1, MessageType.RESPONSE, len(payload)), payload[:SIZE_BYTES])
    announced = decompressor.left
    plain = b""
    for piece in [payload[SIZE_BYTES:]] if pieces is None else pieces:
        plain += decompressor.feed(piece)
        assert len(plain) + decompressor.left == announced
        assert decompressor.left >= 0
    return plain


def packed(runs: list[Run], *, size: int | None = None) -> bytes:
    """Return a payload of these runs; `size` is what it announces, if not what they make."""
    announced = len(expanded(runs)) if size is None else size
    return struct.pack("<I", announced) + b"".join(struct.pack("b", control) + data for control, data in runs)


def expanded(runs: list[Run]) -> bytes:
    """Return what these runs make, slowly."""
    plain, last = bytearray(), 0
    for control, data in runs:
        for difference in data * max(control, 1):
            last = (last + difference) % 256
            plain.append(last)
    return bytes(plain)


def compressed(plain: bytes) -> list[Run]:
    """Return runs that make `plain`: repetitions of three bytes and more, literals for the rest."""
    runs: list[Run] = []
    for difference, group in groupby((after - before) % 256 for before, after in pairwise(b"\0" + plain)):
        count = len(list(group))
        for start in range(0, count, 127):
            length = min(127, count - start)
            data = bytes([difference])
            if length >= 3:
                runs.append((length, data))
            elif runs and runs[-1][0] <= 0 and length - runs[-1][0] <= 128:
                runs[-1] = (runs[-1][0] - length, runs[-1][1] + data * length)
            else:
                runs.append((-length, data * length))
    return runs


repeats = st.tuples(st.integers(1, 127), st.binary(min_size=1, max_size=1))
literals = st.binary(max_size=128).map(lambda data: (-len(data), data))
some_runs = st.lists(repeats | literals, min_size=1).filter(lambda runs: runs[-1][1])


# What a server sends


@each_recorded
def test_a_frame_of_a_server_is_what_the_engine_replies_in_process(recorded: Recorded) -> None:
    header = parse_frame(recorded.frame)
    assert header.compressed
    decompressor = Decompressor(header, recorded.frame[HEADER_SIZE : HEADER_SIZE + SIZE_BYTES])
    plain_header = decompressor.header
    plain = decompressor.feed(recorded.frame[HEADER_SIZE + SIZE_BYTES :])
    assert plain_header.pack() + plain == recorded.plain
    assert decompressor.left == 0


@each_recorded
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_frame_of_a_server_may_arrive_in_pieces_of_any_size(recorded: Recorded, size: int) -> None:
    payload = recorded.frame[HEADER_SIZE:]
    pieces = [payload[start : start + size] for start in range(SIZE_BYTES, len(payload), size)]
    assert plain_of(payload, pieces) == recorded.plain[HEADER_SIZE:]


# What a server could send


@given(st.data())
def test_any_runs_cut_anywhere_make_what_they_stand_for(data: st.DataObject) -> None:
    runs = data.draw(some_runs)
    payload = packed(runs)
    assert plain_of(payload, data.draw(cut(payload[SIZE_BYTES:]))) == expanded(runs)


@given(st.binary(min_size=1) | st.lists(st.sampled_from([b"\0", b"\1", b"ab"]), min_size=1, max_size=500).map(b"".join))
def test_what_was_compressed_is_decompressed(plain: bytes) -> None:
    assert plain_of(packed(compressed(plain), size=len(plain))) == plain


@pytest.mark.parametrize("piece", [4099, 64 * 1024, 10**9])
@pytest.mark.parametrize("alike", [0.0, 0.5, 0.99])
def test_a_long_frame_is_decompressed(alike: float, piece: int) -> None:
    """Long enough for runs that lie across whatever is worked on at once; `alike`: how much of it repeats."""
    random = np.random.default_rng(piece)
    steps = random.integers(0, 256, 200_000, np.uint8) * (random.random(200_000) >= alike)
    plain = bytes(np.cumsum(steps, dtype=np.uint8))
    payload = packed(compressed(plain), size=len(plain))
    pieces = [payload[start : start + piece] for start in range(SIZE_BYTES, len(payload), piece)]
    assert plain_of(payload, pieces) == plain


@pytest.mark.parametrize("message_type", MessageType)
def test_the_plain_frame_is_of_the_same_type_and_not_compressed(message_type: MessageType) -> None:
    decompressor = Decompressor(Header(1 | 4, message_type, 10), struct.pack("<I", 2**32 - 1) + b"more")
    assert decompressor.header == Header(0, message_type, 2**32 - 1)
    assert decompressor.left == 2**32 - 1


# Damage


@pytest.mark.parametrize("length", range(1, SIZE_BYTES))
def test_a_payload_too_short_to_tell_its_size_is_refused(length: int) -> None:
    with pytest.raises(FrameError):
        plain_of(bytes(length))


@pytest.mark.parametrize("rest", [b"", b"\0", b"\2a"])
def test_a_payload_that_announces_nothing_is_refused(rest: bytes) -> None:
    with pytest.raises(FrameError):
        plain_of(bytes(SIZE_BYTES) + rest)


@given(st.data())
def test_a_payload_that_ends_too_early_is_refused(data: st.DataObject) -> None:
    payload = packed(data.draw(some_runs))
    payload = payload[: data.draw(st.integers(SIZE_BYTES, len(payload) - 1))]
    with pytest.raises(FrameError, match=r"^a compressed frame ends too early$"):
        plain_of(payload, data.draw(cut(payload[SIZE_BYTES:])))


@given(st.data())
def test_a_payload_of_less_than_it_announces_is_refused(data: st.DataObject) -> None:
    runs = data.draw(some_runs)
    payload = packed(runs, size=len(expanded(runs)) + data.draw(st.integers(1, 2**31)))
    with pytest.raises(FrameError, match=r"^a compressed frame ends too early$"):
        plain_of(payload, data.draw(cut(payload[SIZE_BYTES:])))


@given(st.data())
def test_a_payload_of_more_than_it_announces_is_refused(data: st.DataObject) -> None:
    runs = data.draw(some_runs)
    size = len(expanded(runs))
    payload = packed(runs, size=size - data.draw(st.integers(1, size)))
    with pytest.raises(FrameError):
        plain_of(payload, data.draw(cut(payload[SIZE_BYTES:])))


@pytest.mark.parametrize("rest", [(1, b"a"), (-1, b"a"), (0, b"")], ids=["repeat", "literal", "nothing"])
def test_a_payload_that_goes_on_after_all_it_announced_is_refused(rest: Run) -> None:
    """And so before the rest has arrived: nobody would ask for that, and it would be taken for the next reply."""
    payload = packed([(127, b"a"), rest], size=127)
    with pytest.raises(FrameError):
        plain_of(payload, [payload[SIZE_BYTES : SIZE_BYTES + 2]])


@pytest.mark.parametrize("rest", [b"\2", b"\xff", b"\x80" + bytes(127)], ids=["repeat", "literal", "long literal"])
def test_a_payload_that_ends_within_a_run_is_refused_though_it_holds_all_it_announced(rest: bytes) -> None:
    with pytest.raises(FrameError):
        plain_of(packed([(127, b"a")]) + rest)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good payload, changed here and there, perhaps cut or with something after it."""
    good = draw(st.sampled_from(RECORDED).map(lambda one: one.frame[HEADER_SIZE:]) | some_runs.map(packed))
    payload = bytearray(good)
    for offset, byte in draw(st.lists(st.tuples(st.integers(0, len(payload) - 1), st.integers(0, 255)), max_size=4)):
        payload[offset] = byte
    return bytes(payload[: draw(st.integers(SIZE_BYTES, len(payload)))]) + draw(st.binary(max_size=10))


@given(st.data())
def test_whatever_is_decompressed_is_within_its_size_or_refused(data: st.DataObject) -> None:
    payload = data.draw(damaged() | st.binary(min_size=SIZE_BYTES))
    with suppress(FrameError):
        decompressor = Decompressor(Header(1, MessageType.RESPONSE, len(payload)), payload[:SIZE_BYTES])
        left = decompressor.left
        for piece in data.draw(cut(payload[SIZE_BYTES:])):
            plain = decompressor.feed(piece)
            assert left - len(plain) == decompressor.left >= 0
            left = decompressor.left
        assert left == 0
