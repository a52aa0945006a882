"""Show signatures as a reader of the API needs them: public names, and no constructors of what users do not construct.

A signature that shows a private name is a warning, and so is a public name that no page documents.
"""

import re
from typing import Any

from docutils import nodes
from numpy.typing import NDArray
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.typing import stringify_annotation

import rayforce_trio
from rayforce_trio import auth, errors, prometheus, statistics

MODULES = (rayforce_trio, auth, errors, prometheus, statistics)

RETURNED = {
    "ArrowStream",
    "Batches",
    "ClientConnectionState",
    "Columns",
    "Connections",
    "Engine",
    "Histogram",
    "Nursery",
    "PendingConnection",
    "Posts",
    "Requests",
    "SQL",
    "StateChanges",
    "Statistics",
    "Streams",
    "Subscription",
    "Topic",
    "Update",
    "VerboseResult",
    "WSClientConnection",
    "WSServerConnection",
    *errors.__all__,
}
"""The classes that users do not construct: functions return them, or they are protocols, enums or errors."""

ALIASES = {
    stringify_annotation(rayforce_trio.Query, "smart"): "~rayforce_trio.Query",
    stringify_annotation(rayforce_trio.TabularData, "smart"): "~rayforce_trio.TabularData",
    stringify_annotation(rayforce_trio.Progress, "smart"): "~rayforce_trio.Progress",
    stringify_annotation(NDArray[Any], "smart"): "~numpy.ndarray",
    "params: ~collections.abc.Mapping[str, ~typing.Any]": "params: ~rayforce_trio.Parameters",
    "unix_mode: int = 384": "unix_mode: int = 0o600",
    "~rayforce_trio.prometheus.Server": "~rayforce_trio.WSServer",
}
"""The types that have a name, by their text in a signature."""

RETURN_TYPES = {
    "call": "~rayforce_trio.Value",
    "execute": "~rayforce_trio.Value",
    "to_arrow": "~pyarrow.Table",
    "to_pandas": "~pandas.DataFrame",
    "to_polars": "~polars.DataFrame",
}
"""What methods return that are annotated with `Any`, because the library is optional or the type depends on a query."""

UNITS = {1024**3: "1024**3", 1024**2: "1024**2"}

logger = logging.getLogger(__name__)


def shown_signature(
    _app: Sphinx, what: str, name: str, _obj: object, _options: object, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Return the arguments and the returned type to show for an object."""
    last = name.rpartition(".")[2]
    if what in ("class", "exception") and last in RETURNED:
        return ("", None) if signature else (signature, returned)
    if last == "__aexit__":
        return "(exc_type, exc, traceback)", returned
    signature, returned = (None if text is None else with_aliases(text) for text in (signature, returned))
    returned = RETURN_TYPES.get(last, returned)
    shown = re.sub(r"~[\w.]+\.", "", f"{signature}{returned}")  # without the modules, as on the page
    if private := re.search(r"\b_\w+", shown):
        logger.warning("the signature of %s shows the private name %s", name, private[0])
    return signature, returned


def with_aliases(text: str) -> str:
    """Return a part of a signature with the names of types, and with sizes as multiples of 1024**2 or 1024**3."""
    for expanded, alias in ALIASES.items():
        text = text.replace(expanded, alias)
    return re.sub(r"(?<== )\d+", lambda found: readable(int(found[0])), text)


def readable(number: int) -> str:
    for unit, name in UNITS.items():
        if number and number % unit == 0:
            return name if number == unit else f"{number // unit} * {name}"
    return str(number)


def move_types_of_attributes(
    _app: Sphinx, _what: str, _name: str, _obj: object, _options: object, lines: list[str]
) -> None:
    """Make the types of attributes, which napoleon writes below their descriptions, parts of their signatures."""
    attribute = None
    for at, line in enumerate(lines):
        if line.startswith(".. attribute:: "):
            attribute = at
        elif attribute is not None and line.startswith("   :type: "):
            lines[at] = ""
            lines.insert(attribute + 1, re.sub(r"(?<![\w.~])(?=\w+\.\w)", "~", line))  # shown without modules


def resolve_short_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.Element
) -> nodes.Element | None:
    """Resolve the name of a public class that a docstring or a signature uses without its module."""
    module, _, name = node["reftarget"].rpartition(".")
    if node["refdomain"] != "py" or module.partition(".")[0] not in ("", "rayforce_trio"):
        return None
    domain = env.domains.python_domain
    for target in (f"{one.__name__}.{name}" for one in MODULES if name in one.__all__):
        if target in domain.objects:
            return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, contnode)
    return None


def check_that_all_is_documented(_app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of public names that no page documents, other than modules and the classes of rayforce-py."""
    for module in MODULES:
        for name in set(module.__all__) - {"__version__"}:
            value = getattr(module, name)
            is_ours = value not in MODULES and not getattr(value, "__module__", "").startswith("rayforce.")
            if is_ours and f"{module.__name__}.{name}" not in env.domains.python_domain.objects:
                logger.warning("no page documents %s.%s", module.__name__, name)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-signature", shown_signature)
    app.connect("autodoc-process-docstring", move_types_of_attributes, priority=900)
    app.connect("missing-reference", resolve_short_name)
    app.connect("env-check-consistency", check_that_all_is_documented)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
