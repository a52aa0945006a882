"""What a peer sends, read whole and in pieces, by our connection and by two other readers, who must agree."""

from collections.abc import Iterator
from itertools import pairwise
from random import Random

from fuzzing.frames import stream
from fuzzing.readers import Heard, Said, by_us, by_websockets, by_wsproto
from rayforce_trio._websocket._connection import MAX_PONGS

_SETTINGS = 4  # bytes: who sends and how it is received; limits; a seed for the cuts
_WIDE = 1 << 22
_LIMITS = [(_WIDE, _WIDE)] * 4 + [(_WIDE, 20), (300, _WIDE), (1024, 100), (0, 0)]
_OF_LIMITS = (1008, 1009)  # codes; the others know no limits
_MORE = bytes(16)


def make(random: Random) -> bytes:
    """Return an input: settings, and frames."""
    settings = random.randbytes(_SETTINGS)
    return settings + stream(random, masking=bool(settings[0] & 1))


def check(data: bytes) -> None:
    """Raise what our connection must not raise, or an `AssertionError` if it misreads or answers wrongly."""
    settings, said = data[:_SETTINGS].ljust(_SETTINGS, b"\0"), data[_SETTINGS:]
    masking = bool(settings[0] & 1)
    max_message_size, max_text_size = _LIMITS[settings[1] % len(_LIMITS)]

    def hear(pieces: list[bytes], *, room: bool) -> Heard:
        return by_us(pieces, masking=masking, max_message_size=max_message_size, max_text_size=max_text_size, room=room)

    whole = hear([said], room=False)
    pieces = list(cut(said, int.from_bytes(settings[2:4], "little")))
    in_pieces = hear(pieces, room=bool(settings[0] & 2))
    assert in_pieces.said == whole.said, f"heard in pieces: {in_pieces}; whole: {whole}"
    if {in_pieces.verdict, whole.verdict} != {1007, 1009}:  # a text too long, with an error in it later
        assert in_pieces.verdict == whole.verdict, f"heard in pieces: {in_pieces}; whole: {whole}"
    for said_so in whole.said:
        if said_so[0] in ("binary", "text"):
            assert len(said_so[1]) <= (max_text_size if said_so[0] == "text" else max_message_size)
    _check_answer(whole, masking=masking)
    _compare_with_wsproto(whole, said, masking=masking)
    if settings[0] & 12 == 0:  # it is slow
        _compare_with_websockets(whole, by_websockets(said, masking=masking))


def cut(data: bytes, seed: int) -> Iterator[bytes]:
    """Cut `data`: not at all, each byte for itself, or somewhere."""
    if seed % 8 == 0 and len(data) < 500:
        yield from (data[at : at + 1] for at in range(len(data)))
        return
    random = Random(seed)
    points = sorted(random.randint(0, len(data)) for _ in range(random.randint(0, 6)))
    yield from (data[start:end] for start, end in pairwise([0, *points, len(data)]))


def _check_answer(ours: Heard, *, masking: bool) -> None:
    """Check that the latest pings were answered, unless the peer ended the connection, and that a close followed."""
    expected: list[Said] = [("close", "", 1000)]
    if ours.verdict is None and not (ours.said and ours.said[-1][0] == "close"):
        expected[:0] = [("pong", said[1]) for said in ours.said if said[0] == "ping"][-MAX_PONGS:]
    answer = by_wsproto(ours.answer, masking=not masking)
    assert answer.verdict is None, f"ours: {ours}; our answer: {answer}"
    assert answer.said == expected, f"ours: {ours}; our answer: {answer}"


def _compare_with_wsproto(ours: Heard, said: bytes, *, masking: bool) -> None:
    theirs = by_wsproto(said, masking=masking)
    if ours.verdict in _OF_LIMITS:
        assert ours.said == theirs.said[: len(ours.said)], f"ours: {ours}; wsproto: {theirs}"
        return
    if ours.verdict == 1007 and (len(theirs.said) > len(ours.said) or theirs.verdict != 1007):
        # Half a surrogate: it waits for the other half, and hears what else is there.
        assert ours.said == theirs.said[: len(ours.said)], f"ours: {ours}; wsproto: {theirs}"
        late = {said_so[0] for said_so in theirs.said[len(ours.said) :]}
        assert not late & {"text", "binary"}, f"ours: {ours}; wsproto: {theirs}"
        return
    if "unknown reserved code" in theirs.why and _has_late_code(ours):
        return
    assert ours.said == theirs.said, f"ours: {ours}; wsproto: {theirs}"
    if ours.verdict is not None and theirs.verdict is None:
        theirs = by_wsproto(said + _MORE, masking=masking)  # it waits for the rest of a header
    assert ours.verdict == theirs.verdict, f"ours: {ours}; wsproto: {theirs}"


def _has_late_code(ours: Heard) -> bool:
    """Whether it may be the close code 1014, which was registered after wsproto's list was made."""
    if ours.verdict is None:
        return bool(ours.said) and ours.said[-1][0] == "close" and ours.said[-1][-1] == 1014
    return ours.verdict == 1007  # of the reason beside it


def _compare_with_websockets(ours: Heard, theirs: Heard) -> None:
    """Compare with a reader that lets lengths in a longer form pass, and judges a frame when all of it is there."""
    length = min(len(ours.said), len(theirs.said))
    assert ours.said[:length] == theirs.said[:length], f"ours: {ours}; websockets: {theirs}"
    if len(theirs.said) > length:
        early = ours.verdict in (1007, *_OF_LIMITS) or "shortest form" in ours.why or "control frame" in ours.why
        assert early, f"ours: {ours}; websockets: {theirs}"
    elif len(ours.said) > length:
        # Of a close frame within a message it takes offence.
        assert len(ours.said) == length + 1, f"ours: {ours}; websockets: {theirs}"
        assert "incomplete fragmented message" in theirs.why, f"ours: {ours}; websockets: {theirs}"
    elif theirs.verdict is not None:
        assert ours.verdict is not None, f"ours: {ours}; websockets: {theirs}"
