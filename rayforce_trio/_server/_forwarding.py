"""The headers in which proxies report the addresses of their clients: `X-Forwarded-For`, `Forwarded` (RFC 7239).

Each proxy appends the address of its own client. So the value is read from the right: a client can write anything to
the left of the addresses that proxies append, and this must not change how those are read.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address

_OWS = " \t"
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PAIR = re.compile(rf'({_TOKEN})=(?:({_TOKEN})|"((?:[^"\\]|\\.)*)")', re.DOTALL)
_NODE = re.compile(r"(?:\[([^]]*)\]|([^:\[\]]*))(?::(\d{1,5}|_[0-9A-Za-z._-]+))?", re.ASCII)
_OBFUSCATED = re.compile(r"_[0-9A-Za-z._-]+", re.ASCII)
_SHOWN = 100  # characters of a malformed element in an error


class ForwardingHeader(Enum):
    """A header in which proxies report the addresses of their clients. The value is its name."""

    X_FORWARDED_FOR = "X-Forwarded-For"
    FORWARDED = "Forwarded"


class MalformedElement(ValueError):
    """An element of the header is not valid. The text is a part of a sentence."""


@dataclass(frozen=True, slots=True)
class Hop:
    """The client of a proxy: its IP address, and its port if the proxy has reported it."""

    address: str
    port: int | None = None


def hops_of(header: ForwardingHeader, value: str) -> Iterator[Hop | None]:
    """Yield the hops in a header from the right: first the client of the last proxy. `None`: the proxy hides it.

    Takes time in proportion to the length of the part that is read.

    Args:
        value: the value of the header. The values of several header lines are joined by commas, in their order.

    Raises:
        MalformedElement: the next element is not valid.
    """
    is_quoting = header is ForwardingHeader.FORWARDED
    end = len(value)
    while end >= 0:
        start = _start_of_element(value, end) if is_quoting else value.rfind(",", 0, end) + 1
        element = value[start:end].strip(_OWS)
        end = start - 1
        if element:  # a list may have empty elements
            yield _forwarded_hop(element) if is_quoting else _hop(element)


def _start_of_element(value: str, end: int) -> int:
    """Return where the last element before `end` starts: behind a comma that is not in a quoted string."""
    quoted = False
    index = end
    while index:
        index -= 1
        character = value[index]
        if character == '"' and not (quoted and _is_escaped(value, index)):
            quoted = not quoted
        elif character == "," and not quoted:
            return index + 1
    return 0


def _is_escaped(value: str, index: int) -> bool:
    """Return whether an odd number of backslashes precedes a character."""
    first = index
    while first and value[first - 1] == "\\":
        first -= 1
    return (index - first) % 2 == 1


def _forwarded_hop(element: str) -> Hop | None:
    """Return the hop in an element such as `for="[2001:db8::7]:4711";proto=https`."""
    node: str | None = None
    rest = element
    while rest:
        found = _PAIR.match(rest)
        if found is not None:
            name, plain, quoted = found.groups()
            if name.lower() == "for":
                if node is not None:
                    raise _malformed(element)
                node = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
            rest = rest[found.end() :].lstrip(_OWS)
        if rest and not rest.startswith(";"):
            raise _malformed(element)
        rest = rest[1:].lstrip(_OWS)
    return None if node is None else _hop(node)


def _hop(node: str) -> Hop | None:
    """Return the hop for a node: an address with or without a port, `unknown`, or a name that begins with `_`."""
    try:
        return Hop(str(ip_address(_without_scope(node))))  # an IPv6 address may have no brackets, if it has no port
    except ValueError:
        pass
    found = _NODE.fullmatch(node)
    if found is None:
        raise _malformed(node)
    bracketed, name, port = found.groups()
    number = int(port) if port is not None and port.isdigit() else None
    if number is not None and number > 65535:
        raise _malformed(node)
    if bracketed is None and (name.lower() == "unknown" or _OBFUSCATED.fullmatch(name)):
        return None
    try:
        address = ip_address(_without_scope(name if bracketed is None else bracketed))
    except ValueError:
        raise _malformed(node) from None
    if (address.version == 6) is not (bracketed is not None):
        raise _malformed(node)
    return Hop(str(address), number)


def _without_scope(text: str) -> str:
    if "%" in text:
        raise ValueError("the zone of an IPv6 address is only valid on its own machine")
    return text


def _malformed(text: str) -> MalformedElement:
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return MalformedElement(f"{shown!a} is not an IP address")
