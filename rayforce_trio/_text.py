"""Text for people: text from elsewhere made safe to print, and numbers with their nouns."""


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


def counted(number: float, noun: str, plural: str = "") -> str:
    """Return a number with its noun, such as `1 row` or `2.5 seconds`. The default plural is the noun with an s."""
    shown = number if isinstance(number, int) else f"{number:g}"
    return f"{shown} {noun if number == 1 else plural or noun + 's'}"
