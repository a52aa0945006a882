"""Options that several commands share, and the types of options: sizes, seconds and limits."""

import math
import re
from argparse import ArgumentParser, ArgumentTypeError
from typing import Literal, NoReturn

from .._protocol import topic_problem

EXAMPLES = "examples:"
"""How the examples at the end of a command's help begin; their lines are kept."""

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8765

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


def examples(*commands: str) -> str:
    """Return the end of a command's help."""
    return "\n".join([EXAMPLES, *(f"  rayforce-trio {command}" for command in commands)])


def add_timeout(parser: ArgumentParser) -> None:
    """Add `--timeout` to a command that makes one connection."""
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds,
        help="give up after this many seconds, connecting included; default: no limit",
    )


def add_topic(parser: ArgumentParser) -> None:
    """Add the topic of a command that subscribes or publishes."""
    parser.add_argument("topic", metavar="TOPIC", type=topic, help="the name of the topic")


def topic(text: str) -> str:
    """Check a topic.

    Raises:
        ArgumentTypeError: this cannot be a topic.
    """
    if problem := topic_problem(text):
        raise ArgumentTypeError(f"{text[:100]!r} {problem}")
    return text


def count(text: str) -> int:
    """Parse a number above 0.

    Raises:
        ArgumentTypeError: the text is no such number.
    """
    if not (text.isascii() and text.isdigit() and int(text)):
        _refuse(text, "not a whole number above 0")
    return int(text)


def size(text: str) -> int:
    """Parse a number of bytes, such as `65536`, `64K`, `64M` or `1G`.

    Raises:
        ArgumentTypeError: the text is not a size.
    """
    found = re.fullmatch(r"(\d+)([KMG]?)", text, re.ASCII | re.IGNORECASE)
    if found is None:
        raise ArgumentTypeError(f"{text!r} is not a size; write 65536, 64K, 64M or 1G, for example")
    return int(found[1]) * _UNITS[found[2].upper()]


def size_limit(text: str) -> int | None:
    """Parse a number of bytes as `size`, or 0, which means no limit and is returned as `None`. Raises as `size`."""
    return size(text) or None


def size_text(number: int) -> str:
    """Return a number of bytes as `size` parses it, with the largest unit that divides it."""
    unit = next(unit for unit in reversed(_UNITS) if number % _UNITS[unit] == 0)
    return f"{number // _UNITS[unit]}{unit}"


def file_mode(text: str) -> int:
    """Parse the permissions of a file in octal, such as `660`.

    Raises:
        ArgumentTypeError: the text is no such number.
    """
    if not re.fullmatch("0?[0-7]{3}", text):
        _refuse(text, "not the permissions of a file; write 660, for example")
    return int(text, 8)


def query_timeout(text: str) -> float | Literal["auto"] | None:
    """Parse a number of seconds, `auto`, or 0, which means no limit and is returned as `None`.

    Raises:
        ArgumentTypeError: the text has another form.
    """
    return stop_timeout(text) or None


def stop_timeout(text: str) -> float | Literal["auto"]:
    """Parse a number of seconds, `auto`, or 0.

    Raises:
        ArgumentTypeError: the text has another form.
    """
    return "auto" if text == "auto" else _number(text, "not a number of seconds, 0 or auto")


def drain_timeout(text: str) -> float:
    """Parse a number of seconds, which may be 0.

    Raises:
        ArgumentTypeError: the text is not a number, or the number is negative or infinite.
    """
    return _number(text, "not 0 or a positive number of seconds")


def seconds(text: str) -> float:
    """Parse a positive number of seconds.

    Raises:
        ArgumentTypeError: the text is not a number, or the number is not positive or infinite.
    """
    reason = "not a positive number of seconds"
    return _number(text, reason) or _refuse(text, reason)


def limit(text: str) -> int | None:
    """Parse a positive integer, or 0, which means no limit and is returned as `None`.

    Raises:
        ArgumentTypeError: the text is neither.
    """
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        _refuse(text, "not a limit; write a number, or 0 for no limit")
    return int(text) or None


def _number(text: str, reason: str) -> float:
    """Parse a finite number that is not negative."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    return value if 0 <= value < math.inf else _refuse(text, reason)


def _refuse(text: str, reason: str) -> NoReturn:
    raise ArgumentTypeError(f"{text!r} is {reason}")
