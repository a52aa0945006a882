"""Generators that do their work in steps."""

import itertools
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")


def counted(steps: Generator[None, None, T]) -> tuple[int, T]:
    """Take all steps; return their number and the result."""
    for number in itertools.count(1):
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return number, result
    raise AssertionError
