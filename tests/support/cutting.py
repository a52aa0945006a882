"""Bytes cut into pieces, as a network cuts them."""

from itertools import pairwise

from hypothesis import strategies as st


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Draw a way to cut `data`: anywhere, some pieces perhaps empty, or each byte for itself."""
    inside = st.integers(0, len(data))
    each_byte = st.just(list(range(min(len(data), 200))))
    points = sorted(draw(st.lists(inside, max_size=20) | each_byte))
    return [data[start:end] for start, end in pairwise([0, *points, len(data)])]
