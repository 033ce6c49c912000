"""Scalars of numpy and torch as Python's numbers, and values as a sentence shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_LONGEST = 80


def plain_scalar(value: Any) -> Any:
    """The bool, int, float or str in a scalar of numpy's, or in an array or tensor without dimensions; others as they are.

    The value is exact: `np.float32(0.1)` is 0.10000000149011612, which is not 0.1.

    >>> import numpy as np
    >>> plain_scalar(np.int64(8)), plain_scalar(np.float32(0.5)), plain_scalar("8")
    (8, 0.5, '8')
    """
    if type(value) in (bool, int, float, str) or getattr(value, "ndim", None) != 0 or not hasattr(value, "item"):
        return value
    try:
        found = value.item()
    except (RuntimeError, TypeError, ValueError):  # a tensor on the meta device holds no number
        return value
    if type(found) in (bool, int, float, str):
        return found
    # np.longdouble is its own item; dates, complex and structured values are none of ours.
    return float(found) if type(found).__name__ == "longdouble" else value


def is_number(value: Any) -> bool:
    """Whether `value` is an int or a float, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def shown(value: Any) -> str:
    """`value` for a sentence: as Python writes it, cut, where that says something; else what it is."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    value = plain_scalar(value)
    if not (value is None or isinstance(value, bool | int | float | str | bytes | list | tuple | dict | set | Path)):
        name = type(value).__name__
        return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
    try:
        text = repr(value)
    except Exception:  # of what is in a list; or an int of more digits than Python writes
        text = f"a {type(value).__name__}"
        if isinstance(value, int):
            text = f"{'-' * (value < 0)}2**{value.bit_length() - 1} or more"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
