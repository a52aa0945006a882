"""The types of the values of `-p NAME=VALUE`."""

from argparse import ArgumentTypeError
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from rayforce_trio._cli._console import UsageError
from rayforce_trio._cli._parameters import parameter, parameters


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("200", 200),
        ("-5", -5),
        ("2.5", 2.5),
        ("1e3", 1000.0),
        ("true", True),
        ("false", False),
        ("null", None),
        ("AAPL", "AAPL"),
        ("a=b", "a=b"),
        ("", ""),
        ('"200"', "200"),
        ('"2024-01-31"', "2024-01-31"),
        ("007", "007"),
        ("1_000", "1_000"),
        ("NaN", "NaN"),
        ("[1, 2.5, null]", [1, 2.5, None]),
        ('["a", "b"]', ["a", "b"]),
        ('{"a": 1}', {"a": 1}),
        ("2024-01-31", date(2024, 1, 31)),
        ("09:30", time(9, 30)),
        ("09:30:01.5", time(9, 30, 1, 500_000)),
        ("2024-01-31T09:30", datetime(2024, 1, 31, 9, 30)),  # noqa: DTZ001 - as it was written
        ("2024-01-31 09:30:01.123456Z", datetime(2024, 1, 31, 9, 30, 1, 123456, UTC)),
        ("2024-01-31T09:30:01+02:00", datetime(2024, 1, 31, 9, 30, 1, tzinfo=timezone(timedelta(hours=2)))),
        ("2024-01-31T09:30:01.123456789Z", np.datetime64("2024-01-31T09:30:01.123456789")),
        ("2024-01-31T09:30:01.1234567+02:00", np.datetime64("2024-01-31T07:30:01.123456700")),
    ],
)
def test_a_value(text: str, value: Any) -> None:
    name, parsed = parameter(f"low={text}")
    assert (name, parsed) == ("low", value)
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("low", "'low' is not of the form NAME=VALUE"),
        ("=5", "'=5' is not of the form NAME=VALUE"),
        ("a b=5", "'a b' cannot be the name of a parameter; use letters, digits and underscores"),
        ("2low=5", "'2low' cannot be the name of a parameter"),
        ("low=9223372036854775808", "low=9223372036854775808: the number is outside the 64-bit range"),
        ("low=[1", "low=[1: "),
        ('low="a', 'low="a: '),
        ("low=2024-02-30", "low=2024-02-30: day is out of range for month"),
        ("low=25:00", "low=25:00: hour must be in 0..23"),
        (
            "low=1500-01-01T00:00:00.123456789",
            "low=1500-01-01T00:00:00.123456789: a timestamp with nanoseconds",
        ),
    ],
)
def test_an_invalid_value_is_refused(text: str, says: str) -> None:
    with pytest.raises(ArgumentTypeError) as refused:
        parameter(text)
    assert str(refused.value).startswith(says)


def test_a_name_that_comes_twice_is_refused() -> None:
    assert parameters([("a", 1), ("b", 2)]) == {"a": 1, "b": 2}
    with pytest.raises(UsageError, match=r"^the parameter a is given twice$"):
        parameters([("a", 1), ("a", 2)])
