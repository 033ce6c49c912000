"""Text from elsewhere (a database, a manifest, another program) as it may be shown."""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Mapping


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


def human(value: object) -> str:
    """A number as a person reads it, to three or four digits; "" for nothing.

    >>> human(1_052_672), human(12345), human(1234), human(0.98765), human(None)
    ('1.05 M', '12.3 k', '1,234', '0.9877', '')
    """
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if math.isnan(value):
        return ""
    size = abs(value)
    for scale, unit in _SCALES:
        if size >= max(scale, 10_000) and math.isfinite(size):
            return f"{float(f'{value / scale:.3g}'):g} {unit}"
    return f"{value:,.5g}" if size >= 1000 else f"{value:.4g}"


def facts(title: object, named: Mapping[str, object]) -> str:
    """A small HTML table of names and values for a notebook, escaped."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{html.escape(printable(name))}</th>"
        f"<td style='text-align:left'>{html.escape(printable(value))}</td></tr>"
        for name, value in named.items()
    )
    return f"<div class=nas><b>{html.escape(printable(title))}</b><table>{rows}</table></div>"


_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
