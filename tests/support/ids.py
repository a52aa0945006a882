"""Names of parametrized tests."""

import re


def steady_repr(value: object) -> str:
    """Return the `repr` of a parameter without addresses in memory: all test processes must agree on the name."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
