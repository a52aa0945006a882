"""Text from elsewhere, made safe to print."""


def escape_controls(text: str, *, keep: str = "") -> str:
    r"""Return a text in which control characters, such as ESC, are escapes, such as `\x1b`.

    A terminal would obey the characters, and line breaks would forge lines of a log.

    Args:
        text: the text.
        keep: characters that are not escaped.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)
