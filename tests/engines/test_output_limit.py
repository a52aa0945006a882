"""The limit on the lines that others can cause in a log."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayforce_trio._engines._output_limit import OutputLimit


@pytest.mark.parametrize(
    ("times", "allowed", "left_out", "report_due"),
    [
        ([], [], 0, math.inf),
        ([5.0, 5.0, 5.0], [True, True, True], 0, math.inf),
        ([5.0, 5.0, 5.0, 5.0, 14.9], [True, True, True, False, False], 2, 15.0),
        ([5.0, 14.0, 14.0, 14.0, 15.0], [True, True, True, False, True], 1, 15.0),
        ([0.0, 0.0, 0.0, 90.0, 90.0, 90.0, 90.0], [True] * 6 + [False], 1, 100.0),
        ([0.0, 0.0, 0.0, 1.0, 90.0, 90.0, 90.0, 95.0], [True] * 3 + [False] + [True] * 3 + [False], 2, 10.0),
    ],
    ids=["nothing", "within", "beyond", "the period begins with a line", "a later period", "not reported"],
)
def test_lines_beyond_the_number_for_a_period_are_left_out(
    times: list[float], allowed: list[bool], left_out: int, report_due: float
) -> None:
    limit = OutputLimit(3, 10.0)
    assert [limit.allow(now) for now in times] == allowed
    assert limit.report_due == report_due
    assert limit.take_left_out() == left_out
    assert limit.report_due == math.inf
    assert limit.take_left_out() == 0


def test_bytes_beyond_the_number_for_a_period_are_left_out() -> None:
    limit = OutputLimit(5, 10.0, size=100)
    assert [limit.allow(0.0, size) for size in (60, 30, 30, 1, 1)] == [True, True, True, False, False]
    assert limit.take_left_out() == 2
    assert [limit.allow(10.0, 1) for _ in range(6)] == [True] * 5 + [False]


@given(st.lists(st.tuples(st.floats(0, 30), st.booleans()), max_size=50))
def test_every_line_is_logged_or_counted_and_no_period_has_more_than_its_number(
    steps: list[tuple[float, bool]],
) -> None:
    limit = OutputLimit(3, 10.0)
    now, logged, reported = 0.0, list[float](), 0
    for wait, report in steps:
        now += wait
        if limit.allow(now):
            logged.append(now)
        if report:
            reported += limit.take_left_out()
    assert len(logged) + reported + limit.take_left_out() == len(steps)
    # Two periods meet at most, so any ten seconds hold at most twice the number.
    assert all(later - first >= 10.0 - 1e-6 for first, later in zip(logged, logged[6:], strict=False))
