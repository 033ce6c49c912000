"""Text from elsewhere (a database, a manifest, another program) as it may be shown."""

from __future__ import annotations

import unicodedata


def printable(text: object, keep: str = "") -> str:
    r"""`text` without characters that a terminal obeys or that reorder what is read, which are written as escapes.

    Control characters (C0 with ESC, C1), format characters (bidirectional overrides, zero-width ones), line separators and
    lone surrogates; letters and signs of every script, and spaces, stay.

    Args:
        text: anything; its `str`.
        keep: control characters that stay, as a line feed in text of several lines.

    >>> printable("red \x1b[31m, \u202e reversed")
    'red \\x1b[31m, \\u202e reversed'
    """
    said = str(text)
    if said.isprintable():
        return said
    return "".join(
        letter if letter.isprintable() or letter in keep or unicodedata.category(letter) == "Zs" else _escape(letter)
        for letter in said
    )


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
